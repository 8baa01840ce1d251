"""The robot contract: one YAML per robot names its joints, limits, cameras, action space, budgets and topics.

It is the only place where these are written. Nodes, recorder, training and checkpoints all read it
through :func:`load_contract`, and compare it by :attr:`Contract.hash` where they meet.
Units are SI (REP 103): metres, radians, seconds. Frames are those of the robot's URDF.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Topic = Annotated[str, Field(pattern=r"^/?[A-Za-z_][A-Za-z0-9_/]*$")]
Vector3 = Annotated[list[Finite], Field(min_length=3, max_length=3)]

GRIPPER_COLUMN = "gripper"
_TOOL_COLUMNS = ("x", "y", "z", "rx", "ry", "rz")


class ContractError(ValueError):
    """The contract cannot be used; the message names the file, the key's path and the cure."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ActionSpace(StrEnum):
    """What the columns of an action chunk mean; see ``sf_msgs/ActionChunk``."""

    JOINT_POSITION = "joint_position"
    JOINT_DELTA = "joint_delta"
    EE_DELTA = "ee_delta"
    EE_POSE = "ee_pose"

    @property
    def is_tool(self) -> bool:
        """True when columns describe the tool and not the joints."""
        return self in (ActionSpace.EE_DELTA, ActionSpace.EE_POSE)


class Joint(_Strict):
    """One arm joint with explicit limits: there are no default limits."""

    name: Name
    lower: Finite = Field(description="lowest position [unit]")
    upper: Finite = Field(description="highest position [unit]")
    velocity: Positive = Field(description="highest speed [unit/s]")
    acceleration: Positive = Field(description="highest acceleration [unit/s^2]")
    tracking_error: Positive = Field(description="measured this far from commanded: something is in the way, stop [unit]")
    step: Positive | None = Field(None, description="furthest target from one row of a chunk to the next [unit]; an executor needs it")
    unit: Literal["rad", "m"] = "rad"

    @model_validator(mode="after")
    def _ordered(self) -> Joint:
        if self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must be below upper ({self.upper})")
        return self


class Gripper(_Strict):
    """A one-joint gripper; chunks carry it as a column from 0 (closed) to 1 (open)."""

    joint: Name
    open: Finite = Field(description="joint position when open [unit]")
    closed: Finite = Field(description="joint position when closed [unit]")
    velocity: Positive
    acceleration: Positive
    unit: Literal["rad", "m"] = "m"
    binary: bool = Field(True, description="commands snap to open or closed at 0.5")

    @model_validator(mode="after")
    def _distinct(self) -> Gripper:
        if self.open == self.closed:
            raise ValueError("open and closed must differ")
        return self

    def to_joint(self, opening: float) -> float:
        """Joint position [unit] for an opening from 0 (closed) to 1 (open)."""
        return self.closed + (self.open - self.closed) * min(max(opening, 0.0), 1.0)

    def to_opening(self, position: float) -> float:
        """Opening from 0 (closed) to 1 (open) for a joint position [unit]."""
        return (position - self.closed) / (self.open - self.closed)


class Camera(_Strict):
    """One colour camera, with its depth stream where it has one."""

    name: Name
    topic: Topic
    transport: Literal["raw", "compressed"] = "raw"
    width: Annotated[int, Field(gt=0, le=8192)]
    height: Annotated[int, Field(gt=0, le=8192)]
    frame: Name = Field(description="optical frame (REP 103: z forward, x right, y down)")
    rate_hz: Positive
    info_topic: Topic | None = None
    depth_topic: Topic | None = Field(None, description="32FC1 metres or 16UC1 millimetres (REP 118), for training only")


class Action(_Strict):
    """The action space that policies for this robot speak."""

    space: ActionSpace
    names: list[Name] = Field(min_length=1, description="columns of a chunk, in order")
    step_s: Positive = Field(description="time between two rows of a chunk [s]")
    horizon: Annotated[int, Field(ge=2, le=500)] = Field(description="rows of a chunk")
    tool_orientation: Annotated[list[Finite], Field(min_length=4, max_length=4)] | None = Field(
        None, description="fixed tool orientation, quaternion x y z w in base_frame, when no rx ry rz columns exist"
    )


class Budgets(_Strict):
    """How old things may be before they are not used any more."""

    observation_age_s: Positive = Field(description="oldest camera image of an observation, when it is used")
    camera_skew_s: Positive = Field(description="between the cameras of one observation")
    joint_state_age_s: Positive
    chunk_age_s: Positive = Field(description="observation stamp to chunk arrival at the executor")
    hold_s: Positive | None = Field(None, description="at rest this long after the last usable chunk, at the latest; an executor needs it")
    teleop_age_s: Positive | None = Field(None, description="teleoperation silent for longer has let go; an executor needs it")


