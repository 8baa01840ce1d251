"""Other nodes on the arm's topics: a second driver, a second commander and a leader.

Each is a node of its own, so that the status can name it. It exists while its fault is set.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import rclpy
from builtin_interfaces.msg import Duration, Time
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sf_policy_node.contract import Contract

MODES = {
    "other_driver": ("zeros", "frozen", "late"),
    "other_commander": ("idle", "hold"),
    "leader": ("follow", "zeros"),
}
"""Values of each fault of this module, beside the empty one."""
_PERIOD_NS = {"other_driver": 20_000_000, "other_commander": 10 * 10**9, "leader": 20_000_000}
_KEPT_NS = 300_000_000  # a late driver repeats the joint states of this time ago
_HOLD_S = 0.5  # time in which a second commander stops the arm, inside the limits
_SWING, _RATE = 0.06, 2.0  # how a leader moves its first joint [rad, rad/s]


class OtherNodes:
    """Publish what other nodes publish by mistake, on the suite's side of the injector."""

    def __init__(self, contract: Contract) -> None:
        topics = contract.topics
        self._arm, self._joints = contract.arm_joints, contract.command_joints
        self._kinds = {
            "other_driver": (JointState, topics.joint_states, qos_profile_sensor_data),
            "other_commander": (JointTrajectory, contract.command.topic, QoSProfile(depth=1)),
            "leader": (JointState, topics.teleop_command, QoSProfile(depth=1)),
        }
        self._nodes: dict[str, tuple[Node, rclpy.publisher.Publisher]] = {}
        self._next = dict.fromkeys(MODES, 0)
        self._begun = dict.fromkeys(MODES, 0)
        self._first: dict[str, JointState] = {}  # by fault: what was measured when it began
        self._recent: deque[tuple[int, JointState]] = deque(maxlen=200)  # with its stamp [ns]

    def measured(self, stamp: int, joints: JointState) -> None:
        """Take a true joint state, stamped at ``stamp`` [ns]."""
        self._recent.append((stamp, joints))

    def update(self, now: int, shift: int, faults: dict) -> None:
        """Publish what is due at ``now`` [ns]; ``shift`` [ns] is added to every stamp."""
        if not any(faults[fault] for fault in MODES):
            self._recent.clear()
        for fault, modes in MODES.items():
            mode = faults[fault]
            if mode not in modes:
                self._end(fault)
            elif mode == "idle":
                self._create(fault, now)
            elif self._recent and not 0 <= self._next[fault] - now <= _PERIOD_NS[fault]:
                self._next[fault] = now + _PERIOD_NS[fault]
                self._publish(fault, mode, now, shift)

    def _publish(self, fault: str, mode: str, now: int, shift: int) -> None:
        publisher = self._create(fault, now)
        first = self._first.setdefault(fault, self._recent[-1][1])
        if fault == "other_commander":
            publisher.publish(self._trajectory())
            return
        stamp, message = now, JointState(name=first.name)
        if mode == "zeros":
            message.position = [0.0] * len(message.name)
        elif mode == "late":
            old = [each for each in self._recent if each[0] <= now - _KEPT_NS]
            stamp, joints = old[-1] if old else self._recent[0]
            message.position = joints.position
        else:
            message.position = list(first.position)
            if mode == "follow":
                swing = _SWING * (1.0 - math.cos(1e-9 * _RATE * (now - self._begun[fault])))
                message.position[list(message.name).index(self._arm[0])] += swing
        message.header.stamp = _stamp(stamp + shift)
        publisher.publish(message)

    def _create(self, fault: str, now: int) -> rclpy.publisher.Publisher:
        if fault not in self._nodes:
            kind, topic, qos = self._kinds[fault]
            node = rclpy.create_node(fault, use_global_arguments=False)
            self._nodes[fault] = node, node.create_publisher(kind, topic, qos)
            self._begun[fault], self._next[fault] = now, 0
        return self._nodes[fault][1]

    def _trajectory(self) -> JointTrajectory:
        """Return a command without a stamp: hold the measured joints."""
        joints = self._recent[-1][1]
        positions = dict(zip(joints.name, joints.position, strict=True))
        point = JointTrajectoryPoint(
            positions=_in_order(positions, self._joints),
            velocities=[0.0] * len(self._joints),
            time_from_start=Duration(nanosec=round(1e9 * _HOLD_S)),
        )
        return JointTrajectory(joint_names=self._joints, points=[point])

    def _end(self, fault: str) -> None:
        if fault in self._nodes:
            node, _ = self._nodes.pop(fault)
            self._first.pop(fault, None)
            node.destroy_node()


def _in_order(positions: dict[str, float], names: Sequence[str]) -> list[float]:
    return [positions[name] for name in names]


def _stamp(nanoseconds: int) -> Time:
    seconds, rest = divmod(max(1, nanoseconds), 10**9)
    return Time(sec=seconds, nanosec=rest)
