"""Load the description of a teleoperation device from YAML: topics, dead-man switch, axes. No ROS.

Examples are in ``sf_bringup/config/teleoperation``; every key is explained in
``doc/teleoperate.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sf_policy_node.contract import Contract, Finite, JointName, Name, Positive, Topic

Index = Annotated[int, Field(ge=0, le=255)]
Share = Annotated[float, Field(gt=0, le=1)]
AXES = ("x", "y", "z", "rx", "ry", "rz")
# Commands per budgets.teleop_age_s, so that one lost message does not count as a release.
_COMMANDS_MIN = 3.0
_FURTHEST = "no takeover while a joint is further from its leader than this [rad, m]"


class DeviceError(ValueError):
    """The device cannot be used; the message names file, key and cure."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Switch(_Strict):
    """The dead-man switch: a button of a ``sensor_msgs/Joy``, or a ``std_msgs/Bool`` such as a
    pedal.
    """

    topic: Topic
    type: Literal["joy", "bool"] = "joy"
    button: Index | None = Field(None, description="of the Joy")
    age_s: Annotated[float, Field(ge=0.02, le=0.5)] = Field(
        0.25, description="silent for longer counts as open"
    )
    unchanged_s: Positive | None = Field(
        None, description="Joy off centre and exactly the same for longer counts as open"
    )

    @model_validator(mode="after")
    def _check_button(self) -> Switch:
        if (self.type == "joy") != (self.button is not None):
            raise ValueError(
                f"type: {self.type} and button: {self.button} do not fit; give a joy switch a"
                " button, and a bool switch none"
            )
        return self


class LeaderJoint(_Strict):
    """One joint of the arm follows one joint of the leader: ``scale * leader + offset``."""

    leader: Annotated[str, Field(min_length=1)] = Field(
        description="name in the leader's joint states"
    )
    scale: Finite = Field(
        1.0,
        description=(
            "contract's unit per leader's unit: -1 inverts the joint, 0.01745 converts degrees"
        ),
    )
    offset: Finite = 0.0

    @model_validator(mode="after")
    def _check_scale(self) -> LeaderJoint:
        if self.scale == 0:
            raise ValueError("scale: 0 would hold the joint still; give another number")
        return self


class LeaderGripper(_Strict):
    """The leader's trigger, from ``closed`` to ``open`` in its own unit, moves the gripper over its
    full range.
    """

    leader: Annotated[str, Field(min_length=1)]
    open: Finite
    closed: Finite

    @model_validator(mode="after")
    def _check_range(self) -> LeaderGripper:
        if self.open == self.closed:
            raise ValueError("open and closed are equal; give two different values")
        return self


class LeaderPart(_Strict):
    """The leader of one arm: a second arm whose joints the arm follows."""

    topic: Topic
    joints: dict[JointName, LeaderJoint] = Field(
        description="for every joint of the arm in the contract, without its gripper"
    )
    gripper: LeaderGripper | None = None


class Leader(LeaderPart):
    """The leader of a robot with one arm."""

    kind: Literal["leader_arm"]
    furthest: Positive | None = Field(0.8, description=_FURTHEST)


class Leaders(_Strict):
    """A leader for each arm of a robot."""

    kind: Literal["leader_arms"]
    arms: dict[Name, LeaderPart] = Field(min_length=1, description="for every arm of the contract")
    furthest: Positive | None = Field(0.8, description=_FURTHEST)


class Axis(_Strict):
    """One axis of a Joy; ``scale`` -1 inverts it."""

    axis: Index
    scale: Annotated[float, Field(ge=-1, le=1)] = 1.0


class Stick(_Strict):
    """The axes of a ``sensor_msgs/Joy`` move the tool."""

    kind: Literal["joy"]
    topic: Topic
    axes: dict[Literal["x", "y", "z", "rx", "ry", "rz"], Axis] = Field(min_length=1)
    dead_zone: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of an axis that counts as centred"
    )
    curve: Annotated[float, Field(ge=1, le=4)] = Field(
        2.0, description="exponent: 1 is linear; more is finer near the centre"
    )
    slow_button: Index | None = Field(None, description="while it is down: a quarter of the speed")


class Twist(_Strict):
    """A ``geometry_msgs/Twist`` or ``TwistStamped`` moves the tool."""

    kind: Literal["twist"]
    topic: Topic
    stamped: bool = False
    unit: Literal["share", "si"] = Field(
        description="share: -1 to 1 of the speeds below; si: m/s and rad/s"
    )
    age_s: Annotated[float, Field(ge=0.02, le=0.5)] = Field(
        0.25, description="silent for longer: no motion"
    )
    dead_zone: Annotated[float, Field(ge=0, lt=1)] = 0.05
    curve: Annotated[float, Field(ge=1, le=4)] = 1.0


class GripperButtons(_Strict):
    """Buttons of a Joy for the gripper. A gripper that is not ``binary`` moves while open or close
    is down.
    """

    topic: Topic
    open: Index | None = None
    close: Index | None = None
    toggle: Index | None = None

    @model_validator(mode="after")
    def _check_buttons(self) -> GripperButtons:
        if self.toggle is None and (self.open is None or self.close is None):
            raise ValueError("no button for opening or closing; give open and close, or toggle")
        return self


class Button(_Strict):
    """One button of a Joy."""

    topic: Topic
    button: Index


