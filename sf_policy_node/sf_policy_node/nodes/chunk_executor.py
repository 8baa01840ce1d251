"""The chunk executor as a ROS node: action chunks in, joint trajectories out. It decides nothing; ``motion.executor`` does."""

from __future__ import annotations

import functools
import sys
import time

from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool, Trigger

from sf_msgs.msg import ActionChunk, ControlSource, ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract
from sf_policy_node.latency import Latencies
from sf_policy_node.motion.cycles import Cycles
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ControlSource as Source
from sf_policy_node.motion.types import Join, Trajectory
from sf_policy_node.nodes.conversions import chunk_from_message, status_to_message, to_seconds, to_stamp
from sf_policy_node.nodes.diagnostics import Diagnostics, executor_diagnostics
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode, run
from sf_policy_node.nodes.outputs import make_output
from sf_policy_node.nodes.static_frames import listen
from sf_policy_node.observation import JointStates

_STATUS_S = 0.1
_TICK_S_MIN = 0.01
_JOINS = ("policy", "blend", "ensemble", "rtc")


class ChunkExecutorNode(ManagedNode):
    """Topics, services and parameters: ``doc/run.md``."""

    def __init__(self, **options) -> None:
        super().__init__("chunk_executor", **options)
        self.parameter("shadow", False, "do everything, send nothing")
        self.parameter("join", "policy", f"how chunks are joined: {', '.join(_JOINS)}; policy: as the checkpoint says")

    def set_up(self, contract: Contract) -> None:
        self._shadow, join = self.value("shadow"), self.value("join")
        if join not in _JOINS:
            raise ValueError(f"join: {join!r} is not one of {', '.join(_JOINS)}")
        before: ChunkExecutor | None = getattr(self, "_motion", None)
        self._motion = ChunkExecutor(
            contract,
            shadow=self._shadow,
            join=None if join == "policy" else Join[join.upper()],
            stopwatch=time.monotonic,
            simulated=self.value("use_sim_time"),
        )
        if before is not None:
            self._motion.take_latch(before)
        self._joint_states = JointStates(contract)
        self._latencies = Latencies()
        self._reported: tuple | None = None
        self._output = make_output(self, contract)

        if contract.action.space.is_tool:
            listen(self, self._motion.frames)
        topics = contract.topics
        self._status = self.publisher(ExecutorStatus, topics.executor_status, LATCHED)
        self._source = self.publisher(ControlSource, topics.control_source, LATCHED)
        self.subscribe(ActionChunk, topics.action_chunk, self._on_chunk, QoSProfile(depth=5))
        self.subscribe(PolicyStatus, topics.policy_status, self._on_policy_status, QoSProfile(depth=5))
        self.subscribe(JointState, topics.joint_states, self._on_joint_state, qos_profile_sensor_data)
        for topic, source in ((topics.teleop_command, Source.TELEOPERATION), (topics.replay_command, Source.REPLAY)):
            self.subscribe(JointState, topic, functools.partial(self._on_leader, source, JointStates(contract)), QoSProfile(depth=1))
        self.subscribe_also_late(Bool, topics.emergency_stop, self._on_emergency_stop)
        for kind, name, callback in ((Trigger, "~/reset_emergency_stop", self._on_reset), (SetBool, "~/pause", self._on_pause)):
            self.resources.callback(self.destroy_service, self.create_service(kind, name, callback))
        # The watchdog runs on real time: it must not stand still together with a simulated clock.
        real_time = Clock(clock_type=ClockType.STEADY_TIME)
        period = 1.0 / contract.command.rate_hz if self._output.streams else max(1.0 / contract.command.rate_hz, _TICK_S_MIN)
        self._cycles = Cycles(period)
        for seconds, callback in ((period, self._on_tick), (_STATUS_S, self._publish_status)):
            self.resources.callback(self.destroy_timer, self.create_timer(seconds, callback, clock=real_time))
        Diagnostics(self, lambda: executor_diagnostics(self._status_message(), contract))
        self._report_change()

    def start(self) -> None:
        self._motion.activate(self.now())
        self.get_logger().info("active" + (", in shadow mode: nothing is sent" if self._shadow else ""))
        self._report_change()

    def stop(self) -> None:
        stop = self._motion.deactivate(self.now())
        self._send(stop)
        self._report_change()
        if stop is not None and not self._shadow:
            self._output.flush()

    def _on_chunk(self, message: ActionChunk) -> None:
        received = time.perf_counter()
        chunk = chunk_from_message(message)
        try:
            trajectory = self._motion.on_chunk(chunk, self.now())
        except ChunkRefused as refusal:
            self.get_logger().warning(f"refused chunk {chunk.sequence}: {refusal}", throttle_duration_sec=1.0)
            self._report_change()
            return
        if self._motion.too_late(self.now()):
            self._motion.withdraw(f"chunk {chunk.sequence} was not sent: this process stood still while it was planned")
            self._report_change()
            return
        self._send(trajectory)
        self._latencies.add(time.perf_counter() - received)
        self._report_change()

    def _on_policy_status(self, message: PolicyStatus) -> None:
        following = message.state in (PolicyStatus.RUNNING, PolicyStatus.WAITING)
        reason = message.reason or {PolicyStatus.PAUSED: "the policy is paused"}.get(message.state, "the policy follows no instruction")
        self._send(self._motion.on_policy_state(following, message.epoch, f"stopped: {reason}", self.now()))
        self._report_change()

    def _on_leader(self, source: Source, joints: JointStates, message: JointState) -> None:
        command = joints.read(to_seconds(message.header.stamp), message.name, message.position, message.velocity)
        what = f"a {source.name.lower()} command"
        if command is None:
            self.get_logger().warning(f"{what} is not used: {joints.fault}", throttle_duration_sec=5.0)
            return
        try:
            self._send(self._motion.on_teleoperation(*command, self.now(), source))
        except MotionRefused as refusal:
            self.get_logger().warning(f"refused {what}: {refusal}", throttle_duration_sec=1.0)
        self._report_change()

    def _on_joint_state(self, message: JointState) -> None:
        joints = self._joint_states.read(to_seconds(message.header.stamp), message.name, message.position, message.velocity)
        if joints is not None:
            self._motion.on_joint_state(*joints)

    def _on_emergency_stop(self, message: Bool) -> None:
        self._send(self._motion.on_emergency_stop(message.data, self.now()))
        self._report_change()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._motion.reset_emergency_stop(self.now())
            response.success, response.message = True, self._motion.status.reason
        except ValueError as error:
            response.success, response.message = False, str(error)
        self._report_change()
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        try:
            self._send(self._motion.pause(request.data, self.now()))
            response.success, response.message = True, self._motion.status.reason
        except ValueError as error:
            response.success, response.message = False, str(error)
        self._report_change()
        return response

    def _on_tick(self) -> None:
        self._cycles.note(time.monotonic())
        self._send(self._motion.tick(self.now()))
        if self._output.streams and self.running:  # a last stop is played by the output itself
            self._output.stream(self._motion.setpoint(self.now()))
        self._report_change()

    def _send(self, trajectory: Trajectory | None) -> None:
        if trajectory is not None and not self._shadow:
            self._output.send(trajectory)

    def _report_change(self) -> None:
        status = self._motion.status
        # A reason may be gone before the next status is due; that there is none any more can wait for it.
        reason = status.reason or (self._reported[2] if self._reported else "")
        if (status.state, status.source, reason) == self._reported:
            return
        before, self._reported = self._reported, (status.state, status.source, reason)
        if before is None or before[0] is not status.state:
            self.get_logger().info(f"{status.state.name.lower()}{': ' if status.reason else ''}{status.reason}")
        if before is None or before[1] is not status.source or before[0] is ExecutorState.INACTIVE:
            header = Header(stamp=to_stamp(self.now()))
            self._source.publish(ControlSource(header=header, source=int(status.source), reason=status.reason))
        self._publish_status()

    def _publish_status(self) -> None:
        self._status.publish(self._status_message())

    def _status_message(self) -> ExecutorStatus:
        return status_to_message(self._motion.status, self.now(), self._latencies.percentiles(), self._cycles)


def main(args: list[str] | None = None) -> None:
    """Entry point of ``ros2 run sf_policy_node chunk_executor``."""
    sys.exit(run(ChunkExecutorNode, args))


if __name__ == "__main__":
    main()
