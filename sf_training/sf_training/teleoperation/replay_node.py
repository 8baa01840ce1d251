"""``sf_training replay EPISODE``: sends an episode to the robot again, through the same guard as a policy's chunks.

The arm goes slowly to where the episode begins, then along what it did. Ctrl-C, a person who takes the arm, a pause, an
emergency stop or an arm that does not follow ends it; silence is what stops the arm then.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import rclpy
import tyro
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from sf_msgs.msg import ControlSource, ExecutorStatus
from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.nodes.conversions import to_seconds, to_stamp
from sf_policy_node.observation import JointStates
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.teleoperation.recorded_motion import Follow, RecordedMotion, ReplayError, recorded_motion
from sf_training.teleoperation.replay import Following, Timed, approach, at_speed

_RATE_HZ = 50.0
_FOUND_S = 10.0  # wall time in which the arm and its executor answer
_TAKEN_S = 0.6  # the executor follows within, or says why not
_STANDS_S = 2.0  # a clock that does not move for longer
_SETTLES_S = 0.5  # after the last command the arm is still watched
_MOVING = 0.05  # share of a joint's top speed above which the arm does not stand


@dataclass(frozen=True)
class Settings:
    """Sends an episode to the robot again, slowly at first, through the executor's guard."""

    episode: Annotated[Path, tyro.conf.Positional]
    """Directory of the episode, or its .mcap file."""
    speed: float = 0.5
    """Times the speed at which it was recorded, 0.1 to 2."""
    follow: Follow = "commanded"
    """commanded: joints as they were sent to the arm; measured: as they were measured."""
    approach: float = 0.1
    """Share of the joints' and the tool's top speed on the way to the beginning, at most 0.3."""
    furthest: float = 1.0
    """The arm does not follow when a joint is this many times its tracking_error away from where it was to be."""
    contract: Path | None = None
    """Contract of the robot; none: the one in the episode."""
    clock: Literal["auto", "ros", "wall"] = "auto"
    """ros: the time on /clock, as of a simulated arm; auto: that, where somebody publishes it."""
    yes: bool = False
    """Do not ask before the arm moves."""
    report: Path | None = None
    """JSON file for the tracking error."""


class ReplayAborted(RuntimeError):
    """The replay ended before its end; one sentence."""