class Device(_Strict):
    """A teleoperation device; load it with :func:`load_device`."""

    schema_version: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    dead_man: Switch
    motion: Annotated[Leader | Leaders | Stick | Twist, Field(discriminator="kind")]
    arm: Name | None = Field(
        None, description="that a stick, twist and buttons move; none: the only arm"
    )
    rate_hz: Annotated[float, Field(ge=20, le=500)] = Field(
        50.0, description="commands per second while the switch is held"
    )
    speed: Positive = Field(0.15, description="of the tool at full deflection [m/s]")
    turn_speed: Positive = Field(0.6, description="of the tool at full deflection [rad/s]")
    frame: Literal["base", "tool"] = Field(
        "base", description="axes of the base frame or of the tool frame"
    )
    turns: bool | None = Field(
        None,
        description="rx ry rz rotate the tool; none: unless the contract fixes its orientation",
    )
    gripper: GripperButtons | None = None
    policy_waits: bool = Field(
        True,
        description="after a takeover the policy waits for ~/resume; false: it continues by itself",
    )
    resume: Button | None = Field(None, description="button that lets the policy continue")
    emergency_stop: Button | None = Field(
        None, description="button that stops the arm and latches, held switch or not"
    )

    @model_validator(mode="after")
    def _check_gripper(self) -> Device:
        if self.is_leader and self.arm is not None:
            raise ValueError("arm: leaders move all arms; remove it")
        if self.is_leader and self.gripper:
            raise ValueError(
                "gripper: a leader arm moves the gripper with motion.gripper; remove the buttons"
            )
        return self

    def check(self, contract: Contract) -> None:
        """Check that the device commands every joint of a robot at a sufficient rate.

        Raises:
            DeviceError: it does not.
        """
        arms = self.leaders(contract) if self.is_leader else dict.fromkeys([self.arm_of(contract)])
        for name, leader in arms.items():
            if leader is not None:
                self._check_leader(contract, name, leader)
            moves_gripper = self.gripper if leader is None else leader.gripper
            if moves_gripper and contract.arms[name].gripper is None:
                which = contract.robot if len(contract.arms) == 1 else f"arm {name}"
                raise DeviceError(
                    f"{self.name}: moves a gripper, but {which} has none in the contract; remove"
                    " the gripper's keys"
                )
        age = contract.budgets.teleop_age_s
        if age is not None and self.rate_hz * age < _COMMANDS_MIN:
            raise DeviceError(
                f"{self.name}: rate_hz {self.rate_hz:g} is too slow for budgets.teleop_age_s"
                f" {age:g}; give at least {_COMMANDS_MIN / age:.0f}"
            )

    def _check_leader(self, contract: Contract, arm: str, leader: LeaderPart) -> None:
        key = "motion" if isinstance(self.motion, Leader) else f"motion.arms.{arm}"
        joints = set(contract.arms[arm].joint_names)
        if missing := sorted(joints - leader.joints.keys()):
            raise DeviceError(
                f"{self.name}: {key}.joints lacks {', '.join(missing)} of {contract.robot}; give"
                " the leader joint of each"
            )
        if extra := sorted(leader.joints.keys() - joints):
            raise DeviceError(
                f"{self.name}: {key}.joints names {', '.join(extra)}, which {contract.robot} does"
                " not have there; remove them"
            )

    @property
    def is_leader(self) -> bool:
        """Whether the arms follow the joints of leader arms."""
        return isinstance(self.motion, (Leader, Leaders))

    def leaders(self, contract: Contract) -> dict[str, LeaderPart]:
        """Return the leader of each arm of a robot; empty if the device has none.

        Raises:
            DeviceError: the leaders are not those of the robot's arms.
        """
        arms = list(contract.arms)
        if isinstance(self.motion, Leader):
            if len(arms) > 1:
                raise DeviceError(
                    f"{self.name}: motion.kind leader_arm leads one arm, and {contract.robot} has"
                    f" {', '.join(arms)}; use kind leader_arms with a leader for each"
                )
            return {arms[0]: self.motion}
        if not isinstance(self.motion, Leaders):
            return {}
        if set(self.motion.arms) != set(arms):
            raise DeviceError(
                f"{self.name}: motion.arms has {', '.join(self.motion.arms)}, and"
                f" {contract.robot} has {', '.join(arms)}; give a leader for each of these"
            )
        return {name: self.motion.arms[name] for name in arms}

    def arm_of(self, contract: Contract) -> str:
        """Return the name of the arm that a stick or twist moves.

        Raises:
            DeviceError: the robot has no such arm, or several and the device names none.
        """
        arms = list(contract.arms)
        if self.arm is None and len(arms) == 1:
            return arms[0]
        if self.arm is None:
            raise DeviceError(
                f"{self.name}: arm: is missing, and {contract.robot} has {', '.join(arms)}; name"
                " the one that the device moves"
            )
        if self.arm not in arms:
            raise DeviceError(
                f"{self.name}: arm: {contract.robot} has no {self.arm}; name one of"
                f" {', '.join(arms)}"
            )
        return self.arm


def load_device(path: str | Path) -> Device:
    """Load a device from a file.

    Raises:
        DeviceError: the file is missing or a value is wrong; one clause per problem, with the path
            of the key.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(
            f"{path}: cannot be read ({error.strerror}); check the path, or take one of"
            " config/teleoperation"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeviceError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}); fix the syntax"
        ) from None
    if not isinstance(data, dict):
        raise DeviceError(
            f"{path}: expected keys and values; start from config/teleoperation/gamepad.yaml"
        )
    try:
        return Device.model_validate(data)
    except ValidationError as error:
        raise DeviceError(
            "; ".join(f"{path}: {_explain(item)}" for item in error.errors())
        ) from None


def _explain(item: Mapping[str, Any]) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return f"{key}: is missing; add it"
    if item["type"] == "extra_forbidden":
        return f"{key}: is not a known key; remove it or fix its spelling"
    message = item["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message} (got {item['input']!r})"
        if key and not isinstance(item["input"], dict)
        else f"{key or 'device'}: {message}"
    )
