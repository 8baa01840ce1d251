"""What a package imports is declared: by a rosdep key or a ROS package in package.xml, or in its
requirements.txt.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_architecture import MODULES, PACKAGES, imports

ROOT = Path(__file__).resolve().parents[1]
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
ONLY_TESTS = {"pytest", "hypothesis"}  # of ros_testing.py and hypothesis_profile.py


def manifest(package: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / package / "package.xml").getroot()


def requirements(package: str) -> list[str]:
    lines = (ROOT / package / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [re.split(r"[<>=!~ #]", line)[0] for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_what_is_imported_is_declared(package):
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
def test_what_is_required_is_pinned_for_the_embedded_default(package):
    pinned = (ROOT / "docker/constraints.txt").read_text(encoding="utf-8")
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
    """`colcon test` runs them in a workspace that has the packages and nothing else of this
    repository.
    """
    system = {
        path.stem for path in (ROOT / "tests").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    for package in PYTHON_PACKAGES:
        own = {path.stem for path in (ROOT / package / "test").glob("*.py")}
        for path in (ROOT / package / "test").glob("*.py"):
            assert not {name.partition(".")[0] for name in imports(path, path.stem)} & (
                system - own
            ), path
