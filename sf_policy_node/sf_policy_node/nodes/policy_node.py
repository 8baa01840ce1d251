"""The ROS node of a policy: receives images, joint states and an instruction, publishes chunks.

``session`` makes all decisions. Image callbacks only store the message; a worker thread of the
session runs the policy.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from sf_msgs.msg import ActionChunk, ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract
from sf_policy_node.motion.safety.clock import future_s
from sf_policy_node.nodes.conversions import (
    chunk_to_message,
    clips_of,
    image_to_array,
    policy_status_to_message,
    to_seconds,
    to_stamp,
)
from sf_policy_node.nodes.diagnostics import Diagnostics, policy_diagnostics
from sf_policy_node.nodes.emergency_stop import EmergencyStop
from sf_policy_node.nodes.instruction_action import InstructionAction
from sf_policy_node.nodes.instruction_topic import InstructionTopic
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode, run
from sf_policy_node.nodes.surroundings import Unmatched
from sf_policy_node.perception.colour_conversion import cv_bridge_encodings
from sf_policy_node.perception.message_loss import Reception
from sf_policy_node.perception.observation import validate_instruction
from sf_policy_node.session.instruction_repeats import InstructionRepeats
from sf_policy_node.session.instruction_run import InstructionRun, Termination
from sf_policy_node.session.policy_session import PolicySession
from sf_policy_node.session.predictor import ActionPolicy
from sf_policy_node.session.status import PolicyState

PolicyFactory = Callable[[str, Contract, str], ActionPolicy]  # checkpoint path, contract, device
_HOUSEKEEPING_S = 0.1
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_ALONE_S = 2.0  # without an executor after this, the first instruction does not wait for one
_REPORT_EVERY = 5  # runs of the housekeeping: the status is published at 2 Hz
# Holds 0.1 s of a driver at 500 Hz, for a busy computer. All joint states before an image are
# needed, not only the newest one.
_JOINT_STATES = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


def load_policy(
    checkpoint: str, contract: Contract, device: str, mapping: str = ""
) -> ActionPolicy:
    """Load a checkpoint, or connect to a policy server.

    Modules are imported here, because they import torch.

    Raises:
        ValueError: no checkpoint is given.
    """
    if not checkpoint:
        raise ValueError(
            "checkpoint: no policy given; start with --ros-args -p checkpoint:=/path/to/checkpoint"
        )
    if "://" in checkpoint:
        from sf_policy_node.vla.remote.policy import load_remote

        return load_remote(checkpoint, contract, mapping)
    from sf_policy_node.vla.policy import Policy

    return Policy.load(checkpoint, contract=contract, device=device)


class PolicyNode(ManagedNode):
    """The node of a policy; ``doc/run.md`` lists topics, services, the action and parameters."""

    def __init__(self, policy_factory: PolicyFactory = load_policy, **options: Any) -> None:
        super().__init__("policy_node", **options)
        self._factory = policy_factory
        # Not of one configuration: a stop outlasts cleanup and configure.
        self._repeats = InstructionRepeats()
        self.parameter(
            "checkpoint",
            "",
            "directory of the trained policy, or a server: openpi://HOST:8000, oft://HOST:8777",
        )
        self.parameter(
            "mapping",
            "",
            "YAML with the keys, units and gripper values of a policy server; empty: the server is"
            " one of ours",
        )
        self.parameter("device", "auto", "auto (a GPU if there is one), cpu, cuda or cuda:N")
        again = (
            "followed from activation on, and by ~/start until there has been another; empty: wait"
            " for one"
        )
        self.parameter("instruction", "", again, live=True)
        replanned = (
            "steps of a chunk until the next one is predicted; a slower model: as often as it can"
        )
        self.parameter("replan_steps", 3, replanned, low=1, high=500)
        continued = (
            "a policy with a flow head continues its last chunk (real-time chunking); false: its"
            " chunks are blended"
        )
        self.parameter("real_time_chunking", False, continued)
        self.parameter(
            "instruction_timeout_s",
            60.0,
            "for action goals that name none",
            low=0.1,
            high=86400.0,
            live=True,
        )
        unseen = "an instruction is dropped after this long without a usable observation"
        self.parameter("observation_timeout_s", 5.0, unseen, low=0.1, high=3600.0)

    def set_up(self, contract: Contract) -> None:
        device = self.value("device")
        if not _DEVICE.fullmatch(device):
            raise ValueError(
                f"device: {device!r} is not one of auto, cpu, cuda or cuda:N (such as cuda:0)"
            )
        steps = self.value("replan_steps")
        if not 1 <= steps <= contract.action.horizon:
            raise ValueError(
                f"replan_steps: give 1 to {contract.action.horizon} (the contract's horizon), got"
                f" {steps}"
            )
        self._contract = contract
        self._cameras = {camera.name: camera for camera in contract.cameras}
        self._reception = Reception()
        self._has_one_publisher = False
        self._housekeepings, self._problem, self._problems = 0, "", ""
        self._unmatched = Unmatched(self, self.inputs)
        self._first_instruction, self._refused = "", 0
        self._is_executor_active, self._active_since = False, 0.0
        self._opened: PolicySession | None = None
        self._status = self.publisher(PolicyStatus, contract.topics.policy_status, LATCHED)
        self._publish_status(PolicyState.LOADING)

        served = (self.value("mapping"),) if self.value("mapping") else ()
        self._policy = self._factory(self.value("checkpoint"), contract, device, *served)
        self.resources.callback(getattr(self._policy, "close", lambda: None))
        self._policy.warm_up()
        cv_bridge_encodings()  # the first call takes up to a second: not while an image waits
        self._chunks = self.publisher(
            ActionChunk, contract.topics.action_chunk, QoSProfile(depth=2)
        )
        self._events = self.create_guard_condition(self._on_event)
        self.resources.callback(self.destroy_guard_condition, self._events)
        self._opened = PolicySession(
            contract,
            self._policy,
            decode=lambda camera, message: image_to_array(message, self._cameras[camera]),
            publish=lambda chunk: self._chunks.publish(chunk_to_message(chunk)),
            notify=self._events.trigger,
            clock=self.now,
            replan_s=steps * contract.action.step_s,
            observation_timeout_s=self.value("observation_timeout_s"),
            future_s=future_s(simulated=self.value("use_sim_time")),
            real_time_chunking=self.value("real_time_chunking"),
        )
        self.resources.callback(self._close_session)
        self._listen(contract)
        self._serve()
        self._publish_status()
        Diagnostics(
            self,
            lambda: policy_diagnostics(
                self._reported, contract, self._reception.recent(time.monotonic())
            ),
        )

    @property
    def _session(self) -> PolicySession:
        """The session, which is there from configuration to cleanup."""
        assert self._opened is not None
        return self._opened

    def _listen(self, contract: Contract) -> None:
        for camera in contract.cameras:
            message_type = CompressedImage if camera.transport == "compressed" else Image
            self.subscribe(
                message_type,
                camera.topic,
                lambda message, name=camera.name: self._on_image(name, message),
                qos_profile_sensor_data,
            )
        self.subscribe(
            JointState, contract.topics.joint_states, self._on_joint_state, _JOINT_STATES
        )
        self._instructions = InstructionTopic(
            self,
            contract.topics.instruction,
            lambda: self._session.run,
            self._follow,
            self._refuse,
            self._repeats,
        )
        self._emergency_stop = EmergencyStop(
            self, contract, self._on_emergency_stop, getattr(self, "_emergency_stop", None)
        )
        self.subscribe(
            ExecutorStatus, contract.topics.executor_status, self._on_executor_status, LATCHED
        )

    def _serve(self) -> None:
        services = {
            "start": (Trigger, self._on_start),
            "stop": (Trigger, self._on_stop),
            "pause": (SetBool, self._on_pause),
        }
        for name, (service_type, answer) in services.items():
            self.resources.callback(
                self.destroy_service, self.create_service(service_type, f"~/{name}", answer)
            )
        self._action = InstructionAction(
            self,
            begin=lambda text, timeout_s: self._begin(
                text, timeout_s or self.value("instruction_timeout_s")
            ),
            cancel=lambda each, why: self._session.end(Termination.CANCELLED, why, each),
        )
        timer = self.create_timer(
            _HOUSEKEEPING_S, self._housekeep, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.resources.callback(self.destroy_timer, timer)

    def start(self) -> None:
        self._active_since = time.monotonic()
        first = self.value("instruction")
        self._first_instruction = validate_instruction(first) if first else ""
        self.get_logger().info(f"active with {self._policy.policy_id} on {self._policy.device}")

    def stop(self) -> None:
        self._end("the policy node was deactivated")
        self._on_event()

    def _close_session(self) -> None:
        self._session.close()
        self._opened = None

    # ---- inputs ----

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        self._session.add_image(camera, to_seconds(message.header.stamp), message)

    def _on_joint_state(self, message: JointState, info: dict) -> None:
        self._count(info)
        self._session.add_joint_state(
            to_seconds(message.header.stamp), message.name, message.position
        )

    def _count(self, info: dict) -> None:
        """Record the sequence number of a joint state, so that lost ones are counted."""
        publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
        # Before Kilted rclpy does not report the publisher, so the sequence numbers of several
        # publishers cannot be distinguished.
        sequence = (
            info.get("publication_sequence_number")
            if publisher or self._has_one_publisher
            else None
        )
        self._reception.add(time.monotonic(), sequence, publisher)

    def _follow(self, text: str) -> None:
        try:
            self._begin(text)
        except ValueError as error:
            self._refuse(f"instruction refused: {error}")

    def _refuse(self, reason: str) -> None:
        self.get_logger().warning(reason)
        self._session.refuse(reason)
        self._publish_status()

    def _begin(self, text: str, timeout_s: float | None = None) -> InstructionRun:
        if self._emergency_stop.pressed:
            raise ValueError(
                self._emergency_stop.problem
                or "the emergency stop is pressed; release it and reset it first"
            )
        return self._session.begin(text, timeout_s)

    def _on_emergency_stop(self, pressed: bool) -> None:
        if pressed:
            self._end("emergency stop")

    def _end(self, reason: str) -> None:
        """End the current instruction; repeating its text does not start it again."""
        self._first_instruction = ""
        self._instructions.stop()
        self._session.end(Termination.STOPPED, reason)

    def _on_executor_status(self, message: ExecutorStatus) -> None:
        self._session.note_clips(clips_of(message))
        if message.chunks_refused > self._refused or message.state not in (
            ExecutorStatus.EXECUTING,
            ExecutorStatus.HOLDING,
        ):
            # HOLDING is not used: it may have been sent before the last chunk arrived there.
            self._session.note_not_followed()
        self._refused = message.chunks_refused
        self._is_executor_active = message.state != ExecutorStatus.INACTIVE
        if self._is_executor_active:
            self._emergency_stop.note_executor(stopped=message.state == ExecutorStatus.STOPPED)
        self._instructions.note_executor(message)
        current = self._session.run
        if current is not None and self._instructions.is_asked_for(current):
            self._session.end(Termination.STOPPED, f"the executor {message.reason}", current)
            self._instructions.ask_for(current.instruction)

    # ---- services ----

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        current, last = self._session.run, self._session.last_run
        text = last.instruction if last else self.value("instruction")
        try:
            if not self.running:
                raise ValueError("the policy node is not active; activate it first")
            if not text:
                raise ValueError(
                    "there is no instruction to start; publish one, or set the parameter"
                    " instruction"
                )
            if current is None:
                self._begin(text)
            else:
                self._session.pause(False)
            response.success, response.message = True, f"follows {text!r}"
        except ValueError as error:
            response.success, response.message = False, str(error)
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        current = self._session.run
        text = current.instruction if current else self._first_instruction
        self._end("stopped by the stop service")
        response.success = bool(text)
        response.message = f"no longer following {text!r}" if text else "there was no instruction"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        try:
            current = self._session.pause(request.data)
            response.success, response.message = (
                True,
                f"{'paused' if request.data else 'follows'} {current.instruction!r}",
            )
        except ValueError as error:
            response.success, response.message = False, str(error)
        return response

    # ---- reports ----

    def _on_event(self) -> None:
        if self._opened is None:
            return
        for ended in self._session.take_ended():
            assert ended.ended is not None
            self._action.finish(ended)
            took = (
                f"{ended.instruction!r} ended after {ended.duration_s:.1f} s and {ended.chunks}"
                f" chunks: {ended.message}"
            )
            self.get_logger().info(
                f"{took}; {ended.cadence_report(ended.ended)}; {ended.clips} clips"
            )
        self._publish_status()

    def _housekeep(self) -> None:
        # Simulated time is 0 before its first message, and nothing can be timed then.
        if self.running and self._first_instruction and self.now() > 0.0 and self._may_begin():
            first, self._first_instruction = self._first_instruction, ""
            self._follow(first)
        self._session.check_time()
        self._look_around()
        self._housekeepings += 1
        if self._housekeepings % _REPORT_EVERY:
            return
        self._has_one_publisher = self.count_publishers(self._contract.topics.joint_states) == 1
        self._publish_status()
        if (current := self._session.run) is not None:
            self._action.report(current, self.now(), self._progress())

    def _may_begin(self) -> bool:
        """Return whether the first instruction may begin: no executor is coming up.

        One that was activated later would ask for the instruction again.
        """
        if self._is_executor_active:
            return True
        is_alone = not self.count_publishers(self._contract.topics.executor_status)
        return is_alone and time.monotonic() - self._active_since > _ALONE_S

    def _look_around(self) -> None:
        self._unmatched.look()
        problems = "; ".join(
            each for each in (self._emergency_stop.problem, *self._unmatched.problems) if each
        )
        if problems and problems != self._problems:
            self.get_logger().warning(problems)
        self._problems = problems

    def _progress(self) -> str:
        """Return for what the policy waits, else for what the executor waits, else the policy's
        state.
        """
        reported = self._reported
        if (
            reported.state == PolicyStatus.RUNNING
            and not reported.reason
            and self._instructions.executor_reason
        ):
            return f"executor: {self._instructions.executor_reason}"
        return reported.reason or PolicyState(reported.state).name.lower()

    def _publish_status(self, state: PolicyState | None = None) -> None:
        if self._opened is None:
            assert state is not None  # the caller's, while there is no session
            message = PolicyStatus(
                state=int(state),
                camera_names=self._contract.camera_names,
                camera_skew_s=-1.0,
                joint_state_age_s=-1.0,
            )
            message.camera_age_s = [-1.0] * len(self._contract.cameras)
        else:
            status = self._session.status()
            message = policy_status_to_message(status)
            message.policy_id, message.device = self._policy.policy_id, self._policy.device
            message.camera_names = self._contract.camera_names
            message.reason = "; ".join(each for each in (message.reason, self._problems) if each)
            if (
                status.state in (PolicyState.WAITING, PolicyState.ERROR)
                and status.reason != self._problem
            ):
                self.get_logger().warning(status.reason, throttle_duration_sec=1.0)
            self._problem = status.reason
        message.header = Header(stamp=to_stamp(self.now()))
        self._reported = message
        self._status.publish(message)


def main(args: list[str] | None = None) -> None:
    """Entry point of ``ros2 run sf_policy_node policy_node``."""
    sys.exit(run(PolicyNode, args))


if __name__ == "__main__":
    main()
