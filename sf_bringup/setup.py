from pathlib import Path

from setuptools import find_packages, setup


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """All files below the folders, each with its place under share/sf_bringup."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    return [(f"share/sf_bringup/{path.parent}", [str(path)]) for path in files]


setup(
    name="sf_bringup",
    version="0.1.0",
    description="What is started and with which settings",
    license="Apache-2.0",
    maintainer="The sf_ros maintainers",
    maintainer_email="maintainers@sf-ros.example.org",
    packages=find_packages(include=["sf_bringup", "sf_bringup.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/sf_bringup"]),
        ("share/sf_bringup", ["package.xml"]),
        *shared("launch", "config"),
    ],
    entry_points={
        "console_scripts": [
            "sim_arm = sf_bringup.sim_arm:main",
            "up = sf_bringup.up:main",
            "demo = sf_bringup.demo:main",
            "say = sf_bringup.say:main",
            "evaluate_over_ros = sf_bringup.evaluate_over_ros:main",
        ],
    },
)
