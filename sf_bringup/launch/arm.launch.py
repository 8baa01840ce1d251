"""The arm journey under ``ros2 launch``; arguments and nodes are listed in
``sf_bringup/journeys.py``.
"""

from launch import LaunchDescription

from sf_bringup.launch_actions import describe


def generate_launch_description() -> LaunchDescription:
    """Return the arguments of the journey, then its nodes."""
    return describe("arm")
