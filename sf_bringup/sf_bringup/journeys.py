"""The three journeys and every node that they can start, as plain data. Which of the nodes start is
decided in ``graph.py``.

Launch files import this under the system's Python. It needs the standard library alone, from Python
3.10 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from sf_bringup.arguments import ARM_ARGUMENTS, RECORD_ARGUMENTS, TELEOP_ARGUMENTS, Argument

CHECKS_SECOND_START = (  # a launch file sets it for the executable `graph`: it starts the nodes
    "SF_BRINGUP_CHECKS_SECOND_START"
)
GLOBAL_TOPICS = ("/clock", "/tf", "/tf_static")  # libraries of ROS 2 name them so


@dataclass(frozen=True)
class Executable:
    """What ``ros2 run package executable`` would start, and the name of its node."""

    package: str
    executable: str
    name: str
    lifecycle: bool = (
        False  # a managed node; ours configure and activate themselves (parameter autostart)
    )
    essential: bool = True  # when it ends, the others stop


@dataclass(frozen=True)
class Journey:
    """What a launch file offers: its arguments, and all nodes that it can start."""

    arguments: tuple[Argument, ...]
    nodes: tuple[Executable, ...]


SIM_ARM = Executable("sf_bringup", "sim_arm", "sim_arm")
CHUNK_EXECUTOR = Executable("sf_policy_node", "chunk_executor", "chunk_executor", lifecycle=True)
POLICY_NODE = Executable("sf_policy_node", "policy_node", "policy_node", lifecycle=True)
RECORDER = Executable("sf_training", "recorder", "recorder", lifecycle=True)
TELEOPERATION = Executable("sf_training", "teleoperation", "teleoperation", lifecycle=True)
RECORDER_JOY = Executable("sf_training", "recorder_joy", "recorder_joy")
ROBOT_STATE_PUBLISHER = Executable(
    "robot_state_publisher", "robot_state_publisher", "robot_state_publisher", essential=False
)
ROBOT_STATE = Executable(
    "sf_bringup", "robot_state", "robot_state", essential=False
)  # where that is not installed
MARKERS = Executable("sf_bringup", "markers", "markers", essential=False)
DOCTOR = Executable("sf_bringup", "doctor", "doctor", essential=False)
RVIZ = Executable("rviz2", "rviz2", "rviz", essential=False)
FOXGLOVE_BRIDGE = Executable(
    "foxglove_bridge", "foxglove_bridge", "foxglove_bridge", essential=False
)

_VIEWERS = (ROBOT_STATE_PUBLISHER, ROBOT_STATE, MARKERS, DOCTOR, RVIZ, FOXGLOVE_BRIDGE)

JOURNEYS = {
    "arm": Journey(ARM_ARGUMENTS, (SIM_ARM, CHUNK_EXECUTOR, POLICY_NODE, RECORDER, *_VIEWERS)),
    "record": Journey(
        RECORD_ARGUMENTS,
        (SIM_ARM, CHUNK_EXECUTOR, POLICY_NODE, RECORDER, TELEOPERATION, RECORDER_JOY, *_VIEWERS),
    ),
    "teleop": Journey(TELEOP_ARGUMENTS, (SIM_ARM, CHUNK_EXECUTOR, TELEOPERATION, *_VIEWERS)),
}


def remap_global_topics(namespace: str) -> dict[str, str]:
    """Return a remapping for each of :data:`GLOBAL_TOPICS`: in a namespace, clock and frames are
    those of the namespace.

    Without a namespace the map is empty.
    """
    return {topic: topic[1:] for topic in GLOBAL_TOPICS} if namespace.strip("/") else {}
