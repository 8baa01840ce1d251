"""Tests of the architecture on the sources.

Imports run one way and without cycles; the model and the motion import no ROS.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "sf_msgs",
    "sf_policy_node",
    "sf_training",
    "sf_bringup",
)  # each may import those before it
LINES_MAX = 500
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "tools"}

# Prefix of a module -> forbidden imports, in function bodies too.
FORBIDDEN = {
    "sf_policy_node.vla": ("ros",),
    "sf_policy_node.motion": ("ros", "torch", "transformers"),
    "sf_policy_node.controller": ("ros", "torch", "transformers"),
    "sf_policy_node.contract": ("ros", "torch"),
    "sf_policy_node.perception": ("ros", "torch", "transformers"),
    "sf_policy_node.session": ("ros", "torch", "transformers"),
    "sf_policy_node.nodes": ("torch", "transformers"),
    "sf_training.simulation": ("ros",),
    "sf_training.spatial_forcing": ("ros",),
    "sf_training.training": ("ros",),
    "sf_training.data": ("ros",),
    "sf_training.lint": ("ros", "torch"),
    "sf_training.lerobot": ("ros", "torch"),
    "sf_training.view": ("ros", "torch"),
    "sf_training.evaluation": ("ros",),
}


def sources() -> dict[str, Path]:
    """Map the name of every module of the Python packages to its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package / package).rglob("*.py")):
            parts = path.relative_to(ROOT / package).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path, module: str) -> frozenset[str]:
    """Return the full names of all modules that a file imports, anywhere in it.

    Relative names are resolved.
    """
    names = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(names)


def is_ros(name: str) -> bool:
    """Return whether a module belongs to a running ROS 2 or contains messages.

    The lookup of share folders (ament_index) may be used anywhere.
    """
    top = name.partition(".")[0]
    return top.startswith(
        ("rclpy", "rosidl", "launch", "tf2", "builtin_interfaces", "std_srvs")
    ) or top.endswith(("_msgs", "_interfaces"))


def breaks(name: str, rule: str) -> bool:
    """Return whether a rule forbids an imported name."""
    return is_ros(name) if rule == "ros" else name.partition(".")[0] == rule


MODULES = sources()


def test_there_are_sources():
    assert {name.partition(".")[0] for name in MODULES} == set(PACKAGES) - {"sf_msgs"}


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_packages_import_one_way(package):
    later = PACKAGES[PACKAGES.index(package) + 1 :]
    wrong = {
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if module.partition(".")[0] == package
        for name in imports(path, module)
        if name.partition(".")[0] in later
    }
    assert not wrong


@pytest.mark.parametrize("prefix", FORBIDDEN)
def test_forbidden_imports(prefix):
    """A module without ROS must not import ROS through another module of ours."""
    for module in (name for name in MODULES if name == prefix or name.startswith(prefix + ".")):
        seen, open_ends = set(), [(module,)]
        while open_ends:
            chain = open_ends.pop()
            for name in imports(MODULES[chain[-1]], chain[-1]):
                for rule in FORBIDDEN[prefix]:
                    # A node has a policy, and the policy imports torch. Only direct imports count
                    # there.
                    if breaks(name, rule) and (rule == "ros" or len(chain) == 1):
                        pytest.fail(
                            f"{' imports '.join(chain)} imports {name}: {prefix} must stay free of"
                            f" {rule}"
                        )
                if name in MODULES and name not in seen:
                    seen.add(name)
                    open_ends.append((*chain, name))


def import_cycles() -> set[frozenset[str]]:
    """Return sets of modules that import each other, directly or through others.

    These are Tarjan's strongly connected components. Imports in function bodies and for type
    checking count too.
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for name in imports(MODULES[module], module) & MODULES.keys() - {module}:
            if name not in number:
                visit(name)
            if name in stack:
                lowest[module] = min(lowest[module], lowest[name])
        if lowest[module] == number[module]:
            cycle = frozenset(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(cycle) > 1:
                found.add(cycle)

    for module in MODULES:
        if module not in number:
            visit(module)
    return found


def test_no_modules_import_each_other():
    assert not [sorted(cycle) for cycle in import_cycles()]


def test_manifests_name_what_is_imported():
    """package.xml names every ROS package that the sources of its package import."""
    for package in PACKAGES[1:]:
        manifest = (ROOT / package / "package.xml").read_text(encoding="utf-8")
        used = {
            name.partition(".")[0]
            for module, path in MODULES.items()
            if module.partition(".")[0] == package
            for name in imports(path, module)
            if is_ros(name) or name.partition(".")[0] in (*PACKAGES, "ament_index_python")
        }
        missing = {name for name in used - {package} if f">{name}</" not in manifest}
        assert not missing, f"{package}/package.xml lacks {sorted(missing)}"


def test_files_stay_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in (*PACKAGES, "docker", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sh"}
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES_MAX
    }
    assert not long, f"more than {LINES_MAX} lines: {long}"


def test_every_module_is_linted():
    """A pattern such as ``data`` in ruff's settings also excludes packages of that name."""
    command = [sys.executable, "-m", "ruff", "check", "--show-files", str(ROOT)]
    shown = subprocess.run(command, capture_output=True, text=True)
    if "No module named ruff" in shown.stderr:
        pytest.skip("ruff is not installed")
    linted = {Path(line).resolve() for line in shown.stdout.splitlines()}
    assert not {name for name, path in MODULES.items() if path.resolve() not in linted}


def test_names_say_something():
    assert not {name for name in MODULES if name.rpartition(".")[2] in NAMES_THAT_SAY_NOTHING}


def test_test_files_have_names_of_their_own():
    """pytest imports test files by their base name, across all packages."""
    names = [
        path.name
        for package in (*PACKAGES, ".")
        for path in (ROOT / package).glob("test*/test_*.py")
    ]
    assert sorted(names) == sorted(set(names))


def test_installed_scripts_exist():
    """Every console script names a module that is there (the function is checked where the module
    is tested).
    """
    for package in PACKAGES[1:]:
        for node in ast.walk(ast.parse((ROOT / package / "setup.py").read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and " = " in node.value
            ):
                module = node.value.partition(" = ")[2].partition(":")[0]
                assert module in MODULES, f"{package}/setup.py starts {module}, which is not there"
