"""Send a motion to a robot over ROS, and monitor the arm and its executor during it."""

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
from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.status import REPLAY_SILENT
from sf_policy_node.nodes.conversions import to_seconds, to_stamp
from sf_policy_node.perception.observation import JointStates
from sf_training.teleoperation.recorded_motion import ReplayError
from sf_training.teleoperation.replay import Following, Timed

_RATE_HZ = 50.0
_DISCOVERY_S = 10.0  # wall time in which arm and executor must respond
_TAKEOVER_S = 2.0  # time in which the executor must give control to the replay
_OTHER_CLOCK_S = 3600.0  # stamps further apart are on different clocks
_CLOCK_STOPPED_S = 2.0  # a clock that does not advance for longer has stopped
_SETTLE_S = 0.5  # the arm is monitored for this long after the last command
# After a longer stall the replay ends, because a person may have come near. After a shorter one,
# as on a busy computer, it continues.
_SILENT_S = 1.0
_MOVING = 0.05  # share of a joint's velocity limit above which the arm is moving


class ReplayAborted(RuntimeError):
    """The replay was aborted; the message is one sentence."""


class Player(Node):
    """Send commands to the executor of a robot and receive its status; the caller spins it.

    Attributes:
        followed_at: when the executor last reported that the replay has control [s]; None before.
        ended: why the replay lost control, other than for silence; None if it did not.
        silences: how often commands were late, so that the arm braked.
        joints: newest (stamp, positions, velocities); None before the first.
        on_measured: called with stamp and positions of every joint state.
    """

    def __init__(self, contract: Contract) -> None:
        super().__init__("replay")
        self.contract = contract
        self.status: ExecutorStatus | None = None
        self.followed_at: float | None = None
        self.ended: str | None = None
        self.silences = 0
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
        """Return the time on the clock of the arm [s]."""
        return 1e-9 * self.get_clock().now().nanoseconds

    @property
    def _reported(self) -> ExecutorStatus:
        """Newest status of the executor, after :meth:`find_arm`."""
        assert self.status is not None
        return self.status

    @property
    def measured(self) -> np.ndarray:
        """Newest joint positions (J,), after :meth:`find_arm`."""
        assert self.joints is not None
        return self.joints[1]

    @property
    def reason(self) -> str:
        """Reason in the newest status of the executor; empty before the first."""
        return self.status.reason if self.status is not None else ""

    @property
    def follows(self) -> bool:
        """Whether the replay has control, by the newest status of the executor."""
        return self.status is not None and self.status.control_source == ControlSource.REPLAY

    def spin(self, seconds: float) -> None:
        """Handle messages for some seconds of wall time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._spinner.spin_once(timeout_sec=left)

    def wait(self, condition: Callable[[], object], problem: str, cure: str) -> None:
        """Wait until a condition is true.

        Args:
            problem, cure: for the message if it does not become true.

        Raises:
            ReplayError: it did not become true in time.
        """
        end = time.monotonic() + _DISCOVERY_S
        while not condition():
            if time.monotonic() > end:
                raise ReplayError(
                    f"{problem} within {_DISCOVERY_S:g} s; {cure}, and use the robot's"
                    " ROS_DOMAIN_ID"
                )
            self.spin(0.02)

    def find_arm(self, clock: str) -> None:
        """Wait for the executor and for joint states, on the clock of the arm.

        Args:
            clock: "ros" for /clock, "wall", or "auto" to decide by the executor's stamps.

        Raises:
            ReplayError: the executor, the joint states or the clock are missing.
        """
        topics = self.contract.topics
        self.wait(
            lambda: self.status is not None,
            f"no status on {topics.executor_status}",
            "start the executor",
        )
        if clock == "ros" or (
            clock == "auto"
            and abs(to_seconds(self._reported.header.stamp) - time.time()) > _OTHER_CLOCK_S
        ):
            self.set_parameters([Parameter("use_sim_time", value=True)])
            self.wait(
                lambda: self.now() > 0.0,
                "no message on /clock",
                "start the simulator, or set use_sim_time to false",
            )
        self.joints = None
        self.wait(
            lambda: self.joints is not None,
            f"no joint states on {topics.joint_states}",
            "start the robot's driver",
        )
        self.wait(
            self._commands.get_subscription_count,
            f"no subscriber on {topics.replay_command}",
            "start an executor of this version",
        )

    def check_free(self) -> None:
        """Check that the arm is free for the replay.

        Raises:
            ReplayError: another source has control, the executor follows no source, or the arm is
                moving.
        """
        status = self._reported
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
        arm = self.contract.columns.commands.mask(ColumnKind.JOINT)
        assert self.joints is not None  # received by find_arm
        fast = np.abs(self.joints[2][arm]) / JointLimits.of(self.contract).velocity[arm]
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
        """Destroy the node."""
        self._spinner.shutdown()
        self.destroy_node()

    def _on_status(self, message: ExecutorStatus) -> None:
        before, self.status = self.status, message
        if message.control_source == ControlSource.REPLAY:
            self.followed_at = to_seconds(message.header.stamp)
        elif self.followed_at is not None and message.reason.startswith(REPLAY_SILENT):
            self.silences += before is not None and before.control_source == ControlSource.REPLAY
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
    """Send a motion from now on, on the clock of the arm, and monitor the arm.

    Args:
        following: judges whether the arm follows.
        on_time: called with the elapsed time of the motion [s].

    Raises:
        ReplayAborted: the arm does not follow, or the replay lost control.
    """
    problem = ""

    def judge(stamp: float, positions: np.ndarray) -> None:
        nonlocal problem
        problem = problem or following.measure(stamp, positions)

    node.on_measured = judge
    node.followed_at, node.ended = node.now() if node.follows else None, None
    sent, elapsed, before = 0.0, 0.0, node.now()
    play_started = clock_advanced = last_check = time.monotonic()

    def check_stall() -> None:
        nonlocal last_check
        stalled, last_check = time.monotonic() - last_check, time.monotonic()
        if stalled > _SILENT_S and node.followed_at is not None:
            raise ReplayAborted(
                f"this process stalled for {stalled:.2f} s after {elapsed:.1f} s, so the executor"
                " ended the replay; reduce the load of this computer"
            )

    while elapsed < motion.duration + _SETTLE_S:
        check_stall()
        started = time.monotonic()
        if node.now() > sent:  # a simulated clock may tick more slowly than this loop
            sent = node.now()
            positions, velocities = motion.at(elapsed)
            node.send(positions, velocities)
            following.send(sent, positions)
        node.spin(max(0.0, 1.0 / _RATE_HZ - (time.monotonic() - started)))
        now = node.now()
        check_stall()  # first, so that the executor is not blamed for a stall of this process
        if now > before:
            clock_advanced = time.monotonic()
        # The motion advances while the replay has control. After a stall it continues where it was,
        # without a jump.
        elapsed, before = elapsed + node.follows * min(max(now - before, 0.0), 4.0 / _RATE_HZ), now
        if problem:
            raise ReplayAborted(
                f"the arm does not follow after {elapsed:.1f} s: {problem}; clear its path, or"
                " replay more slowly"
            )
        if node.ended is not None:
            raise ReplayAborted(f"the executor ended it after {elapsed:.1f} s: {node.ended}")
        if node.followed_at is None and time.monotonic() - play_started > _TAKEOVER_S:
            raise ReplayAborted(f"the executor does not follow the replay: {node.reason}")
        if node.followed_at is not None and (lost := now - node.followed_at) > _SILENT_S:
            raise ReplayAborted(
                f"the executor has not followed it for {lost:.1f} s after {elapsed:.1f} s:"
                f" {node.reason}"
            )
        if time.monotonic() - clock_advanced > _CLOCK_STOPPED_S:
            raise ReplayAborted("the arm's clock does not advance; start the simulator again")
        on_time(min(elapsed, motion.duration))
