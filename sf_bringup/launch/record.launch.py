"""The record journey under ``ros2 launch``; what is started and with which arguments stands in ``sf_bringup/graph.py``.

``ros2 run sf_training recorder_keys`` in another terminal shows the streams and takes the keys.
"""

from launch import LaunchDescription

from sf_bringup.graph import RECORD_ARGUMENTS, record_graph
from sf_bringup.launch_actions import describe


def generate_launch_description() -> LaunchDescription:
    """Arguments from the graph, then its nodes."""
    return describe(RECORD_ARGUMENTS, record_graph)
