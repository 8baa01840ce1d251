"""Observes the ``joint_trajectory_controller`` that receives the executor's trajectories.

Parameters and subscribers are read on every ROS 2 distribution. The controller's state and
reference come in messages of control_msgs and controller_manager_msgs, which are not on PyPI.
Where these packages are missing, diagnostics say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.client import Client
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from rclpy.timer import Timer
from trajectory_msgs.msg import JointTrajectory

from sf_policy_node.contract import Contract
from sf_policy_node.controller.presence import ControllerPresence
from sf_policy_node.controller.requirements import limiter_remarks, wanted_parameters
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.nodes.any_qos import full_name
from sf_policy_node.nodes.conversions import to_seconds
from sf_policy_node.nodes.other_commanders import OtherCommanders

try:  # come with ROS 2, or from source
    from control_msgs.msg import JointTrajectoryControllerState
except ImportError:
    JointTrajectoryControllerState = None
try:
    from controller_manager_msgs.msg import ControllerManagerActivity
    from controller_manager_msgs.srv import ListControllers
except ImportError:
    ControllerManagerActivity = ListControllers = None

_RETRY_S = 0.05
_RECHECK_S = 0.1  # time in which callbacks of reports that have arrived are run
_REPORT_S = 0.01  # period in which reports are processed; a controller sends up to 1000 per second
_LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)

Reference = Callable[[float, np.ndarray, np.ndarray, np.ndarray], None]


class ControllerWatch:
    """Watches the controller on a topic of ``contract.command_groups``.

    :meth:`look` must be called at least twice a second.

    Args:
        node: publishes the trajectories.
        resources: when they are closed, the watch ends its subscriptions and timers.
        topic: of the controller's commands; None: the only one of the contract.
        own: GIDs of the node's own publishers; the set may grow.
        on_reference: called with stamp [s], reference positions and velocities (N,) of the
            controller, and the indices (N,) of its joints in ``contract.command_joints``.
        on_lost: called with the reason when the controller no longer follows its trajectory.
        on_taken: the same, when another node has commanded it; None: ``on_lost``.
    """

    def __init__(
        self,
        node: Node,
        resources: ExitStack,
        contract: Contract,
        topic: str | None = None,
        *,
        own: Collection[str] = (),
        on_lost: Callable[[str], None],
        on_taken: Callable[[str], None] | None = None,
        on_reference: Reference | None = None,
    ) -> None:
        limits = JointLimits.of(contract)
        topic = contract.command.topic if topic is None else topic
        self.joints = np.array(contract.command_groups[topic])
        joints = tuple(limits.names[index] for index in self.joints)
        errors = dict(zip(limits.names, limits.tracking_error.tolist(), strict=True))
        self._node, self._joints = node, joints
        self._velocity = dict(zip(joints, limits.velocity[self.joints].tolist(), strict=True))
        self._urdf_xml = contract.urdf_xml
        self._on_reference, self._on_lost = on_reference, on_lost
        topic = node.resolve_topic_name(topic)
        finite = {name: error for name, error in errors.items() if np.isfinite(error)}
        self._presence = ControllerPresence(topic, joints, finite)
        self._own = (node.get_name(), node.get_namespace())
        self._endpoint, self._next_report = "", 0.0
        self._manager: dict[str, object] = {}
        self._removals: list[Callable[[], object]] = []
        self._recheck: Timer | None = None  # the timer for the next check while a report is overdue
        self._commanders = OtherCommanders(
            node, resources, JointTrajectory, topic, own, on_taken or on_lost
        )
        resources.callback(self._forget)

    @property
    def refusal(self) -> str:
        """Why the controller cannot be commanded now, with the cure; empty when it can."""
        if self.is_absent:
            self.look()  # it may have started since the last check
        return self._presence.refusal or self._commanders.refusal

    @property
    def is_absent(self) -> bool:
        """Whether no controller subscribed to the topic at the last check."""
        return self._presence.is_absent

    @property
    def unfit(self) -> str:
        """Why the controller's parameters are unsuitable, with the cure; empty while unknown."""
        return self._presence.unfit

    @property
    def topic(self) -> str:
        """Fully resolved topic of the trajectories."""
        return self._presence.topic

    @property
    def remarks(self) -> list[str]:
        """Warnings for the status, one sentence each."""
        found = self._presence.remarks
        if self._manager.get("enforce_command_limits"):
            found += limiter_remarks(self._urdf_xml, self._velocity)
        return found

    @property
    def summary(self) -> dict[str, str]:
        """Names and values for diagnostics."""
        missing = [
            package
            for package, message_type in (
                ("control_msgs", JointTrajectoryControllerState),
                ("controller_manager_msgs", ControllerManagerActivity),
            )
            if message_type is None
        ]
        values = self._presence.summary
        if missing:
            values["controller reports"] = (
                f"not received: {' and '.join(missing)} not installed; whether the controller is "
                "active shows only in its motion"
            )
        return values

    def look(self) -> None:
        """Check the topic's subscribers and publishers, and observe a controller that is new."""
        node, topic = self._node, self._presence.topic
        subscribers = {
            bytes(each.endpoint_gid).hex(): full_name(each)
            for each in node.get_subscriptions_info_by_topic(topic)
            if (each.node_name, each.node_namespace) != self._own
        }
        self._commanders.look()
        lost = self._presence.saw_topic(subscribers, self._commanders.names)
        lost = lost or self._presence.check_silence(self._now(), time.monotonic())
        if self._presence.is_overdue and self._recheck is None:
            self._recheck = node.create_timer(
                _RECHECK_S, self._look_again, clock=Clock(clock_type=ClockType.STEADY_TIME)
            )
        if self._endpoint != self._presence.endpoint:
            self._endpoint = self._presence.endpoint
            self._observe()
        if lost:
            self._on_lost(lost)

    # ---- observation ----

    def _now(self) -> float:
        """Return simulated time where it is used, else monotonic time [s]."""
        clock = self._node.get_clock()
        is_simulated = isinstance(clock, ROSClock) and clock.ros_time_is_active
        return clock.now().nanoseconds / 1e9 if is_simulated else time.monotonic()

    def _look_again(self) -> None:
        self._end_recheck()
        self.look()

    def _end_recheck(self) -> None:
        if self._recheck is not None:
            self._node.destroy_timer(self._recheck)
            self._recheck = None

    def _observe(self) -> None:
        """Read the parameters of the present controller and subscribe to its reports."""
        self._forget()
        if not (name := self._presence.name):
            return
        self._read_parameters(name, wanted_parameters, self._presence.saw_parameters)
        manager = f"{name.rpartition('/')[0]}/controller_manager"
        wanted = ["enforce_command_limits"]
        self._read_parameters(
            manager, lambda names: [each for each in names if each in wanted], self._manager.update
        )
        if JointTrajectoryControllerState is not None:
            message_type, qos = JointTrajectoryControllerState, qos_profile_sensor_data
            self._listen(message_type, f"{name}/controller_state", self._on_report, qos)
        if ControllerManagerActivity is not None:
            self._listen(
                ControllerManagerActivity, f"{manager}/activity", self._on_activity, _LATCHED
            )
            self._call(
                ListControllers,
                f"{manager}/list_controllers",
                ListControllers.Request(),
                self._on_list,
            )

    def _read_parameters(
        self,
        name: str,
        choose: Callable[[list[str]], list[str]],
        then: Callable[[dict], None],
    ) -> None:
        """Call ``then`` with names and values of the parameters whose names ``choose`` returns."""

        def ask(answer: ListParameters.Response) -> None:
            if names := choose(answer.result.names):
                request = GetParameters.Request(names=names)
                self._call(
                    GetParameters,
                    f"{name}/get_parameters",
                    request,
                    lambda values: then(_by_name(names, values.values)),
                )

        self._call(ListParameters, f"{name}/list_parameters", ListParameters.Request(), ask)

    def _call(self, service_type: type[Any], service: str, request: Any, then: Callable) -> None:
        """Call a service as soon as it is available.

        ``then`` gets the response, unless the controller has changed meanwhile.
        """
        node, endpoint = self._node, self._endpoint
        client: Client = node.create_client(service_type, service)
        self._removals.append(lambda: node.destroy_client(client))

        def done(future: Future) -> None:
            if endpoint == self._endpoint and future.exception() is None:
                then(future.result())

        def send() -> None:
            if client.service_is_ready():
                timer.cancel()
                client.call_async(request).add_done_callback(done)

        timer = node.create_timer(_RETRY_S, send, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._removals.append(lambda: node.destroy_timer(timer))
        send()

    def _listen(self, message_type: type, topic: str, callback: Callable, qos: QoSProfile) -> None:
        subscription = self._node.create_subscription(message_type, topic, callback, qos)
        self._removals.append(lambda: self._node.destroy_subscription(subscription))

    def _forget(self) -> None:
        removals, self._removals = self._removals, []
        for remove in removals:
            remove()
        self._manager = {}
        self._end_recheck()

    def _on_report(self, message: Any) -> None:
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + _REPORT_S
        # control_msgs of Humble has no such field.
        self._presence.saw_report(self._now(), getattr(message, "speed_scaling_factor", 0.0))
        reference = _ordered(message.joint_names, message.reference, self._joints)
        if reference is not None and self._on_reference is not None:
            self._on_reference(to_seconds(message.header.stamp), *reference, self.joints)

    def _on_activity(self, message: Any) -> None:
        for each in message.controllers:
            self._saw_state(each.name, each.state.label)

    def _on_list(self, response: Any) -> None:
        for each in response.controller:
            self._saw_state(each.name, each.state)

    def _saw_state(self, name: str, state: str) -> None:
        if name == self._presence.name.rpartition("/")[2] and (
            lost := self._presence.saw_state(state)
        ):
            self._on_lost(lost)


def _by_name(names: list[str], values: list) -> dict[str, object]:
    found = {
        name: parameter_value_to_python(value) for name, value in zip(names, values, strict=False)
    }
    return {name: value for name, value in found.items() if value is not None}


def _ordered(
    names: Sequence[str], point: Any, joints: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return positions and velocities (N,) of a point in the order of ``joints``.

    None if a joint or a position is missing. Missing velocities are 0.
    """
    index = {name: row for row, name in enumerate(names)}
    if not all(name in index for name in joints) or len(point.positions) != len(names):
        return None
    rows = [index[name] for name in joints]
    velocities = point.velocities if len(point.velocities) == len(names) else np.zeros(len(names))
    return np.asarray(point.positions)[rows], np.asarray(velocities)[rows]
