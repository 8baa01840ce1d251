from glob import glob

from setuptools import find_packages, setup

setup(
    name="sf_training",
    version="0.1.0",
    description="From demonstrations to a checkpoint",
    license="Apache-2.0",
    maintainer="The sf_ros maintainers",
    maintainer_email="maintainers@sf-ros.example.org",
    packages=find_packages(include=["sf_training", "sf_training.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/sf_training"]),
        ("share/sf_training", ["package.xml", "requirements.txt", "LICENSE"]),
        ("share/sf_training/config/train", sorted(glob("config/train/*.yaml"))),
        ("share/sf_training/config/libero", sorted(glob("config/libero/*.*"))),
    ],
    # `colcon test` runs pytest only if it is listed here.
    extras_require={"test": ["pytest", "pytest-timeout", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "sf_training = sf_training.programs:sf_training",
            "train = sf_training.programs:train",
            "demonstrations = sf_training.programs:demonstrations",
            "evaluate = sf_training.programs:evaluate",
            "report = sf_training.programs:report",
            "recorder = sf_training.programs:recorder",
            "recorder_keys = sf_training.programs:recorder_keys",
            "recorder_joy = sf_training.programs:recorder_joy",
            "teleoperation = sf_training.programs:teleoperation",
            "teleoperation_keys = sf_training.programs:teleoperation_keys",
            "replay = sf_training.programs:replay",
        ]
    },
)