class ReplayNode(Node):
    """Talks to the executor of one arm; spun by hand."""

    def __init__(self, contract: Contract) -> None:
        super().__init__("replay")
        self.contract = contract
        self.status: ExecutorStatus | None = None
        self.joints: tuple[float, np.ndarray, np.ndarray] | None = None
        self.on_measured: Callable[[float, np.ndarray], None] = lambda stamp, positions: None
        self._reader = JointStates(contract)
        topics = contract.topics
        self._commands = self.create_publisher(JointState, topics.replay_command, QoSProfile(depth=1))
        self.create_subscription(ExecutorStatus, topics.executor_status, self._on_status, QoSProfile(depth=5))
        self.create_subscription(JointState, topics.joint_states, self._on_joints, qos_profile_sensor_data)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def now(self) -> float:
        """The arm's time [s]."""
        return 1e-9 * self.get_clock().now().nanoseconds

    def spin(self, seconds: float) -> None:
        """Answer messages for a moment of real time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._spinner.spin_once(timeout_sec=left)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until a condition is true.

        Raises:
            ReplayError: it did not become true.
        """
        end = time.monotonic() + _FOUND_S
        while not condition():
            if time.monotonic() > end:
                raise ReplayError(f"{what} within {_FOUND_S:g} s; is the robot running in this ROS domain?")
            self.spin(0.02)

    def find_arm(self, clock: str) -> None:
        """Wait for the executor and for joint states, on the clock that the arm goes by.

        Raises:
            ReplayError: somebody does not answer, or the arm must not be moved now.
        """
        topics = self.contract.topics
        self.wait(lambda: self.status is not None, f"no executor was heard on {topics.executor_status}")
        if clock == "ros" or (clock == "auto" and self.count_publishers("/clock")):
            self.set_parameters([Parameter("use_sim_time", value=True)])
            self.wait(lambda: self.now() > 0.0, "nothing was heard on /clock")
        self.joints = None
        self.wait(lambda: self.joints is not None, f"no joint states on {topics.joint_states}")
        self.wait(self._commands.get_subscription_count, f"nobody listens on {topics.replay_command}: the executor is of another version")

    def check_free(self) -> None:
        """Nobody else moves the arm.

        Raises:
            ReplayError: somebody does, or the executor follows nobody.
        """
        status = self.status
        if status.state in (ExecutorStatus.INACTIVE, ExecutorStatus.STOPPED, ExecutorStatus.PAUSED, ExecutorStatus.SHADOW):
            raise ReplayError(f"the executor does not move the arm: {status.reason or 'it only shadows a policy'}")
        if status.control_source != ControlSource.NOBODY:
            who = {ControlSource.POLICY: "a policy", ControlSource.TELEOPERATION: "a person"}.get(status.control_source, "another replay")
            raise ReplayError(f"{who} moves the arm: end that first")
        speeds = np.abs(self.joints[2][: len(self.contract.joints)])
        fast = speeds / np.array([joint.velocity for joint in self.contract.joints])
        if fast.max() > _MOVING:
            raise ReplayError(f"{self.contract.arm_joints[int(fast.argmax())]} is moving: wait until the arm stands")

    def send(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """One command, stamped with now."""
        message = JointState(header=Header(stamp=to_stamp(self.now())), name=list(self.contract.command_joints))
        message.position, message.velocity = array("d", positions), array("d", velocities)
        self._commands.publish(message)

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.shutdown()
        self.destroy_node()

    def _on_status(self, message: ExecutorStatus) -> None:
        self.status = message

    def _on_joints(self, message: JointState) -> None:
        joints = self._reader.read(to_seconds(message.header.stamp), message.name, message.position, message.velocity)
        if joints is not None:
            self.joints = joints
            self.on_measured(joints[0], joints[1])


def play(node: ReplayNode, motion: Timed, following: Following, on_time: Callable[[float], None] = lambda seconds: None) -> None:
    """Send a motion from now on, on the arm's clock, and watch the arm.

    Raises:
        ReplayAborted: the arm does not follow, or the executor does not follow the replay any more.
    """
    problem = ""

    def judge(stamp: float, positions: np.ndarray) -> None:
        nonlocal problem
        problem = problem or following.measure(stamp, positions)

    node.on_measured = judge
    begun, heard, elapsed, before, moved = time.monotonic(), False, 0.0, node.now(), time.monotonic()
    while elapsed < motion.duration + _SETTLES_S:
        started = time.monotonic()
        positions, velocities = motion.at(elapsed)
        node.send(positions, velocities)
        following.send(node.now(), positions)
        node.spin(max(0.0, 1.0 / _RATE_HZ - (time.monotonic() - started)))
        now = node.now()
        if now > before:
            moved = time.monotonic()
        # A process that stood still goes on where it was, and does not leap.
        elapsed, before = elapsed + min(max(now - before, 0.0), 4.0 / _RATE_HZ), now
        heard = heard or node.status.control_source == ControlSource.REPLAY
        if problem:
            raise ReplayAborted(f"the arm does not follow after {elapsed:.1f} s: {problem}; clear its way, or replay more slowly")
        if heard and node.status.control_source != ControlSource.REPLAY:
            raise ReplayAborted(f"the executor ended it after {elapsed:.1f} s: {node.status.reason}")
        if not heard and time.monotonic() - begun > _TAKEN_S:
            raise ReplayAborted(f"the executor does not follow the replay: {node.status.reason}")
        if time.monotonic() - moved > _STANDS_S:
            raise ReplayAborted("the arm's clock stands still")
        on_time(min(elapsed, motion.duration))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``sf_training replay``. Exit code 0: replayed to the end; 1: aborted; 2: it cannot be; 130: interrupted."""
    settings, console = parse(Settings, argv, "replay"), Console()
    try:
        contract, recorded, motion = _prepare(settings, console)
    except (BagError, ContractError, ReplayError) as error:
        return _failed(error, 2)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = ReplayNode(contract)
    try:
        return _replay(node, settings, recorded, motion, console)
    except ReplayError as error:
        return _failed(error, 2)
    except KeyboardInterrupt:
        return _failed("interrupted; nothing more is sent and the arm comes to rest", 130)
    finally:
        signal.signal(signal.SIGTERM, before)
        node.close()
        rclpy.try_shutdown()


def _prepare(settings: Settings, console: Console) -> tuple[Contract, RecordedMotion, Timed]:
    if not 0.01 <= settings.approach <= 0.3:
        raise ReplayError(f"approach: {settings.approach:g} is not between 0.01 and 0.3")
    if not 0.1 <= settings.furthest <= 3.0:
        raise ReplayError(f"furthest: {settings.furthest:g} is not between 0.1 and 3")
    contract = load_contract(settings.contract) if settings.contract else None
    reader = EpisodeReader(settings.episode, contract)
    contract = contract or reader.contract
    recorded = recorded_motion(reader, settings.follow)
    motion = at_speed(recorded, contract, settings.speed)
    print_settings(settings, console, "replay")
    console.print(f"{reader.name}: {reader.instruction!r}, {reader.outcome}, {recorded.duration:.1f} s; joints {recorded.described}")
    return contract, recorded, motion


def _replay(node: ReplayNode, settings: Settings, recorded: RecordedMotion, motion: Timed, console: Console) -> int:
    with console.status("looking for the arm"):
        node.find_arm(settings.clock)
    node.check_free()
    way = approach(node.contract, node.joints[1], motion.positions[0], settings.approach)
    console.print(
        f"{way.duration:.1f} s to the beginning, then {motion.duration:.1f} s. Stay out of its reach, a hand on the emergency stop."
    )
    if not settings.yes:
        if not sys.stdin.isatty():
            raise ReplayError("nobody is at the terminal to be asked: give --yes, and mind the arm")
        if input("Enter moves the arm, anything else does not: ").strip():
            console.print("nothing was moved")
            return 0
        node.spin(0.2)
        node.check_free()
        way = approach(node.contract, node.joints[1], motion.positions[0], settings.approach)
    following, aborted = Following(node.contract, settings.furthest), None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as bar:
            for what, part, judged in (
                ("to the beginning", way, Following(node.contract, settings.furthest)),
                ("replay", motion, following),
            ):
                task = bar.add_task(what, total=part.duration)
                play(node, part, judged, lambda seconds, task=task: bar.update(task, completed=seconds))
    except ReplayAborted as error:
        aborted = str(error)
    report = {"episode": str(settings.episode), "speed": settings.speed, "finished": aborted is None, "aborted": aborted or ""}
    report |= {"recorded_s": round(recorded.duration, 2), **following.report()}
    _show(report, console)
    if settings.report:
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if aborted is None else _failed(aborted, 1)


def _show(report: dict, console: Console) -> None:
    if "joints" not in report:
        return
    table = Table(title=f"tracking error, {report['delay_s']:.2f} s behind", title_justify="left", box=None, pad_edge=False)
    for column in ("", "rms", "largest"):
        table.add_column(column, justify="left" if not column else "right")
    for name, error in report["joints"].items():
        table.add_row(name, f"{error['rms']:.4f}", f"{error['max']:.4f}")
    table.add_row("tool [mm]", f"{1e3 * report['tool']['rms']:.1f}", f"{1e3 * report['tool']['max']:.1f}")
    console.print(table)


def _failed(error: Exception | str, code: int) -> int:
    print(f"replay: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
