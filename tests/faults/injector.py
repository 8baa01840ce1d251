"""Inject faults between the arm and the suite, unknown to the suite.

The node forwards everything as serialized bytes. Only topic remappings connect it (``remappings``
below): what the arm and the policy publish goes to ``/behind_faults/...``, and from here to the
topics of the contract. Faults are the node's parameters:

ros2 param set /fault_injector chunk_delay_s 0.4

Start it as a process, with ``tests`` in PYTHONPATH:

python3 -m faults.injector --ros-args -p contract:=/path/to/robot.yaml
"""

from __future__ import annotations

import contextlib
import heapq
import random
import struct
from collections.abc import Callable

import numpy as np
import rclpy
from faults.joint_lies import LIES, tell
from faults.other_nodes import MODES, OtherNodes
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ActionChunk
from sf_policy_node.contract import Contract, load_contract

BEHIND = "/behind_faults"
CLOCK = "/clock"
_REPEAT_S = 0.1
_IN_FLIGHT_NS = 100_000_000
_CLOCK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_STAMP = struct.Struct("<iI")
_STAMP_AT = 4  # after the four bytes of the encoding: every message here begins with its stamp

FAULTS = {
    "chunk_delay_s": (0.0, "chunks arrive this much later [simulated s]"),
    "chunk_jitter_s": (0.0, "and up to this much more, each differently [simulated s]"),
    "chunk_loss": (0.0, "share of chunks that never arrive"),
    "chunk_reorder": (False, "every second chunk arrives after the one that followed it"),
    "chunk_corrupt": ("", "nan, inf, size (a row is missing) or names (two columns swapped)"),
    "chunk_repeat": (
        False,
        (
            "the last chunk again and again with new stamps and sequence numbers, as from a policy"
            " that does not listen"
        ),
    ),
    "frozen_camera": ("", "this camera repeats its last image with new stamps"),
    "stuck_camera": ("", "this camera repeats its last image with its stamp"),
    "lost_camera": ("", "this camera is silent"),
    "camera_skew_s": (
        0.0,
        "the first camera's stamps are half of this early, the others' half of it late [s]",
    ),
    "joint_states_lost": (False, "joint states are not passed on"),
    "joint_lie": ("", f"the driver reports wrong joint states: {', '.join(LIES)}"),
    "joint_lie_share": (1.0, "share of joint states that joint_lie changes"),
    "joint_delay_s": (0.0, "joint states arrive this much later [simulated s]"),
    "joint_stamp_ahead_s": (0.0, "stamps of joint states are this much ahead [s]"),
    "other_driver": (
        "",
        (
            "a second node reports joint states at 50 Hz: zeros, the joints of one moment (frozen),"
            " or copies of old messages with their stamps (late)"
        ),
    ),
    "other_commander": ("", "a second node can command the arm (idle), or stops it (hold)"),
    "leader": ("", "an operator's leader commands the arm (follow), or its cable drops (zeros)"),
    "clock_shift_s": (
        0.0,
        "this much is added to all stamps that come from the arm and taken off its commands' [s]",
    ),
}


def behind(topic: str) -> str:
    """Return the topic on the arm's side of the injector."""
    return f"{BEHIND}/{topic.lstrip('/')}"


def remappings(contract: Contract, node: str) -> tuple[tuple[str, str], ...]:
    """Return ``NodeSpec.remappings`` of the arm (``sim_arm``) or of ``policy_node``."""
    topics = {
        "sim_arm": [
            CLOCK,
            contract.topics.joint_states,
            contract.command.topic,
            *(camera.topic for camera in contract.cameras),
        ],
        "policy_node": [contract.topics.action_chunk],
    }
    return tuple((topic, behind(topic)) for topic in topics.get(node, ()))


def stamp_of(message: bytes) -> int:
    """Return the stamp at the beginning of a serialized message [ns]."""
    seconds, nanoseconds = _STAMP.unpack_from(message, _STAMP_AT)
    return seconds * 10**9 + nanoseconds


def with_stamp(message: bytes, nanoseconds: int) -> bytes:
    """Return the message with another stamp.

    The stamp is never 0, which would mean "now" or "unknown".
    """
    return (
        message[:_STAMP_AT]
        + _STAMP.pack(*divmod(max(1, nanoseconds), 10**9))
        + message[_STAMP_AT + _STAMP.size :]
    )


