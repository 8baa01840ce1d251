"""Tests that packages declare their imports.

A declaration is a rosdep key or a ROS package in package.xml, or a line of requirements.txt.
"""

import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools
from test_architecture import MODULES, PACKAGES, imports

ROOT = Path(__file__).resolve().parents[1]
_TEXTS = (".md", ".py", ".sh")
PYTHON_PACKAGES = PACKAGES[1:]
ROSDEP = {  # key: module
    "python3-matplotlib": "matplotlib",
    "python3-numpy": "numpy",
    "python3-opencv": "cv2",
    "python3-pil": "PIL",
    "python3-psutil": "psutil",
    "python3-rich": "rich",
    "python3-transforms3d": "transforms3d",
    "python3-yaml": "yaml",
}
DISTRIBUTIONS = {
    "pin": "pinocchio",
    "mcap-ros2-support": "mcap_ros2",
}  # name on PyPI: module, where they differ
NEEDS_NEWER = {  # rosdep key: the wheel that works with NumPy 2, which `pin` needs
    "python3-matplotlib": "matplotlib>=3.9",
    "python3-opencv": "opencv-python-headless>=4.10",
    "python3-transforms3d": "transforms3d>=0.4.2",
}
SUBMODULES = {"rosbags.image": "rosbags-image"}  # module: a separate distribution
ONLY_TESTS = {"pytest", "hypothesis"}  # of ros_testing.py and hypothesis_profile.py


def manifest(package: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / package / "package.xml").getroot()


def requirements(package: str) -> list[str]:
    lines = (ROOT / package / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [re.split(r"[<>=!~ #]", line)[0] for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_imports_are_declared(package):
    used = {
        name.partition(".")[0]
        for module, path in MODULES.items()
        if module.partition(".")[0] == package
        for name in imports(path, module)
    }
    keys = {element.text for element in manifest(package) if element.tag.endswith("depend")}
    declared = keys | {ROSDEP[key] for key in keys & set(ROSDEP)}
    declared |= {DISTRIBUTIONS.get(name, name.replace("-", "_")) for name in requirements(package)}
    missing = used - declared - set(sys.stdlib_module_names) - {package} - ONLY_TESTS
    assert not missing, (
        f"add {sorted(missing)} to {package}/package.xml (rosdep) or {package}/requirements.txt"
    )


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_imports_of_tests_are_declared(package):
    """`colcon test` on a user's machine has only what rosdep and requirements.txt install."""
    keys = {element.text for element in manifest(package) if element.tag.endswith("depend")}
    required = {*requirements(package)}
    for before in PYTHON_PACKAGES[: PYTHON_PACKAGES.index(package)]:
        if before in keys:
            required |= set(requirements(before))
    folder = ROOT / package / "test"
    names = {name for path in folder.glob("*.py") for name in imports(path, path.stem)}
    for module, distribution in SUBMODULES.items():
        assert module not in names or distribution in required


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_packages_compiled_for_numpy_1_are_required_again(package):
    """Ubuntu 24.04's OpenCV, Matplotlib, transforms3d and SciPy fail with NumPy 2.

    A virtual environment with system site packages has both.
    """
    lines = (ROOT / package / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {line.partition("#")[0].strip() for line in lines}
    assert {line.split(">=")[0] for line in required} >= {"pin"}
    if "transformers>=5.0" in required:  # imports SciPy, which Ubuntu's Matplotlib brings
        assert "scipy>=1.13" in required
    keys = {element.text for element in manifest(package) if element.tag == "exec_depend"}
    assert required >= {NEEDS_NEWER[key] for key in keys & set(NEEDS_NEWER)}


def test_the_installation_page_installs_every_requirements_file():
    """An installed ROS 2 needs all of them except the wheels and the documentation."""
    page = (ROOT / "sf_bringup/doc/install.md").read_text(encoding="utf-8")
    for path in (ROOT / "docker").glob("requirements-*.txt"):
        is_needed = path.stem.removeprefix("requirements-") not in (
            "docs",
            "installed-ros",  # named in requirements.txt of the packages
            "ros-kilted",
            "ros-jazzy",
        )
        assert not is_needed or f"docker/{path.name}" in page
    assert f"for package in {' '.join(PYTHON_PACKAGES)};" in page


def test_commands_keep_the_paths_of_the_workspace():
    """`PYTHONPATH=tests` alone would hide what `source docker/env.sh` has put on the path."""
    folders = [ROOT / name for name in (*PACKAGES, "tests", "docker")]
    ours = [each for folder in folders for each in folder.rglob("*") if each.suffix in _TEXTS]
    ours += [*ROOT.glob("*.md"), ROOT / "Makefile"]
    command = re.compile(r"PYTHONPATH=tests[\s`]")
    assert len(ours) > 500
    wrong = [path.name for path in ours if command.search(path.read_text(encoding="utf-8"))]
    assert wrong == [Path(__file__).name]  # the docstring of this test


def test_the_bootstrap_installs_every_requirements_file():
    script = (ROOT / "docker/bootstrap.sh").read_text(encoding="utf-8")
    for path in (ROOT / "docker").glob("requirements*.txt"):
        name = re.sub("-ros-(jazzy|kilted)", "-ros-$wheels", path.name)
        assert f'"$here/{name}"' in script or "docs" in name


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_requirements_are_pinned_for_the_embedded_default(package):
    pinned = "".join(
        (ROOT / "docker" / name).read_text(encoding="utf-8")
        for name in ("constraints.txt", "requirements-installed-ros.txt")
    )
    assert not [name for name in requirements(package) if f"\n{name}==" not in pinned]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_complete(package):
    root = manifest(package)
    assert root.find("license").get("file") == "LICENSE"
    assert (ROOT / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    version = root.findtext("version")
    if package in PYTHON_PACKAGES:
        assert f'version="{version}"' in (ROOT / package / "setup.py").read_text(encoding="utf-8")
    for name in ("README.md", "CHANGELOG.rst"):
        assert package in (ROOT / package / name).read_text(encoding="utf-8")
    assert len({manifest(other).findtext("version") for other in PACKAGES}) == 1


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_rosdep_keys_are_known(package):
    """A misspelt key would stop `rosdep install` on the user's machine."""
    keys = {
        element.text
        for element in manifest(package)
        if element.tag == "exec_depend" and element.text.startswith("python3-")
    }
    assert keys <= set(ROSDEP)


def test_tests_of_a_package_need_no_other_folder():
    """`colcon test` runs them in a workspace with the packages alone."""
    system = {
        path.stem for path in (ROOT / "tests").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    for package in PYTHON_PACKAGES:
        own = {path.stem for path in (ROOT / package / "test").glob("*.py")}
        for path in (ROOT / package / "test").glob("*.py"):
            assert not {name.partition(".")[0] for name in imports(path, path.stem)} & (
                system - own
            ), path


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_a_package_used_from_its_sources_can_be_rebuilt(package, tmp_path, monkeypatch):
    """Python leaves `__pycache__` beside the shared files; setuptools cannot copy a folder."""
    copy = shutil.copytree(
        ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("policies", "__pycache__")
    )
    for folder in [path for path in copy.rglob("*") if path.is_dir()]:
        (folder / "__pycache__").mkdir()
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keys: given.update(keys))
    monkeypatch.chdir(copy)
    exec(compile((copy / "setup.py").read_text(), "setup.py", "exec"), {"__name__": "__main__"})
    shared = [path for _, paths in given["data_files"] for path in paths]
    assert shared and all((copy / path).is_file() for path in shared)
