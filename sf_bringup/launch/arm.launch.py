"""The run journey under ``ros2 launch``; what is started and with which arguments stands in ``sf_bringup/graph.py``."""

from launch import LaunchDescription

from sf_bringup.graph import ARM_ARGUMENTS, arm_graph
from sf_bringup.launch_actions import describe


def generate_launch_description() -> LaunchDescription:
    """Arguments from the graph, then its nodes."""
    return describe(ARM_ARGUMENTS, arm_graph)