def corrupted(message: bytes, how: str) -> bytes:
    """Return a chunk corrupted by one of the values of ``chunk_corrupt``."""
    chunk = deserialize_message(message, ActionChunk)
    data = np.array(chunk.data)
    if how in ("nan", "inf"):
        data[len(data) // 2] = float(how)
    elif how == "size":
        data = data[: -chunk.columns]
    elif how == "names":
        chunk.names = [chunk.names[1], chunk.names[0], *chunk.names[2:]]
    chunk.data = data.tolist()
    return serialize_message(chunk)


class FaultInjector(Node):
    """Forward everything unchanged until a parameter sets a fault."""

    def __init__(self) -> None:
        super().__init__("fault_injector")
        declare = self._declare
        contract = load_contract(declare("contract", "", "path of the robot contract"))
        self._cameras = {camera.topic: camera.name for camera in contract.cameras}
        self._faults = {
            name: declare(name, default, description)
            for name, (default, description) in FAULTS.items()
        }
        self._dice = random.Random(declare("seed", 0, "of losses and jitter"))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._now = 0  # ns, time of the arm
        self._set_at, self._shift_before = (
            -(10**18),
            0,
        )  # when the clock was set, and the shift until then [ns]
        # Delayed messages: due [ns], number, message, and what sends it.
        self._waiting: list[tuple[int, int, bytes, Callable[[bytes], None]]] = []
        self._number, self._held, self._last_chunk, self._next_repeat = 0, None, None, 0
        self._pictures: dict[str, bytes] = {}
        self._others = OtherNodes(contract)
        self._outputs = {}
        self._pass(Clock, CLOCK, self._on_clock, _CLOCK_QOS)
        self._pass(
            JointState, contract.topics.joint_states, self._on_joint_states, qos_profile_sensor_data
        )
        self._pass(ActionChunk, contract.topics.action_chunk, self._on_chunk, QoSProfile(depth=10))
        for topic in self._cameras:
            self._pass(
                Image,
                topic,
                lambda message, topic=topic: self._on_image(topic, message),
                qos_profile_sensor_data,
            )
        command = contract.command.topic
        self._outputs[command] = self.create_publisher(JointTrajectory, behind(command), 10)
        self.create_subscription(
            JointTrajectory,
            command,
            lambda message: self._on_command(command, message),
            10,
            raw=True,
        )
        self._topics, self._arm_joints = contract.topics, contract.arm_joints

    def _declare(self, name: str, default, description: str):
        return self.declare_parameter(
            name, default, ParameterDescriptor(description=description)
        ).value

    def _pass(self, kind, topic: str, callback, qos) -> None:
        self._outputs[topic] = self.create_publisher(kind, topic, qos)
        self.create_subscription(kind, behind(topic), callback, qos, raw=True)

    def _on_parameters(self, parameters) -> SetParametersResult:
        known = ("", *self._cameras.values())
        for parameter in parameters:
            if parameter.name.endswith("_camera") and parameter.value not in known:
                return SetParametersResult(
                    successful=False,
                    reason=f"{parameter.name}: {parameter.value!r} is no camera of the contract",
                )
            if parameter.name == "chunk_corrupt" and parameter.value not in (
                "",
                "nan",
                "inf",
                "size",
                "names",
            ):
                return SetParametersResult(
                    successful=False,
                    reason=f"chunk_corrupt: {parameter.value!r} is not nan, inf, size or names",
                )
            if parameter.name == "joint_lie" and parameter.value not in ("", *LIES):
                return SetParametersResult(
                    successful=False,
                    reason=f"joint_lie: {parameter.value!r} is none of {', '.join(LIES)}",
                )
            modes = MODES.get(parameter.name)
            if modes and parameter.value not in ("", *modes):
                return SetParametersResult(
                    successful=False,
                    reason=f"{parameter.name}: {parameter.value!r} is none of {', '.join(modes)}",
                )
        before = self._shift()
        self._faults.update(
            {each.name: each.value for each in parameters if each.name in self._faults}
        )
        if self._shift() != before:
            self._set_at, self._shift_before = self._now, before
        return SetParametersResult(successful=True)

    def _shift(self) -> int:
        return round(1e9 * self._faults["clock_shift_s"])

    def _on_clock(self, message: bytes) -> None:
        self._now = stamp_of(message)
        self._outputs[CLOCK].publish(with_stamp(message, self._now + self._shift()))
        while self._waiting and self._waiting[0][0] <= self._now:
            _, _, waiting, send = heapq.heappop(self._waiting)
            send(waiting)
        self._others.update(self._now, self._shift(), self._faults)
        if (
            self._faults["chunk_repeat"]
            and self._last_chunk is not None
            and self._now >= self._next_repeat
        ):
            self._next_repeat = self._now + round(1e9 * _REPEAT_S)
            chunk = deserialize_message(self._last_chunk, ActionChunk)
            chunk.sequence += 1
            self._send_chunk(with_stamp(serialize_message(chunk), self._now + self._shift()))

    def _on_joint_states(self, message: bytes) -> None:
        faults = self._faults
        if any(faults[each] for each in MODES):
            self._others.measured(stamp_of(message), deserialize_message(message, JointState))
        if faults["joint_states_lost"]:
            return
        if faults["joint_lie"] and self._dice.random() < faults["joint_lie_share"]:
            joints = deserialize_message(message, JointState)
            tell(joints, faults["joint_lie"], self._arm_joints, self._dice)
            message = serialize_message(joints)
        stamp = stamp_of(message) + self._shift() + round(1e9 * faults["joint_stamp_ahead_s"])
        publish = self._outputs[self._topics.joint_states].publish
        self._wait(with_stamp(message, stamp), faults["joint_delay_s"], publish)

    def _on_image(self, topic: str, message: bytes) -> None:
        faults, name, stamp = self._faults, self._cameras[topic], stamp_of(message)
        if name == faults["lost_camera"]:
            return
        if name in (faults["frozen_camera"], faults["stuck_camera"]):
            message = self._pictures.setdefault(name, message)
            stamp = stamp if name == faults["frozen_camera"] else stamp_of(message)
        else:
            self._pictures.pop(name, None)
        if skew := faults["camera_skew_s"]:
            stamp += round(0.5e9 * skew) * (-1 if topic == next(iter(self._cameras)) else 1)
        self._outputs[topic].publish(with_stamp(message, stamp + self._shift()))

    def _on_chunk(self, message: bytes) -> None:
        faults = self._faults
        if self._dice.random() < faults["chunk_loss"]:
            return
        delay = faults["chunk_delay_s"] + self._dice.random() * faults["chunk_jitter_s"]
        if faults["chunk_reorder"]:
            if self._held is None:
                self._held = message
                return
            self._wait(message, delay, self._send_chunk)
            message, self._held = self._held, None
        elif self._held is not None:
            self._wait(self._held, delay, self._send_chunk)
            self._held = None
        self._wait(message, delay, self._send_chunk)

    def _wait(self, message: bytes, delay_s: float, send: Callable[[bytes], None]) -> None:
        """Send a message ``delay_s`` simulated seconds from now."""
        is_first = all(other != send for *_, other in self._waiting)
        if delay_s <= 0 and is_first:
            send(message)
            return
        self._number += 1
        due = self._now + round(1e9 * delay_s)
        heapq.heappush(self._waiting, (due, self._number, message, send))

    def _send_chunk(self, message: bytes) -> None:
        if how := self._faults["chunk_corrupt"]:
            message = corrupted(message, how)
        self._last_chunk = message
        self._outputs[self._topics.action_chunk].publish(message)

    def _on_command(self, topic: str, message: bytes) -> None:
        stamp, shift = stamp_of(message), self._shift()
        if (
            self._now - self._set_at < _IN_FLIGHT_NS
        ):  # sent before the clock was set: it does not belong to the new time
            shift = min(
                (shift, self._shift_before), key=lambda added: abs(stamp - added - self._now)
            )
        self._outputs[topic].publish(with_stamp(message, stamp - shift) if stamp else message)


def main() -> None:
    """Run until a signal."""
    rclpy.init()
    executor = SingleThreadedExecutor()
    executor.add_node(FaultInjector())
    with contextlib.suppress(
        KeyboardInterrupt, ExternalShutdownException, rclpy_implementation.RCLError
    ):
        executor.spin()


if __name__ == "__main__":
    main()
