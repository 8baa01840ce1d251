"""The ROS node of the chunk executor: receives action chunks and publishes joint trajectories.

``motion.executor`` makes all decisions.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from sf_msgs.msg import ActionChunk, ControlSource, ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract
from sf_policy_node.motion.cycles import Cycles
from sf_policy_node.motion.executor import TICK_S_MIN, ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused, MotionDelayed, MotionRefused
from sf_policy_node.motion.safety.clock import future_s
from sf_policy_node.motion.state_machine import State
from sf_policy_node.motion.status import ExecutorState, RepeatedReasons
from sf_policy_node.motion.supervisor import STATE_REASONS
from sf_policy_node.motion.types import ControlSource as Source
from sf_policy_node.motion.types import Join, Setpoint, Trajectory
from sf_policy_node.nodes.any_qos import publisher_of, same_process
from sf_policy_node.nodes.controller_watch import ControllerWatch
from sf_policy_node.nodes.conversions import (
    chunk_from_message,
    status_to_message,
    to_seconds,
    to_stamp,
)
from sf_policy_node.nodes.diagnostics import Diagnostics, executor_diagnostics
from sf_policy_node.nodes.emergency_stop import EmergencyStop
from sf_policy_node.nodes.home_action import HomeAction
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode, run
from sf_policy_node.nodes.other_commanders import OtherCommanders
from sf_policy_node.nodes.outputs import make_output, sampled, streamed_topics
from sf_policy_node.nodes.pose_motion import PoseMotion
from sf_policy_node.nodes.rest_motion import RestMotion
from sf_policy_node.nodes.static_frames import listen
from sf_policy_node.nodes.surroundings import JointSources, Rivals, Unmatched
from sf_policy_node.perception.joint_states import JointStates
from sf_policy_node.session.latency import Latencies

_STATUS_S = 0.1
_LOOK_S = 0.1  # period in which publishers and subscribers are checked, one topic at a time
_RIVAL_S = 1.0  # how long the status of another executor, sent every 0.1 s, counts
_UNUSED_S = 1.0  # how long a leader's message that cannot be used stays in the status
_COMES_UP_S = 2.5  # a driver or a controller may start this long after the activation
# An executor that receives the status of another one this soon after its activation is the later
# one.
_NEWCOMER_S = 3.0
# All joint states of a delay of this process, so that it is told from a clock that was set.
_JOINT_STATES = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
_LEADER = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches every publisher
_JOINS = ("policy", "blend", "ensemble", "rtc")


class ChunkExecutorNode(ManagedNode):
    """The node of the chunk executor; ``doc/run.md`` lists topics, services and parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__("chunk_executor", **options)
        self.parameter("shadow", False, "do everything, send nothing")
        self.parameter(
            "join",
            "policy",
            "blending mode of the chunks; policy: the one of the checkpoint",
            choices=_JOINS,
        )

    def set_up(self, contract: Contract) -> None:
        self._contract, self._shadow, join = contract, self.value("shadow"), self.value("join")
        before: ChunkExecutor | None = getattr(self, "_motion", None)
        simulated = self.value("use_sim_time")
        self._joint_states = JointStates(contract, future_s=future_s(simulated=simulated))
        self._motion = ChunkExecutor(
            contract,
            shadow=self._shadow,
            join=None if join == "policy" else Join[join.upper()],
            stopwatch=time.monotonic,
            simulated=simulated,
            joint_state_problem=self._joint_states.problem,
        )
        if before is not None:
            self._motion.inherit_emergency_stop(before)
        self._latencies = Latencies()
        self._chunks_from = ""
        self._reported: tuple | None = None
        self._repeated = RepeatedReasons(_STATUS_S)
        self._output = make_output(self, contract, self._motion.workspace)
        self._controllers: list[ControllerWatch] = []
        if contract.output == "joint_trajectory" and not self._shadow:
            for topic, joints in contract.command_groups.items():
                lost = functools.partial(self._on_controller_lost, joints)
                watch = ControllerWatch(
                    self,
                    self.resources,
                    contract,
                    topic,
                    own=self.own_publishers,
                    on_lost=lost,
                    on_taken=functools.partial(lost, taken=True),
                    on_reference=self._motion.on_controller_reference,
                )
                self._controllers.append(watch)

        self._commanders = [] if self._shadow else self._watch_streams(contract)
        # The stop of the streamed topics that another node has not taken.
        self._others_stop: Trajectory | None = None
        if contract.action.space.is_tool:
            listen(self, self._motion.frames)
        topics = contract.topics
        self._joint_sources = {
            topic: JointSources(self, topic, contract.command_joints)
            for topic in (topics.joint_states, topics.teleop_command, topics.replay_command)
        }
        # By topic: why a leader's messages are not used, and when the last one was received [s].
        self._unused: dict[str, tuple[str, float]] = {}
        self._rivals = Rivals(self, topics.executor_status, self.own_publishers)
        self._rival = ""
        self._active_since, self._waits_until = -math.inf, time.monotonic() + _COMES_UP_S
        self._status = self.publisher(ExecutorStatus, topics.executor_status, LATCHED)
        self._source = self.publisher(ControlSource, topics.control_source, LATCHED)
        self.subscribe(ActionChunk, topics.action_chunk, self._on_chunk, QoSProfile(depth=5))
        self.subscribe(
            PolicyStatus, topics.policy_status, self._on_policy_status, QoSProfile(depth=5)
        )
        self.subscribe(JointState, topics.joint_states, self._on_joint_state, _JOINT_STATES)
        for topic, source in (
            (topics.teleop_command, Source.TELEOPERATION),
            (topics.replay_command, Source.REPLAY),
        ):
            self.subscribe(
                JointState,
                topic,
                functools.partial(self._on_leader, source, topic, JointStates(contract)),
                _LEADER,
            )
        self._emergency_stop = EmergencyStop(
            self, contract, self._on_emergency_stop, getattr(self, "_emergency_stop", None)
        )
        self.subscribe(
            ExecutorStatus, topics.executor_status, self._on_executor_status, QoSProfile(depth=5)
        )
        for service_type, name, callback in (
            (Trigger, "~/reset_emergency_stop", self._on_reset),
            (SetBool, "~/pause", self._on_pause),
        ):
            self.resources.callback(
                self.destroy_service, self.create_service(service_type, name, callback)
            )
        pose_motion = PoseMotion(self, self._motion, self._cannot_send, self._send)
        self._home = HomeAction(self, pose_motion)
        self._rest = RestMotion(self, self._motion, pose_motion, self._send)
        # The watchdog runs on real time: it must not pause together with a simulated clock.
        real_time = Clock(clock_type=ClockType.STEADY_TIME)
        period = (
            1.0 / contract.rate_hz
            if self._output.streams
            else max(1.0 / contract.rate_hz, TICK_S_MIN)
        )
        self._cycles = Cycles(period)
        self._problems: list[str] = []
        self._unmatched = Unmatched(self, self.inputs)
        timers = (
            (period, self._on_tick),
            (_STATUS_S, self._publish_status),
            (_LOOK_S, self._look_around),
        )
        for seconds, step in timers:
            self.resources.callback(
                self.destroy_timer, self.create_timer(seconds, step, clock=real_time)
            )
        Diagnostics(self, self._describe)
        self._report_change()

    def _watch_streams(self, contract: Contract) -> list[OtherCommanders]:
        """Return a watch of every topic on which this node streams commands."""
        return [
            OtherCommanders(
                self,
                self.resources,
                message_type,
                self.resolve_topic_name(topic),
                self.own_publishers,
                functools.partial(self._on_controller_lost, joints, taken=True),
            )
            for message_type, topic, joints in streamed_topics(contract)
        ]

    def settle(self) -> float:
        return _RIVAL_S if self._rivals.possible else 0.0

    def start(self) -> None:
        if self._rival:
            raise ValueError(self._rival)
        if unfit := next((each.unfit for each in self._controllers if each.unfit), ""):
            raise ValueError(unfit)
        self._active_since, self._others_stop = time.monotonic(), None
        self._waits_until = self._active_since + _COMES_UP_S
        self._motion.activate(self.now())
        self.get_logger().info(
            "active" + (", in shadow mode: nothing is sent" if self._shadow else "")
        )
        self._report_change()

    def finish(self) -> bool:
        self._home.abort("the executor is shutting down")
        if not self._shadow:
            self._rest.begin()
        return not self._rest.is_over

    def stop(self) -> None:
        stop = self._motion.deactivate(self.now())
        self._send(stop)
        self._report_change()
        if stop is not None and not self._shadow:
            self._output.flush()
        elif not self._shadow:  # after a stall there is no stop: a last twist must not continue
            self._output.stream(None)

    def _on_chunk(self, message: ActionChunk, info: dict) -> None:
        received = time.perf_counter()
        chunk = chunk_from_message(message)
        try:
            if refusal := self._cannot_send():
                raise ChunkRefused(refusal)
            trajectory = self._motion.on_chunk(chunk, self.now())
        except ChunkRefused as refusal:
            self.get_logger().warning(
                f"refused chunk {chunk.sequence}: {refusal}", throttle_duration_sec=1.0
            )
            self._report_change()
            return
        if self._motion.is_too_late(self.now()):
            self._motion.withdraw(
                f"chunk {chunk.sequence} was not sent: this process stalled while it was planned"
            )
            self._report_change()
            return
        self._chunks_from = publisher_of(info)  # not of a refused chunk: its policy is not followed
        self._send(trajectory)
        self._latencies.add(time.perf_counter() - received)
        self._report_change()

    def _on_policy_status(self, message: PolicyStatus, info: dict) -> None:
        if self._chunks_from and not same_process(publisher_of(info), self._chunks_from):
            return  # another policy node, which may be idle
        following = message.state in (PolicyStatus.RUNNING, PolicyStatus.WAITING)
        reason = message.reason or {PolicyStatus.PAUSED: "the policy is paused"}.get(
            message.state, "the policy follows no instruction"
        )
        self._send(
            self._motion.on_policy_state(following, message.epoch, f"stopped: {reason}", self.now())
        )
        self._report_change()

    def _on_leader(
        self, source: Source, topic: str, joints: JointStates, message: JointState, info: dict
    ) -> None:
        self._joint_sources[topic].receive(message.name, publisher_of(info))
        command = joints.read(
            to_seconds(message.header.stamp), message.name, message.position, message.velocity
        )
        what = f"a {source.name.lower()} command"
        if command is None:
            fault = joints.fault or ("name no joint" if joints.missing else "")
            if fault:
                problem = f"{source.name.lower()} commands on {topic} are not used: they {fault}"
                self._unused[topic] = (problem, time.monotonic())
            return
        self._unused.pop(topic, None)
        if self._shadow:
            self.get_logger().info(
                f"{what} is not followed: this executor is in shadow mode", once=True
            )
            return
        try:
            if refusal := self._cannot_send():
                raise MotionRefused(refusal)
            trajectory = self._motion.on_teleoperation(*command, self.now(), source)
            if self._motion.is_too_late(self.now()):
                self._motion.withdraw_teleoperation()
                raise MotionRefused("this process stalled while its motion was planned")
            self._send(trajectory)
        except MotionRefused as refusal:
            problem = f"refused {what}: {refusal}"
            if not isinstance(refusal, MotionDelayed):  # the operator waits and does nothing else
                self._unused[topic] = problem, time.monotonic()
            self.get_logger().warning(problem, throttle_duration_sec=1.0)
        self._report_change()

    def _on_joint_state(self, message: JointState, info: dict) -> None:
        topic = self._contract.topics.joint_states
        self._joint_sources[topic].receive(message.name, publisher_of(info))
        stamp = to_seconds(message.header.stamp)
        if self._motion.other_joints:
            self._motion.other_joints.add(stamp, message.name, message.position, self.now())
        joints = self._joint_states.read(stamp, message.name, message.position, message.velocity)
        if joints is not None:
            self._motion.on_joint_state(*joints)

    def _on_emergency_stop(self, pressed: bool) -> None:
        self._send(self._motion.on_emergency_stop(pressed, self.now()))
        self._report_change()

    def _on_executor_status(self, message: ExecutorStatus, info: dict) -> None:
        """Shut down if another executor was active on this arm's topics before this one."""
        if message.state == ExecutorStatus.INACTIVE:
            return
        late = abs(self.now() - to_seconds(message.header.stamp)) > _RIVAL_S
        if not (name := self._rivals.find(message, publisher_of(info), late=late)):
            return
        self._rival = (
            f"another executor is active on {self._contract.topics.executor_status} ({name}): two"
            " executors must not command one arm; stop one of them, or give each its own topics or"
            " ROS_DOMAIN_ID"
        )
        self._rival_at = time.monotonic()
        if self.running and self._rival_at - self._active_since < _NEWCOMER_S:
            self.give_up(self._rival)

    def _cannot_send(self) -> str:
        """Return why a controller cannot be commanded now, and the cure; empty if all can."""
        if not self.running:
            return ""
        watches: list[ControllerWatch | OtherCommanders] = [*self._controllers, *self._commanders]
        return next((refusal for each in watches if (refusal := each.refusal)), "")

    def _on_controller_lost(self, joints: list[int], reason: str, *, taken: bool = False) -> None:
        if not self.running and not taken:
            return  # nothing is sent; at the end of a graph its controller may leave first
        self.get_logger().warning(reason)
        # If taken, the last command no longer counts, also after an activation.
        stop = self._motion.on_controller_lost(reason, self.now(), joints, taken=taken)
        self._send(stop if self.running else None)
        self._others_stop = stop if self._output.streams and self.running else None
        self._report_change()

    def _describe(self) -> DiagnosticStatus:
        several = len(self._controllers) > 1
        controllers = {
            f"{name} of {each.topic}" if several else name: value
            for each in self._controllers
            for name, value in each.summary.items()
        }
        problems = self._problems if self.running else []
        return executor_diagnostics(self._status_message(), self._contract, controllers, problems)

    def _look_around(self) -> None:
        """Check for missing subscribers, publishers that do not match, and missing joint states."""
        if self._rival and time.monotonic() - self._rival_at > _RIVAL_S:
            self._rival = ""
        problems = [self._rival] if self._rival else []
        problems += [self._emergency_stop.problem] if self._emergency_stop.problem else []
        moment = time.monotonic()
        problems += [text for text, at in self._unused.values() if moment - at < _UNUSED_S]
        lies = "wrong joint states" in self._motion.status.reason
        sources = [each.problem(suspected=lies) for each in self._joint_sources.values()]
        problems += [each for each in sources if each]
        now, waits = self.now(), moment < self._waits_until
        others = self._motion.other_joints.problem(now, waits=waits)
        problems += [others] if others else []
        if not waits and (now <= 0.0 or self._joint_states.missing):
            problem = self._joint_states.problem(now)
            problems += [problem] if problem not in self._motion.status.reason else []
        watched = {each.topic for each in self._controllers}
        for controller in self._controllers:
            controller.look()
            refusal = controller.refusal
            problems += [refusal] if refusal and not (waits and controller.is_absent) else []
            problems += controller.remarks
        if not self._shadow and not waits:
            problems += [
                f"no node subscribes to {topic}: start the controller, or correct section command"
                " of the contract"
                for topic, listeners in self._output.listeners()
                if not listeners and topic not in watched
            ]
        for commanders in self._commanders:
            commanders.look()
            problems += [commanders.refusal] if commanders.refusal else []
            problems += [
                f"{name} publishes on {commanders.topic} too: only one node may command it; stop"
                " it, or give it another topic"
                for name in sorted(commanders.names)
            ]
        self._unmatched.look()
        problems += self._unmatched.problems
        if not self.running:
            problems = []  # the first look after the activation warns
        for problem in problems:
            if problem not in self._problems:
                self.get_logger().warning(problem)
        self._problems = problems

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            ended = self._emergency_stop.reset()
            self._motion.on_emergency_stop(False, self.now())
            self._motion.reset_emergency_stop(self.now())
            response.success, response.message = True, self._motion.status.reason
            if ended:
                response.message += f"; it was pressed by {ended}, whose program has ended"
                self.get_logger().warning(response.message)
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
        self._home.step()
        self._rest.step()
        if self._output.streams and self.running:  # after that, the output's flush() sends the stop
            self._output.stream(self._setpoint(self.now()))
        self._report_change()

    def _setpoint(self, now: float) -> Setpoint | None:
        """Return the command to stream at ``now`` [s]: of the motion, or of the stop of the topics
        that another node has not taken.
        """
        setpoint = self._motion.setpoint(now)
        if setpoint is not None:
            self._others_stop = None
        elif self._others_stop is not None:
            setpoint = sampled(self._others_stop, now)
        return setpoint

    def _send(self, trajectory: Trajectory | None) -> None:
        if trajectory is not None and not self._shadow:
            self._output.send(trajectory)

    def _report_change(self) -> None:
        status = self._motion.status
        # A new reason is published at once, since it may be replaced before the next status is due.
        # That a reason has gone can wait for the next status.
        reason = status.reason or (self._reported[2] if self._reported else "")
        if (status.state, status.source, reason) == self._reported:
            return
        before, self._reported = self._reported, (status.state, status.source, reason)
        repeated = self._repeated.is_repeated(reason, time.monotonic())
        if repeated and before is not None and before[:2] == self._reported[:2]:
            return  # the next status, within 0.1 s, has it
        if before is None or before[0] is not status.state:
            name = status.state.name.lower()
            reason = "" if status.reason == STATE_REASONS[State.INACTIVE] else status.reason
            self.get_logger().info(f"{name}{': ' if reason else ''}{reason}")
        if before is None or before[1] is not status.source or before[0] is ExecutorState.INACTIVE:
            header = Header(stamp=to_stamp(self.now()))
            self._source.publish(
                ControlSource(header=header, source=int(status.source), reason=status.reason)
            )
        self._publish_status()

    def _publish_status(self) -> None:
        message = self._status_message()
        self._rivals.sent(message)
        self._status.publish(message)

    def _status_message(self) -> ExecutorStatus:
        message = status_to_message(
            self._motion.status, self.now(), self._latencies.percentiles(), self._cycles
        )
        if self.running:
            message.reason = "; ".join(each for each in (message.reason, *self._problems) if each)
        return message


def main(args: list[str] | None = None) -> None:
    """Entry point of ``ros2 run sf_policy_node chunk_executor``."""
    sys.exit(run(ChunkExecutorNode, args))


if __name__ == "__main__":
    main()