class Workspace(_Strict):
    """Box that the tool may not leave, in base_frame [m]."""

    lower: Vector3
    upper: Vector3
    tool_speed: Positive | None = Field(None, description="highest speed of the tool [m/s]; an executor needs it")

    @model_validator(mode="after")
    def _ordered(self) -> Workspace:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if low >= high:
                raise ValueError(f"lower {axis} ({low}) must be below upper {axis} ({high})")
        return self


class GripperCommand(_Strict):
    """A gripper with a controller of its own."""

    output: Literal["forward_command", "parallel_gripper"]
    topic: Topic = Field(description="topic of the commands, or name of the control_msgs/ParallelGripperCommand action")
    max_effort: Positive | None = Field(None, description="with parallel_gripper [N]; none: as the controller is set")


class Command(_Strict):
    """Where and how motion leaves the executor."""

    output: Literal["joint_trajectory", "forward_command", "servo_twist", "servo_pose"] = "joint_trajectory"
    topic: Topic
    rate_hz: Annotated[float, Field(ge=10, le=1000)] = Field(description="points per second of a trajectory, or commands per second")
    gripper: GripperCommand | None = Field(None, description="none: the gripper is the last joint of the arm's command")

    @property
    def carries_joints(self) -> bool:
        """The command has a value for every joint (and not a pose or twist of the tool)."""
        return self.output in ("joint_trajectory", "forward_command")


class Topics(_Strict):
    """Topics that are not a camera's. Relative names resolve in the node's namespace."""

    joint_states: Topic = "joint_states"
    instruction: Topic = "instruction"
    action_chunk: Topic = "policy/action_chunk"
    policy_status: Topic = "policy/status"
    executor_status: Topic = "executor/status"
    emergency_stop: Topic = "emergency_stop"
    teleop_command: Topic = "teleop/joint_command"
    replay_command: Topic = "replay/joint_command"
    expert_chunk: Topic = "expert/action_chunk"
    control_source: Topic = "control_source"


class ForeignBags(_Strict):
    """How bags that this suite has not recorded name what the contract needs; for reading them only."""

    topics: dict[str, Topic] = Field({}, description="topic in the bag: topic of this contract; several may become one")
    joints: dict[str, Name] = Field({}, description="joint name in the bag: joint of this contract")
    commands: str | None = Field(
        None,
        description="topic in the bag with the operator's commands (JointState, JointTrajectory or Float64MultiArray); that of the joint "
        "states: where the arm went next was the command; none: as topics.teleop_command",
    )
    instruction: str = Field("", description="where the bag holds no message on topics.instruction")
    outcome: Literal["success", "failure", "discarded"] = "success"


