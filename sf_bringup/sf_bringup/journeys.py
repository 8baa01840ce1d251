"""List the three journeys and every node that they can start; ``graph.py`` decides which start.

Launch files import this module under the system's Python: it uses the standard library alone and
runs from Python 3.10 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from sf_bringup.arguments import ARM_ARGUMENTS, RECORD_ARGUMENTS, TELEOP_ARGUMENTS, Argument

# Environment variable that launch files set for the executable `graph`, because they start the
# nodes that it prints.
CHECKS_SECOND_START = "SF_BRINGUP_CHECKS_SECOND_START"
GLOBAL_TOPICS = ("/clock", "/tf", "/tf_static")  # absolute names in the libraries of ROS 2


@dataclass(frozen=True)
class Executable:
    """Name an executable of a package and its node."""

    package: str
    executable: str
    name: str
    # A managed node; those of this workspace configure and activate themselves (parameter
    # autostart).
    lifecycle: bool = False
    essential: bool = True  # when it ends, the others are stopped


@dataclass(frozen=True)
class Journey:
    """Hold the arguments of a launch file and all nodes that it can start."""

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
# Replaces robot_state_publisher where that is not installed.
ROBOT_STATE = Executable("sf_bringup", "robot_state", "robot_state", essential=False)
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
    """Return remappings of :data:`GLOBAL_TOPICS` into a namespace; empty without a namespace."""
    return {topic: topic[1:] for topic in GLOBAL_TOPICS} if namespace.strip("/") else {}
