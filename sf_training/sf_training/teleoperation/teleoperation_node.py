"""``ros2 run sf_training teleoperation``: move the arm with a leader arm, gamepad, SpaceMouse or
keyboard while a dead-man switch is held.

The node publishes ``topics.teleop_command``; the executor checks the commands with the same guard
as those of a policy. While the switch is open nothing is published, and the executor stops the arm.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Float64MultiArray, Header, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract
from sf_policy_node.nodes.conversions import to_seconds, to_stamp
from sf_policy_node.nodes.lifecycle import LATCHED, ManagedNode, run
from sf_policy_node.perception.observation import JointStates
from sf_training.teleoperation import device as devices
from sf_training.teleoperation.session import TeleoperationSession

_STATE_S = 0.2  # period at which the state for the operator is updated
_POLICY_S = 2.0  # without a status for longer, the policy is not running
_RETRY_S = 0.5  # until the pause service of the executor is called again
_TAKEOVER_S = 0.5  # time in which the executor gives control, or its reason is reported


class TeleoperationNode(ManagedNode):
    """Lifecycle node; topics, services and parameters are in ``doc/teleoperate.md``."""

    def __init__(self, **options: Any) -> None:
        super().__init__("teleoperation", **options)
        self.parameter(
            "device",
            "",
            "path of the device's YAML; examples are in sf_bringup/config/teleoperation",
        )

    def set_up(self, contract: Contract) -> None:
        """Configure: load the device, subscribe to it and to the arm."""
        path = self.value("device")
        if not path:
            raise devices.DeviceError(
                "device: is empty; give one with --ros-args -p device:=/path/to/gamepad.yaml"
            )
        device = devices.load_device(path)
        self._contract, self._device = contract, device
        self._session = TeleoperationSession(contract, device)
        self._joints = JointStates(contract)
        self._executor: ExecutorStatus | None = None
        self._reported = ""
        self._engaged_at = -math.inf
        self._before: float | None = None
        self._policy_until = -math.inf
        self._followed = self._waits = self._stopping = False
        self._retry_at = -math.inf
        topics = contract.topics
        self._commands = self.publisher(JointState, topics.teleop_command, QoSProfile(depth=1))
        self._state = self.publisher(String, "~/state", LATCHED)
        self._emergency_stop = (
            self.publisher(Bool, topics.emergency_stop, LATCHED) if device.emergency_stop else None
        )
        for topic in self._joy_topics():
            # Best effort matches every publisher. The next message replaces a lost one, and silence
            # opens the switch.
            self.subscribe(
                Joy,
                topic,
                lambda message, topic=topic: self._on_joy(topic, message),
                qos_profile_sensor_data,
            )
        self._subscribe_device()
        self.subscribe(
            JointState, topics.joint_states, self._on_joint_state, qos_profile_sensor_data
        )
        self.subscribe(
            ExecutorStatus, topics.executor_status, self._on_executor, QoSProfile(depth=5)
        )
        self.subscribe(PolicyStatus, topics.policy_status, self._on_policy, QoSProfile(depth=5))
        self._subscribe_gripper()
        self._pause: Client = self.create_client(SetBool, "chunk_executor/pause")
        self.resources.callback(self.destroy_client, self._pause)
        self.resources.callback(
            self.destroy_service, self.create_service(Trigger, "~/resume", self._on_resume)
        )
        real_time = Clock(clock_type=ClockType.STEADY_TIME)
        timers = ((1.0 / device.rate_hz, self._on_tick), (_STATE_S, self._report_state))
        for seconds, callback in timers:
            self.resources.callback(
                self.destroy_timer, self.create_timer(seconds, callback, clock=real_time)
            )

    def start(self) -> None:
        """Activate: the switch must be released once before it counts."""
        self._session.trip("teleoperation was started")
        self.get_logger().info(
            f"{self._device.name}: active; commands go to {self._contract.topics.teleop_command}"
        )

    def stop(self) -> None:
        """Deactivate: end teleoperation."""
        self._session.trip("teleoperation was stopped")

    # ---- input ----

    def _joy_topics(self) -> list[str]:
        device = self._device
        topics = [device.dead_man.topic] if device.dead_man.type == "joy" else []
        topics += [device.motion.topic] if isinstance(device.motion, devices.Stick) else []
        topics += [
            each.topic for each in (device.gripper, device.resume, device.emergency_stop) if each
        ]
        return list(dict.fromkeys(topics))

    def _subscribe_device(self) -> None:
        device, motion = self._device, self._device.motion
        if device.dead_man.type == "bool":
            self.subscribe(Bool, device.dead_man.topic, self._on_switch, qos_profile_sensor_data)
        for arm, leader in device.leaders(self._contract).items():
            self.subscribe(
                JointState,
                leader.topic,
                functools.partial(self._on_leader, arm),
                qos_profile_sensor_data,
            )
        if isinstance(motion, devices.Twist):
            self.subscribe(
                TwistStamped if motion.stamped else Twist,
                motion.topic,
                self._on_twist,
                qos_profile_sensor_data,
            )

    def _subscribe_gripper(self) -> None:
        """Subscribe to the commands of grippers, to keep their grip at a takeover. Goals of an
        action cannot be subscribed to.
        """
        contract, reliable = self._contract, QoSProfile(depth=5)
        for name, arm in contract.arms.items():
            own = arm.command.gripper
            if arm.gripper and own and own.output == "forward_command":
                numbers = functools.partial(self._on_numbers_sent, {name: 0})
                self.subscribe(Float64MultiArray, own.topic, numbers, reliable)
        outputs: dict[str, tuple[type, Callable[[dict[str, int], Any], None]]] = {
            "forward_command": (Float64MultiArray, self._on_numbers_sent),
            "joint_trajectory": (JointTrajectory, self._on_trajectory_sent),
        }
        if contract.output not in outputs:
            return
        message_type, take = outputs[contract.output]
        for topic, joints in contract.command_groups.items():
            names = [contract.command_joints[joint] for joint in joints]
            grippers = {
                name: names.index(arm.gripper.joint)
                for name, arm in contract.arms.items()
                if arm.gripper and arm.gripper.joint in names
            }
            self.subscribe(message_type, topic, functools.partial(take, grippers), reliable)

    def _on_joy(self, topic: str, message: Joy) -> None:
        self._session.on_joy(topic, message.axes, message.buttons, time.monotonic())
        if self._session.emergency_stop != self._stopping:
            self._stopping = self._session.emergency_stop
            assert self._emergency_stop is not None  # the device has the button
            self._emergency_stop.publish(Bool(data=self._stopping))

    def _on_switch(self, message: Bool) -> None:
        self._session.on_switch(message.data, time.monotonic())

    def _on_twist(self, message: Twist | TwistStamped) -> None:
        twist = message.twist if isinstance(message, TwistStamped) else message
        linear, angular = twist.linear, twist.angular
        self._session.on_twist(
            (linear.x, linear.y, linear.z), (angular.x, angular.y, angular.z), time.monotonic()
        )

    def _on_leader(self, arm: str, message: JointState) -> None:
        self._session.on_leader(
            message.name, message.position, message.velocity, time.monotonic(), arm
        )

    def _on_joint_state(self, message: JointState) -> None:
        joints = self._joints.read(
            to_seconds(message.header.stamp), message.name, message.position, message.velocity
        )
        if joints is not None:
            self._session.on_measured(joints[1], joints[2], time.monotonic())

    def _on_trajectory_sent(self, grippers: dict[str, int], message: JointTrajectory) -> None:
        for arm in grippers:
            name = self._contract.arms[arm].fitted_gripper.joint
            if message.points and name in message.joint_names:
                column = message.joint_names.index(name)
                self._session.on_gripper_sent(message.points[-1].positions[column], arm)

    def _on_numbers_sent(self, grippers: dict[str, int], message: Float64MultiArray) -> None:
        for arm, column in grippers.items():
            if len(message.data) > column:
                self._session.on_gripper_sent(message.data[column], arm)

    def _on_executor(self, message: ExecutorStatus) -> None:
        self._executor = message
        if not self._session.engaged:
            return
        if message.state == ExecutorStatus.TELEOPERATION:
            self._followed = True
        elif self._followed or message.state in (ExecutorStatus.STOPPED, ExecutorStatus.INACTIVE):
            # Continuing at once would push the arm into whatever stopped it.
            self._session.trip(f"the executor reports: {message.reason or 'not active'}")

    def _on_policy(self, message: PolicyStatus) -> None:
        following = message.state in (PolicyStatus.RUNNING, PolicyStatus.WAITING)
        self._policy_until = time.monotonic() + _POLICY_S if following else -math.inf

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._session.engaged:
            response.success, response.message = (
                False,
                "teleoperation has control; release the dead-man switch first",
            )
        else:
            self._resume()
            response.success, response.message = True, "the policy may continue"
        return response

    # ---- output ----

    def _on_tick(self) -> None:
        now, engaged = self.now(), self._session.engaged
        seconds = 0.0 if self._before is None else now - self._before
        self._before = now
        if not self.running:
            return
        command = self._session.command(time.monotonic(), seconds)
        if self._session.resume_requested:
            self._session.resume_requested = False
            if command is None:
                self._resume()
        if command is None:
            if engaged:
                self._report_state()
            return
        if not engaged:
            self._followed, self._waits, self._engaged_at = False, False, time.monotonic()
            self._retry_at = -math.inf
            self._report_state()
        if self._device.policy_waits and not self._waits and self._policy_follows():
            self._set_policy_waits(True)
        # A simulated clock can tick more slowly than this timer; its time was commanded already.
        if seconds <= 0.0:
            return
        message = JointState(
            header=Header(stamp=to_stamp(now)), name=list(self._contract.command_joints)
        )
        message.position, message.velocity = (
            array("d", command.positions),
            array("d", command.velocities),
        )
        self._commands.publish(message)

    def _policy_follows(self) -> bool:
        """Return whether a policy has an instruction and would continue when the switch is
        released.
        """
        executing = self._executor is not None and self._executor.state == ExecutorStatus.EXECUTING
        return executing or time.monotonic() < self._policy_until

    def _resume(self) -> None:
        self._set_policy_waits(False)
        self.get_logger().info("the policy may continue")

    def _set_policy_waits(self, waits: bool) -> None:
        """Call the executor's pause service; retried while teleoperation has control."""
        if waits and time.monotonic() < self._retry_at:
            return
        if not self._pause.service_is_ready():
            if waits:
                self._warn(
                    f"the policy does not wait: there is no service {self._pause.srv_name}; it may"
                    " move the arm after you release the switch"
                )
            return

        def on_response(future: Future) -> None:
            response = future.result()
            if response is not None and response.success:
                self._waits = waits
            elif waits:
                why = response.message if response else "no answer"
                self._warn(
                    f"the policy does not wait: {why}; it may move the arm after you release the"
                    " switch"
                )

        self._retry_at = time.monotonic() + _RETRY_S
        self._pause.call_async(SetBool.Request(data=waits)).add_done_callback(on_response)

    def _warn(self, sentence: str) -> None:
        self.get_logger().warning(sentence, throttle_duration_sec=2.0)

    def _report_state(self) -> None:
        """Publish and log the state for the operator if it changed."""
        session, sentence = self._session, self._session.state
        waiting = session.engaged and not self._followed
        if waiting and time.monotonic() - self._engaged_at > _TAKEOVER_S:
            why = (
                f"reports: {self._executor.reason}"
                if self._executor
                else f"is silent on {self._contract.topics.executor_status}; start it"
            )
            sentence = f"teleoperation has no control: the executor {why}"
        elif not session.engaged and self._waits:
            sentence += (
                "; the policy waits for ~/resume"
                if self._device.resume is None
                else "; the policy waits for the resume button"
            )
        if sentence != self._reported:
            self._reported = sentence
            self.get_logger().info(sentence)
            self._state.publish(String(data=sentence))


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    sys.exit(run(TeleoperationNode, args))


if __name__ == "__main__":
    main()
