"""Turn the operator's input into joint commands while the dead-man switch is held. No ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract, Gripper
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.one_arm import in_base_frame, one_arm
from sf_training.teleoperation.dead_man import DeadManSwitch
from sf_training.teleoperation.device import (
    Device,
    DeviceError,
    GripperButtons,
    Leader,
    Leaders,
    Stick,
    Twist,
)
from sf_training.teleoperation.jog import Jog
from sf_training.teleoperation.leader import LeaderArm
from sf_training.teleoperation.sticks import Motion, off_centre, pressed, stick_motion, twist_motion

_LEADER_AGE_S = 0.2  # a leader that is silent for longer is disconnected
_LONGEST_STEP_S = 0.1  # time that one command covers at most, so that a stall causes no jump
_GRIPS = 0.9  # below this opening, a gripper with an unknown command is assumed to hold an object
_REACTION_S = 0.1  # from a joint state to the start of braking: transport, and the executor's lead
_CENTRED = Motion(np.zeros(6))


@dataclass(frozen=True)
class Command:
    """Commanded positions and velocities (J,) [rad, m, per s], in the order of
    ``contract.command_joints``.
    """

    positions: np.ndarray
    velocities: np.ndarray


@dataclass
class _Arm:
    """One arm of the robot.

    Attributes:
        contract: of this arm alone.
        columns: indices (A,) of its joints and its gripper's in commands of the robot.
        leader: converts joint states of its leader; None: the device has no leaders.
        target: time [s], positions and velocities (A,) of its leader; None before the first.
        sent_gripper: last command of its gripper's first joint; None: unknown.
    """

    contract: Contract
    columns: np.ndarray
    leader: LeaderArm | None = None
    target: tuple[float, np.ndarray, np.ndarray] | None = None
    sent_gripper: float | None = None

    @property
    def gripper(self) -> Gripper:
        """Its gripper; only for an arm that has one."""
        return self.contract.only_arm.fitted_gripper

    @property
    def gripper_columns(self) -> np.ndarray:
        """Indices of the joints of its gripper in commands of the robot."""
        return self.columns[len(self.contract.joints) :]


class TeleoperationSession:
    """Teleoperation of a robot with one device. ``on_...`` methods take input, :meth:`command`
    returns what to send. ``now`` is the time on a monotonic clock [s].

    Leaders move all arms. A stick or twist moves one arm; the others hold position.

    Attributes:
        problem: fault of the device; empty if there is none.
        resume_requested: the resume button was pressed.
        emergency_stop: the emergency-stop button is down.

    Raises:
        DeviceError: the device does not fit the robot.
    """

    def __init__(self, contract: Contract, device: Device) -> None:
        device.check(contract)
        self.device, self._contract = device, contract
        switch = device.dead_man
        self._switch = DeadManSwitch(switch.age_s, switch.topic, switch.unchanged_s)
        commands = contract.columns.commands
        self._arms = {
            name: _Arm(one_arm(contract, name), commands.indices(arm=name))
            for name in contract.arms
        }
        if isinstance(device.motion, (Leader, Leaders)):
            for name, leader in device.leaders(contract).items():
                arm = self._arms[name]
                arm.leader = LeaderArm(arm.contract, leader, device.motion.furthest)
        self._moved = None if device.is_leader else device.arm_of(contract)
        turns = (
            device.turns if device.turns is not None else contract.action.tool_orientation is None
        )
        self._jog = (
            None
            if self._moved is None
            else Jog(
                one_arm(in_base_frame(contract), self._moved),
                turns=turns,
                in_tool_frame=device.frame == "tool",
            )
        )
        self._held = np.zeros(len(contract.command_joints))  # of arms that a stick does not move
        self._measured: tuple[float, np.ndarray] | None = None
        self._speed = np.zeros(len(contract.command_joints))
        self._acceleration = JointLimits.of(contract).acceleration
        self._motion, self._motion_received_at = _CENTRED, -math.inf
        self._motion_age = (
            device.motion.age_s if isinstance(device.motion, Twist) else device.dead_man.age_s
        )
        self._down: dict[str, bool] = {}  # gripper and resume buttons
        self._opening: float | None = None  # commanded since the last takeover
        self._engaged = False
        self._last: np.ndarray | None = None
        self.problem = ""
        self.resume_requested = False
        self.emergency_stop = False

    # ---- input ----

    def on_joy(self, topic: str, axes: Sequence[float], buttons: Sequence[int], now: float) -> None:
        """Take a Joy from any topic of the device."""
        device = self.device
        try:
            button = device.dead_man.button  # None: the switch is no button
            if button is not None and topic == device.dead_man.topic:
                values = (*axes, *buttons) if off_centre(device, axes) else None
                self._switch.receive(pressed(buttons, button, topic), now, values)
            if isinstance(device.motion, Stick) and topic == device.motion.topic:
                self._motion, self._motion_received_at = stick_motion(device, axes, buttons), now
            if device.gripper and topic == device.gripper.topic:
                self._on_gripper(device.gripper, buttons)
            if device.resume and topic == device.resume.topic:
                self.resume_requested |= self._went_down(
                    "resume", pressed(buttons, device.resume.button, topic)
                )
            if device.emergency_stop and topic == device.emergency_stop.topic:
                self.emergency_stop = pressed(buttons, device.emergency_stop.button, topic)
            self.problem = ""
        except DeviceError as error:
            self._fail(str(error))

    def on_switch(self, is_pressed: bool, now: float) -> None:
        """Take the state of the pedal."""
        self._switch.receive(is_pressed, now)

    def on_twist(self, linear: Sequence[float], angular: Sequence[float], now: float) -> None:
        """Take a twist: linear (3,), angular (3,)."""
        self._motion, self._motion_received_at = twist_motion(self.device, linear, angular), now

    def on_leader(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        now: float,
        arm: str | None = None,
    ) -> None:
        """Take a joint state of the leader of an arm; None: of the only arm."""
        led = self._arm(arm)
        assert led.leader is not None
        try:
            target = led.leader.read(names, positions, velocities, now)
        except DeviceError as error:
            self._fail(str(error))
            return
        if target is not None:
            led.target, self.problem = (now, *target), ""

    def on_measured(self, positions: np.ndarray, velocities: np.ndarray, now: float) -> None:
        """Take the arm's joints (J,) and their velocities, in the order of
        ``contract.command_joints``.
        """
        if np.isfinite(positions).all() and np.isfinite(velocities).all():
            self._measured, self._speed = (
                (now, np.asarray(positions, dtype=float)),
                np.asarray(velocities, dtype=float),
            )

    def on_gripper_sent(self, position: float, arm: str | None = None) -> None:
        """Take the last gripper command of an arm (None: of the only one), which is held at a
        takeover so that the grip is kept.
        """
        if math.isfinite(position):
            self._arm(arm).sent_gripper = position

    def trip(self, reason: str) -> None:
        """End teleoperation until the switch has been released and pressed again."""
        self._switch.trip(reason)

    # ---- output ----

    def command(self, now: float, seconds: float) -> Command | None:
        """Return the next command; None while the switch is open or teleoperation is not allowed.

        Args:
            seconds: since the last call, on the arm's clock.
        """
        if not self._switch.held(now) or self._lost(now):
            self._engaged, self._opening = False, None
            if self._switch.why_open:  # report the open switch, not an earlier obstacle
                self._why_not = ""
            return None
        assert self._measured is not None  # else the input is lost
        measured = self._measured[1]
        if not self._engaged and not self._engage(measured):
            return None
        seconds = min(max(seconds, 0.0), _LONGEST_STEP_S)
        positions, velocities = self._held.copy(), np.zeros(len(self._held))
        if self._jog:
            columns = self._tool_arm.columns
            fresh = now - self._motion_received_at <= self._motion_age
            joints, speeds = self._jog.move(
                self._motion.twist if fresh else _CENTRED.twist, seconds, measured[columns]
            )
            self._move_gripper(seconds)
            positions[columns[: len(joints)]], velocities[columns[: len(joints)]] = joints, speeds
        for name, arm in self._arms.items():
            if arm.leader:
                assert arm.target is not None  # else the input is lost
                positions[arm.columns], velocities[arm.columns] = arm.target[1:]
            if gripper := arm.contract.gripper:
                first, *fingers = arm.gripper_columns
                if not (arm.leader and arm.leader.moves_gripper):
                    positions[first], velocities[first] = self._gripper_target(name), 0.0
                if fingers:
                    opening = gripper.to_opening(positions[first])
                    positions[fingers] = gripper.to_joints(opening)[1:]
                    velocities[fingers] = 0.0
        return Command(positions, velocities)

    @property
    def engaged(self) -> bool:
        """Whether teleoperation has control."""
        return self._engaged

    @property
    def state(self) -> str:
        """State of teleoperation in one sentence for the operator."""
        if self.problem:
            return self.problem
        if self._engaged:
            return "teleoperation has control" + (
                f": {self._jog.note}" if self._jog and self._jog.note else ""
            )
        return self._why_not or f"teleoperation is off: {self._switch.why_open}"

    # ---- internals ----

    _why_not = ""  # why the held switch does not give control

    def _engage(self, measured: np.ndarray) -> bool:
        for arm in self._arms.values():
            if arm.leader and arm.target is not None:
                reason = arm.leader.too_far(arm.target[1], measured[arm.columns])
                if reason:
                    self._why_not = reason
                    return False
        # Where a moving arm will stop; starting at its current position would jerk it back.
        self._held = measured + self._speed * (
            _REACTION_S + 0.5 * np.abs(self._speed) / self._acceleration
        )
        if self._jog:
            self._jog.begin(self._held[self._tool_arm.columns])
        self._engaged, self._why_not = True, ""
        return True

    def _lost(self, now: float) -> bool:
        """Return whether a fault or missing input makes teleoperation impossible."""
        budget = self._contract.budgets.joint_state_age_s
        if self.problem:
            self._why_not = ""
        elif self._measured is None or now - self._measured[0] > budget + _LEADER_AGE_S:
            topic = self._contract.topics.joint_states
            self._why_not = f"no fresh joint states on {topic}; check the robot's driver"
        elif silent := self._silent_leader(now):
            self._why_not = f"the leader is silent on {silent}; check its driver and cable"
        else:
            self._why_not = "" if self._engaged else self._why_not
            return False
        if self._engaged:
            self._switch.trip(self.problem or self._why_not)
        return True

    def _silent_leader(self, now: float) -> str:
        """Return the topic of a leader that is silent; empty if all leaders send."""
        for name, leader in self.device.leaders(self._contract).items():
            target = self._arms[name].target
            if target is None or now - target[0] > _LEADER_AGE_S:
                return leader.topic
        return ""

    @property
    def _tool_arm(self) -> _Arm:
        """The arm that a stick or twist moves; only for such a device."""
        assert self._moved is not None
        return self._arms[self._moved]

    def _arm(self, name: str | None) -> _Arm:
        return self._arms[name if name is not None else next(iter(self._arms))]

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._switch.trip(problem)

    def _went_down(self, name: str, is_down: bool) -> bool:
        # A button that is down in its first message does not count as pressed.
        before, self._down[name] = self._down.get(name, True), is_down
        return is_down and not before

    def _on_gripper(self, keys: GripperButtons, buttons: Sequence[int]) -> None:
        went = {
            name: self._went_down(name, pressed(buttons, button, keys.topic))
            for name, button in (
                ("open", keys.open),
                ("close", keys.close),
                ("toggle", keys.toggle),
            )
            if button is not None
        }
        if not self._engaged:
            return
        binary = self._tool_arm.gripper.binary
        if went.get("toggle"):
            self._opening = 0.0 if self._opening_now() > 0.5 else 1.0
        elif binary and went.get("close"):
            self._opening = 0.0
        elif binary and went.get("open"):
            self._opening = 1.0

    def _move_gripper(self, seconds: float) -> None:
        gripper = self._tool_arm.contract.gripper
        if gripper is None or gripper.binary:
            return
        direction = self._down.get("open", False) - self._down.get("close", False)
        if direction:
            rate = gripper.velocity / abs(gripper.open - gripper.closed)
            opening = self._opening_now() + 0.5 * direction * rate * seconds
            self._opening = min(max(opening, 0.0), 1.0)

    def _opening_now(self) -> float:
        if self._opening is not None:
            return self._opening
        assert self._moved is not None
        return self._tool_arm.gripper.to_opening(self._gripper_target(self._moved))

    def _gripper_target(self, name: str) -> float:
        """Return the gripper target of an arm in its unit: as requested, else the last command,
        else as measured.
        """
        arm = self._arms[name]
        assert self._measured is not None  # else the input is lost
        gripper, measured = arm.gripper, float(self._measured[1][arm.gripper_columns[0]])
        if self._opening is not None and name == self._moved:
            return gripper.to_joint(self._opening)
        if arm.sent_gripper is not None:
            return arm.sent_gripper
        if gripper.binary:
            return gripper.open if gripper.to_opening(measured) > _GRIPS else gripper.closed
        return measured
