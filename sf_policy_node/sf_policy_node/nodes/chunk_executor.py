"""The chunk executor as a ROS node: action chunks in, joint trajectories out. It decides nothing; ``motion.executor`` does."""

from __future__ import annotations

import sys
import time

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.contract import Contract
from sf_policy_node.latency import Latencies
from sf_policy_node.motion.checks import ChunkRefused
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import Trajectory
from sf_policy_node.nodes.conversions import chunk_from_message, status_to_message, to_seconds, trajectory_to_message
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode, run
from sf_policy_node.observation import JointStates

_STATUS_S = 0.1
_TICK_S_MIN = 0.01
_LAST_WORDS = Duration(nanoseconds=200_000_000)  # for the last stop to arrive before the node ends


class ChunkExecutorNode(ManagedNode):
    """Topics, services and parameters: ``doc/run.md``."""

    def __init__(self, **options) -> None:
        super().__init__("chunk_executor", **options)
        self.parameter("shadow", False, "do everything, send nothing")

    def set_up(self, contract: Contract) -> None:
        self._shadow = self.value("shadow")
        self._motion = ChunkExecutor(contract, shadow=self._shadow)
        self._joint_states = JointStates(contract)
        self._latencies = Latencies()
        self._reported: ExecutorState | None = None

        topics = contract.topics
        self._commands = self.publisher(JointTrajectory, contract.command.topic, QoSProfile(depth=1))
        self._status = self.publisher(ExecutorStatus, topics.executor_status, LATCHED)
        self.subscribe(ActionChunk, topics.action_chunk, self._on_chunk, QoSProfile(depth=5))
        self.subscribe(JointState, topics.joint_states, self._on_joint_state, qos_profile_sensor_data)
        self.subscribe_also_late(Bool, topics.emergency_stop, self._on_emergency_stop)
        service = self.create_service(Trigger, "~/reset_emergency_stop", self._on_reset)
        self.resources.callback(self.destroy_service, service)
        # The watchdog runs on real time: it must not stand still together with a simulated clock.
        real_time = Clock(clock_type=ClockType.STEADY_TIME)
        for period, callback in ((max(1.0 / contract.command.rate_hz, _TICK_S_MIN), self._on_tick), (_STATUS_S, self._publish_status)):
            self.resources.callback(self.destroy_timer, self.create_timer(period, callback, clock=real_time))
        self._publish_status()

    def start(self) -> None:
        self._motion.activate(self.now())
        self.get_logger().info("active" + (", in shadow mode: nothing is sent" if self._shadow else ""))
        self._publish_status()

    def stop(self) -> None:
        stop = self._motion.deactivate(self.now())
        self._send(stop)
        self._publish_status()
        if stop is not None and not self._shadow:
            self._commands.wait_for_all_acked(_LAST_WORDS)

    def _on_chunk(self, message: ActionChunk) -> None:
        received = time.perf_counter()
        chunk = chunk_from_message(message)
        try:
            trajectory = self._motion.on_chunk(chunk, self.now())
        except ChunkRefused as refusal:
            self.get_logger().warning(f"refused chunk {chunk.sequence}: {refusal}", throttle_duration_sec=1.0)
            return
        if self.now() > self._motion.joins_at:
            self._motion.withdraw(f"chunk {chunk.sequence} was not sent: this process stood still while it was planned")
            return
        self._send(trajectory)
        self._latencies.add(time.perf_counter() - received)
        self._report_change()

    def _on_joint_state(self, message: JointState) -> None:
        joints = self._joint_states.read(to_seconds(message.header.stamp), message.name, message.position, message.velocity)
        if joints is not None:
            self._motion.on_joint_state(*joints)
        elif self._joint_states.missing:
            names = ", ".join(self._joint_states.missing)
            self.get_logger().warning(f"joint states lack {names}", throttle_duration_sec=5.0)

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

    def _on_tick(self) -> None:
        self._send(self._motion.tick(self.now()))
        self._report_change()

    def _send(self, trajectory: Trajectory | None) -> None:
        if trajectory is not None and not self._shadow:
            self._commands.publish(trajectory_to_message(trajectory))

    def _report_change(self) -> None:
        status = self._motion.status
        if status.state is not self._reported:
            self.get_logger().info(f"{status.state.name.lower()}{': ' if status.reason else ''}{status.reason}")
            self._publish_status()

    def _publish_status(self) -> None:
        status = self._motion.status
        self._reported = status.state
        self._status.publish(status_to_message(status, self.now(), self._latencies.percentiles()))


def main(args: list[str] | None = None) -> None:
    """Entry point of ``ros2 run sf_policy_node chunk_executor``."""
    sys.exit(run(ChunkExecutorNode, args))


if __name__ == "__main__":
    main()
