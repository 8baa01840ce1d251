from pathlib import Path

from setuptools import find_packages, setup


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """All files below the folders, each with its place under share/sf_bringup."""
    files = sorted(
        path
        for folder in folders
        for path in Path(folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
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
        ("share/sf_bringup", ["package.xml", "requirements.txt", "LICENSE"]),
        *shared("launch", "config"),
    ],
    # `colcon test` runs pytest only if it is listed here.
    extras_require={"test": ["pytest", "pytest-timeout", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "sim_arm = sf_bringup.programs:sim_arm",
            "robot_state = sf_bringup.programs:robot_state",
            "markers = sf_bringup.programs:markers",
            "graph = sf_bringup.programs:graph",
            "up = sf_bringup.programs:up",
            "record = sf_bringup.programs:record",
            "teleop = sf_bringup.programs:teleop",
            "new_robot = sf_bringup.programs:new_robot",
            "doctor = sf_bringup.programs:doctor",
            "say = sf_bringup.programs:say",
            "home = sf_bringup.programs:home",
            "emergency_stop = sf_bringup.programs:emergency_stop",
            "demo = sf_bringup.programs:demo",
            "evaluate_over_ros = sf_bringup.programs:evaluate_over_ros",
        ]
    },
)
