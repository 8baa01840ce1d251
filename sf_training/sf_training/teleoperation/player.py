"""Sends a motion to one arm over ROS, and watches the arm and its executor meanwhile."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from sf_msgs.msg import ControlSource, ExecutorStatus
from sf_policy_node.contract import Contract
from sf_policy_node.motion.status import REPLAY_SILENT
from sf_policy_node.nodes.conversions import to_seconds, to_stamp
from sf_policy_node.perception.observation import JointStates
from sf_training.teleoperation.recorded_motion import ReplayError
from sf_training.teleoperation.replay import Following, Timed

_RATE_HZ = 50.0
_FOUND_S = 10.0  # wall time in which the arm and its executor answer
_TAKEN_S = 2.0  # the executor takes over within, or says why not
_OTHER_CLOCK_S = 3600.0  # apart: not the same clock, and no clock that is merely wrong
_STANDS_S = 2.0  # a clock that does not move for longer
_SETTLES_S = 0.5  # after the last command the arm is still watched
# a replay continues after a shorter stall, as of a busy computer; after a longer one somebody may
# have come near
_SILENT_S = 1.0
_MOVING = 0.05  # share of a joint's top speed above which the arm does not stand


class ReplayAborted(RuntimeError):
    """The replay ended before its end; one sentence."""


class Player(Node):
    """Sends commands to the executor of one arm and receives its status; the caller spins it."""

    def __init__(self, contract: Contract) -> None:
        super().__init__("replay")
        self.contract = contract
        self.status: ExecutorStatus | None = None
        self.followed_at: float | None = None
        """When the executor last followed the replay [s]; None when it has not yet."""
        self.ended: str | None = None
        """Why it then did so no more, for however short a time, other than for silence."""
        self.silences = 0
        """How often commands came too late, so that the arm braked."""
        self.joints: tuple[float, np.ndarray, np.ndarray] | None = None
        self.on_measured: Callable[[float, np.ndarray], None] = lambda stamp, positions: None
        self._reader = JointStates(contract)
        topics = contract.topics
        self._commands = self.create_publisher(
            JointState, topics.replay_command, QoSProfile(depth=1)
        )
        self.create_subscription(
            ExecutorStatus, topics.executor_status, self._on_status, QoSProfile(depth=5)
        )
        self.create_subscription(
            JointState, topics.joint_states, self._on_joints, qos_profile_sensor_data
        )
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def now(self) -> float:
        """Return the arm's time [s]."""
        return 1e-9 * self.get_clock().now().nanoseconds

    @property
    def follows(self) -> bool:
        """Whether the executor follows the replay, as far as its status was received."""
        return self.status is not None and self.status.control_source == ControlSource.REPLAY

    def spin(self, seconds: float) -> None:
        """Answer messages for a moment of real time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._spinner.spin_once(timeout_sec=left)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition is true.

        Raises:
            ReplayError: it did not become true.
        """
        end = time.monotonic() + _FOUND_S
        while not condition():
            if time.monotonic() > end:
                raise ReplayError(
                    f"{what} within {_FOUND_S:g} s; is the robot running in this ROS domain?"
                )
            self.spin(0.02)

    def find_arm(self, clock: str) -> None:
        """Wait for the executor and for joint states, on the clock that the arm goes by.

        Raises:
            ReplayError: somebody does not answer, or the arm must not be moved now.
        """
        topics = self.contract.topics
        self.wait(
            lambda: self.status is not None,
            f"no status on {topics.executor_status}; start the executor",
        )
        if clock == "ros" or (
            clock == "auto"
            and abs(to_seconds(self.status.header.stamp) - time.time()) > _OTHER_CLOCK_S
        ):
            self.set_parameters([Parameter("use_sim_time", value=True)])
            self.wait(
                lambda: self.now() > 0.0,
                "no message on /clock; start the simulator, or set use_sim_time to false",
            )
        self.joints = None
        self.wait(lambda: self.joints is not None, f"no joint states on {topics.joint_states}")
        self.wait(
            self._commands.get_subscription_count,
            f"nobody listens on {topics.replay_command}: the executor is of another version",
        )

    def check_free(self) -> None:
        """Nobody else moves the arm.

        Raises:
            ReplayError: somebody does, or the executor follows nobody.
        """
        status = self.status
        if status.state in (
            ExecutorStatus.INACTIVE,
            ExecutorStatus.STOPPED,
            ExecutorStatus.PAUSED,
            ExecutorStatus.SHADOW,
        ):
            raise ReplayError(
                f"the executor does not move the arm: {status.reason or 'it only shadows a policy'}"
            )
        if status.control_source != ControlSource.NOBODY:
            who = {
                ControlSource.POLICY: "a policy",
                ControlSource.TELEOPERATION: "an operator",
                ControlSource.HOME: "the way home",
            }.get(status.control_source, "another replay")
            raise ReplayError(f"{who} has control of the arm; end that first")
        speeds = np.abs(self.joints[2][: len(self.contract.joints)])
        fast = speeds / np.array([joint.velocity for joint in self.contract.joints])
        if fast.max() > _MOVING:
            raise ReplayError(
                f"{self.contract.arm_joints[int(fast.argmax())]} is moving; wait until the arm"
                " is stationary"
            )

    def send(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Send one command, stamped with the current time."""
        message = JointState(
            header=Header(stamp=to_stamp(self.now())), name=list(self.contract.command_joints)
        )
        message.position, message.velocity = array("d", positions), array("d", velocities)
        self._commands.publish(message)

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.shutdown()
        self.destroy_node()

    def _on_status(self, message: ExecutorStatus) -> None:
        before, self.status = self.status, message
        if message.control_source == ControlSource.REPLAY:
            self.followed_at = to_seconds(message.header.stamp)
        elif self.followed_at is not None and message.reason.startswith(REPLAY_SILENT):
            self.silences += before.control_source == ControlSource.REPLAY
        elif self.followed_at is not None and self.ended is None:
            self.ended = message.reason or "it gave no reason"

    def _on_joints(self, message: JointState) -> None:
        joints = self._reader.read(
            to_seconds(message.header.stamp), message.name, message.position, message.velocity
        )
        if joints is not None:
            self.joints = joints
            self.on_measured(joints[0], joints[1])


def play(
    node: Player,
    motion: Timed,
    following: Following,
    on_time: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Send a motion from now on, on the arm's clock, and watch the arm.

    Raises:
        ReplayAborted: the arm does not follow, or the executor does not follow the replay any more.
    """
    problem = ""

    def judge(stamp: float, positions: np.ndarray) -> None:
        nonlocal problem
        problem = problem or following.measure(stamp, positions)

    node.on_measured = judge
    node.followed_at, node.ended = node.now() if node.follows else None, None
    sent, elapsed, before = 0.0, 0.0, node.now()
    begun = moved = awake = time.monotonic()

    def stay_awake() -> None:
        nonlocal awake
        stood, awake = time.monotonic() - awake, time.monotonic()
        if stood > _SILENT_S and node.followed_at is not None:
            raise ReplayAborted(
                f"this process stalled for {stood:.2f} s after {elapsed:.1f} s: the executor"
                " has ended the replay"
            )

    while elapsed < motion.duration + _SETTLES_S:
        stay_awake()
        started = time.monotonic()
        if node.now() > sent:  # a simulated clock may tick more slowly than this loop
            sent = node.now()
            positions, velocities = motion.at(elapsed)
            node.send(positions, velocities)
            following.send(sent, positions)
        node.spin(max(0.0, 1.0 / _RATE_HZ - (time.monotonic() - started)))
        now = node.now()
        stay_awake()  # before the executor is blamed
        if now > before:
            moved = time.monotonic()
        # The motion continues while the executor follows. A process that stalled continues where it
        # was, and does not leap.
        elapsed, before = elapsed + node.follows * min(max(now - before, 0.0), 4.0 / _RATE_HZ), now
        if problem:
            raise ReplayAborted(
                f"the arm does not follow after {elapsed:.1f} s: {problem}; clear its way, or"
                " replay more slowly"
            )
        if node.ended is not None:
            raise ReplayAborted(f"the executor ended it after {elapsed:.1f} s: {node.ended}")
        if node.followed_at is None and time.monotonic() - begun > _TAKEN_S:
            raise ReplayAborted(f"the executor does not follow the replay: {node.status.reason}")
        if node.followed_at is not None and (lost := now - node.followed_at) > _SILENT_S:
            raise ReplayAborted(
                f"the executor has not followed it for {lost:.1f} s after {elapsed:.1f} s:"
                f" {node.status.reason}"
            )
        if time.monotonic() - moved > _STANDS_S:
            raise ReplayAborted("the arm's clock does not advance")
        on_time(min(elapsed, motion.duration))
