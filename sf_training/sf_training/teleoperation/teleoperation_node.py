"""``ros2 run sf_training teleoperation``: a leader arm, gamepad, SpaceMouse or keyboard moves the
arm while a switch is held.

It publishes ``topics.teleop_command`` and nothing else moves anything: the executor lets the
commands through the same guard as a policy's. While nobody holds the switch nothing is published,
and that is what stops the arm.
"""

from __future__ import annotations

import math
import sys
import time
from array import array

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, qos_profile_sensor_data
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

_TELL_S = 0.2  # how often the state for the operator is updated
_POLICY_S = 2.0  # a policy without a status for longer counts as not following
_ASK_AGAIN_S = 0.5  # for the executor to answer that the policy waits
_ANSWER_S = 0.5  # the executor takes over the arm within, or says why not


class TeleoperationNode(ManagedNode):
    """Topics, services and parameters: ``doc/teleoperate.md``."""

    def __init__(self, **options) -> None:
        super().__init__("teleoperation", **options)
        self.parameter(
            "device",
            "",
            "path of the device's YAML; examples are in sf_bringup/config/teleoperation",
        )

    def set_up(self, contract: Contract) -> None:
        path = self.value("device")
        if not path:
            raise devices.DeviceError(
                "device: none given; start with --ros-args -p device:=/path/to/gamepad.yaml"
            )
        device = devices.load_device(path)
        self._contract, self._device = contract, device
        self._session = TeleoperationSession(contract, device)
        self._joints = JointStates(contract)
        self._executor: ExecutorStatus | None = None
        self._told, self._since, self._before = "", None, None
        self._policy_until = -math.inf
        self._followed = self._waits = self._stopping = False
        self._ask_again = -math.inf
        topics = contract.topics
        self._commands = self.publisher(JointState, topics.teleop_command, QoSProfile(depth=1))
        self._state = self.publisher(String, "~/state", LATCHED)
        self._emergency_stop = (
            self.publisher(Bool, topics.emergency_stop, LATCHED) if device.emergency_stop else None
        )
        for topic in self._joy_topics():
            # Best effort hears every publisher; a lost message is made good by the next one, and
            # silence opens the switch.
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
        self._pause = self.create_client(SetBool, "chunk_executor/pause")
        self.resources.callback(self.destroy_client, self._pause)
        self.resources.callback(
            self.destroy_service, self.create_service(Trigger, "~/resume", self._on_resume)
        )
        real_time = Clock(clock_type=ClockType.STEADY_TIME)
        for seconds, callback in ((1.0 / device.rate_hz, self._on_tick), (_TELL_S, self._tell)):
            self.resources.callback(
                self.destroy_timer, self.create_timer(seconds, callback, clock=real_time)
            )

    def start(self) -> None:
        self._session.trip("teleoperation was started")
        self.get_logger().info(
            f"{self._device.name}: active; commands go to {self._contract.topics.teleop_command}"
        )

    def stop(self) -> None:
        self._session.trip("teleoperation was stopped")

    # ---- what comes in ----

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
        if isinstance(motion, devices.Leader):
            self.subscribe(JointState, motion.topic, self._on_leader, qos_profile_sensor_data)
        if isinstance(motion, devices.Twist):
            self.subscribe(
                TwistStamped if motion.stamped else Twist,
                motion.topic,
                self._on_twist,
                qos_profile_sensor_data,
            )

    def _subscribe_gripper(self) -> None:
        """Subscribe to the gripper's commands, so that it keeps its grip at a takeover. Goals of an
        action cannot be received.
        """
        command, reliable = self._contract.command, QoSProfile(depth=5)
        if self._contract.gripper is None:
            return
        if command.gripper is not None:
            if command.gripper.output == "forward_command":
                self.subscribe(
                    Float64MultiArray, command.gripper.topic, self._on_numbers_sent, reliable
                )
        elif command.output == "forward_command":
            self.subscribe(Float64MultiArray, command.topic, self._on_numbers_sent, reliable)
        elif command.output == "joint_trajectory":
            self.subscribe(JointTrajectory, command.topic, self._on_trajectory_sent, reliable)

    def _on_joy(self, topic: str, message: Joy) -> None:
        self._session.on_joy(topic, message.axes, message.buttons, time.monotonic())
        if self._session.emergency_stop != self._stopping:
            self._stopping = self._session.emergency_stop
            self._emergency_stop.publish(Bool(data=self._stopping))

    def _on_switch(self, message: Bool) -> None:
        self._session.on_switch(message.data, time.monotonic())

    def _on_twist(self, message: Twist | TwistStamped) -> None:
        twist = message.twist if isinstance(message, TwistStamped) else message
        linear, angular = twist.linear, twist.angular
        self._session.on_twist(
            (linear.x, linear.y, linear.z), (angular.x, angular.y, angular.z), time.monotonic()
        )

    def _on_leader(self, message: JointState) -> None:
        self._session.on_leader(message.name, message.position, message.velocity, time.monotonic())

    def _on_joint_state(self, message: JointState) -> None:
        joints = self._joints.read(
            to_seconds(message.header.stamp), message.name, message.position, message.velocity
        )
        if joints is not None:
            self._session.on_measured(joints[1], joints[2], time.monotonic())

    def _on_trajectory_sent(self, message: JointTrajectory) -> None:
        name = self._contract.gripper.joint
        if message.points and name in message.joint_names:
            self._session.on_gripper_sent(
                message.points[-1].positions[message.joint_names.index(name)]
            )

    def _on_numbers_sent(self, message: Float64MultiArray) -> None:
        if message.data:
            self._session.on_gripper_sent(message.data[-1])

    def _on_executor(self, message: ExecutorStatus) -> None:
        self._executor = message
        if not self._session.engaged:
            return
        if message.state == ExecutorStatus.TELEOPERATION:
            self._followed = True
        elif self._followed or message.state in (ExecutorStatus.STOPPED, ExecutorStatus.INACTIVE):
            # It stopped for a reason: going on at once would push the arm into whatever stopped it.
            self._session.trip(f"the executor says: {message.reason or 'not active'}")

    def _on_policy(self, message: PolicyStatus) -> None:
        following = message.state in (PolicyStatus.RUNNING, PolicyStatus.WAITING)
        self._policy_until = time.monotonic() + _POLICY_S if following else -math.inf

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._session.engaged:
            response.success, response.message = False, "you hold the arm; let go first"
        else:
            self._resume()
            response.success, response.message = True, "the policy may continue"
        return response

    # ---- what goes out ----

    def _on_tick(self) -> None:
        now, engaged = self.now(), self._session.engaged
        seconds = 0.0 if self._before is None else now - self._before
        self._before = now
        if not self.running:
            return
        command = self._session.command(time.monotonic(), seconds)
        if self._session.resume_asked:
            self._session.resume_asked = False
            if command is None:
                self._resume()
        if command is None:
            if engaged:
                self._tell()
            return
        if not engaged:
            self._followed, self._waits, self._since = False, False, time.monotonic()
            self._ask_again = -math.inf
            self._tell()
        if self._device.policy_waits and not self._waits and self._policy_follows():
            self._let_policy_wait(True)
        if (
            seconds <= 0.0
            # a simulated clock ticks more slowly than this timer, and its last moment was commanded
            # already
        ):
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
        """Whether a policy has an instruction and would continue when the operator releases the
        switch.
        """
        executing = self._executor is not None and self._executor.state == ExecutorStatus.EXECUTING
        return executing or time.monotonic() < self._policy_until

    def _resume(self) -> None:
        self._let_policy_wait(False)
        self.get_logger().info("the policy may continue")

    def _let_policy_wait(self, waits: bool) -> None:
        """Ask the executor to pause or resume; ask again while an operator has control."""
        if waits and time.monotonic() < self._ask_again:
            return
        if not self._pause.service_is_ready():
            if waits:
                self._warn(
                    f"the policy does not wait: there is no service {self._pause.srv_name}; it may"
                    " move the arm once you let go"
                )
            return

        def answered(future) -> None:
            response = future.result()
            if response is not None and response.success:
                self._waits = waits
            elif waits:
                why = response.message if response else "no answer"
                self._warn(f"the policy does not wait: {why}; it may move the arm once you let go")

        self._ask_again = time.monotonic() + _ASK_AGAIN_S
        self._pause.call_async(SetBool.Request(data=waits)).add_done_callback(answered)

    def _warn(self, sentence: str) -> None:
        self.get_logger().warning(sentence, throttle_duration_sec=2.0)

    def _tell(self) -> None:
        session, sentence = self._session, self._session.state
        if session.engaged and not self._followed and time.monotonic() - self._since > _ANSWER_S:
            why = (
                f"says: {self._executor.reason}"
                if self._executor
                else f"is silent on {self._contract.topics.executor_status}"
            )
            sentence = f"teleoperation has no control: the executor {why}"
        elif not session.engaged and self._waits:
            sentence += (
                "; the policy waits for ~/resume"
                if self._device.resume is None
                else "; the policy waits for the resume button"
            )
        if sentence != self._told:
            self._told = sentence
            self.get_logger().info(sentence)
            self._state.publish(String(data=sentence))


def main(args: list[str] | None = None) -> None:
    """Entry point of ``ros2 run sf_training teleoperation``."""
    sys.exit(run(TeleoperationNode, args))


if __name__ == "__main__":
    main()