class Contract(_Strict):
    """A whole robot; load it with :func:`load_contract`."""

    schema_version: Literal[1]
    robot: Name
    urdf: str = Field(description="file name, beside the contract")
    base_frame: Name
    tool_frame: Name
    joints: list[Joint] = Field(min_length=1)
    gripper: Gripper | None = None
    cameras: list[Camera] = Field(min_length=1)
    action: Action
    budgets: Budgets
    workspace: Workspace
    command: Command
    topics: Topics = Topics()
    bags: ForeignBags | None = Field(None, description="to read bags of other recorders")
    _urdf_xml: str = PrivateAttr("")

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        for what, names in (("joints", self.command_joints), ("cameras", self.camera_names), ("action.names", self.action.names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: {', '.join(twice)} is named twice; give every entry its own name")
        columns = [name for name in self.action.names if name != GRIPPER_COLUMN]
        if GRIPPER_COLUMN in self.action.names and self.gripper is None:
            raise ValueError("action.names has a gripper column; add a gripper section or remove the column")
        if self.action.space.is_tool:
            if columns not in (list(_TOOL_COLUMNS[:3]), list(_TOOL_COLUMNS)):
                raise ValueError(f"action.names: {self.action.space} needs x y z or x y z rx ry rz (and gripper), got {columns}")
            if len(columns) == 3 and self.action.tool_orientation is None:
                raise ValueError("action.tool_orientation: give the fixed tool orientation, or add the columns rx ry rz")
        elif columns != [joint.name for joint in self.joints]:
            raise ValueError(f"action.names: {self.action.space} needs all joints in order, got {columns}")
        if self.command.gripper and not self.gripper:
            raise ValueError("command.gripper: there is no gripper; add a gripper section or remove command.gripper")
        if self.gripper and not self.command.carries_joints and not self.command.gripper:
            raise ValueError(f"command.gripper: {self.command.output} cannot carry the gripper; say where its commands go")
        if self.bags:
            self._check_bags(self.bags)
        return self

    def _check_bags(self, bags: ForeignBags) -> None:
        cameras = [topic for camera in self.cameras for topic in (camera.topic, camera.info_topic, camera.depth_topic) if topic]
        known = {topic.lstrip("/") for topic in (*cameras, *self.topics.model_dump().values())}
        for key, values, ours in (("topics", bags.topics, known), ("joints", bags.joints, set(self.command_joints))):
            wrong = next((value for value in values.values() if value.lstrip("/") not in ours), None)
            if wrong is not None:
                raise ValueError(f"bags.{key}: {wrong} is not in this contract; name one of {', '.join(sorted(ours))}")

    @property
    def arm_joints(self) -> list[str]:
        """Names of the arm joints, in order."""
        return [joint.name for joint in self.joints]

    @property
    def command_joints(self) -> list[str]:
        """Names of all commanded joints: the arm's, then the gripper's."""
        return self.arm_joints + ([self.gripper.joint] if self.gripper else [])

    @property
    def camera_names(self) -> list[str]:
        """Camera names, in the order in which a policy sees them."""
        return [camera.name for camera in self.cameras]

    @property
    def urdf_xml(self) -> str:
        """The robot description that belongs to this contract."""
        return self._urdf_xml

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits over what policies and recorded data depend on; the same for every key order.

        That is the robot's kinematics, joints, gripper, cameras and action space. Limits, budgets, workspace,
        topics and command output are not in it: they may be tuned without a new training.
        """
        text = json.dumps(self._interface(), sort_keys=True, separators=(",", ":")) + self._urdf_xml
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """The contract as YAML, to embed in bags and checkpoints."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def difference(self, other: Contract) -> list[str]:
        """One line for every key of the hash that differs between two contracts; empty when the hashes agree."""
        mine, theirs = _flatten(self._interface()), _flatten(other._interface())
        lines = [
            f"{key}: {mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
        if not lines and self.camera_names != other.camera_names:
            lines.append(f"cameras: order {', '.join(self.camera_names)} here, {', '.join(other.camera_names)} there")
        if not lines and self._urdf_xml != other._urdf_xml:
            lines.append(f"{self.urdf}: the URDF files differ")
        return lines

    def _interface(self) -> dict:
        return {
            "robot": self.robot,
            "base_frame": self.base_frame,
            "tool_frame": self.tool_frame,
            "joints": [{"name": joint.name, "unit": joint.unit} for joint in self.joints],
            "gripper": self.gripper and self.gripper.model_dump(include={"joint", "open", "closed", "unit", "binary"}),
            "cameras": [camera.model_dump(include={"name", "width", "height"}) for camera in self.cameras],
            "action": self.action.model_dump(mode="json"),
        }


def parse_contract(text: str, urdf_xml: str, source: str = "contract") -> Contract:
    """Validate a contract given as YAML text.

    Raises:
        ContractError: with one line per problem, each with the key's path.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"{source}: not valid YAML ({' '.join(str(error).split())}); fix the syntax") from None
    if not isinstance(data, dict):
        raise ContractError(f"{source}: expected keys and values; start from config/robots/sim_arm.yaml")
    try:
        contract = Contract.model_validate(data)
    except ValidationError as error:
        raise ContractError("; ".join(f"{source}: {_explain(item)}" for item in error.errors())) from None
    contract._urdf_xml = urdf_xml
    return contract


def load_contract(path: str | Path) -> Contract:
    """Read a contract and the URDF beside it.

    Raises:
        ContractError: when a file is missing or a value is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror}); check the robot's name or path") from None
    contract = parse_contract(text, "", str(path))
    urdf = path.with_name(contract.urdf)
    try:
        contract._urdf_xml = urdf.read_text()
    except OSError as error:
        raise ContractError(f"{path}: urdf: {urdf} cannot be read ({error.strerror}); put the URDF beside the contract") from None
    return contract


def _explain(item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{key}: is missing; add it (there is no default)"
    if item["type"] == "extra_forbidden":
        return f"{key}: is not a known key; remove it or fix its spelling"
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {item['input']!r})" if key else message


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        items = ((entry.get("name", index), entry) for index, entry in enumerate(value))
    else:
        return {prefix: value}
    return {key: leaf for name, entry in items for key, leaf in _flatten(entry, f"{prefix}.{name}" if prefix else str(name)).items()}
