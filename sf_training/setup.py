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
        ("share/sf_training", ["package.xml"]),
        ("share/sf_training/config/train", sorted(glob("config/train/*.yaml"))),
    ],
    entry_points={
        "console_scripts": [
            "sf_training = sf_training.cli:main",
            "train = sf_training.training.train:main",
            "demonstrations = sf_training.simulation.demonstrations:main",
            "evaluate = sf_training.simulation.evaluate:main",
            "report = sf_training.training.report:main",
            "recorder = sf_training.recording.recorder_node:main",
            "recorder_keys = sf_training.recording.keyboard_node:main",
            "recorder_joy = sf_training.recording.joy_node:main",
            "teleoperation = sf_training.teleoperation.teleoperation_node:main",
            "teleoperation_keys = sf_training.teleoperation.keyboard_node:main",
            "replay = sf_training.teleoperation.replay_node:main",
        ],
    },
)
