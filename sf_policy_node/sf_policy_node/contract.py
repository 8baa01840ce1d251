"""The robot contract: one YAML per robot names its joints, limits, cameras, action space, budgets
and topics.

It is the only place where these are written. Nodes, recorder, training and checkpoints all read it
through :func:`load_contract`, and compare it by :attr:`Contract.hash` where they meet.
Units are SI (REP 103): metres, radians, seconds. Frames are those of the robot's URDF.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from sf_policy_node.contract_checks import check_topics, explain, flatten
from sf_policy_node.contract_parts import (
    Action,
    ActionSpace,
    Budgets,
    Camera,
    Command,
    FileName,
    Finite,
    ForeignBags,
    FrameName,
    Gripper,
    GripperCommand,
    Joint,
    Name,
    Positive,
    Section,
    Topic,
    Topics,
    Workspace,
)
from sf_policy_node.contract_surroundings import (
    CameraMount,
    CollisionBox,
    CollisionCheck,
    Simulation,
)
from sf_policy_node.text_files import TextFileError, read_text, repeated_keys
from sf_policy_node.urdf import RobotDescription, UrdfError

__all__ = [
    "GRIPPER_COLUMN",
    "Action",
    "ActionSpace",
    "Budgets",
    "Camera",
    "CameraMount",
    "CollisionBox",
    "CollisionCheck",
    "Command",
    "Contract",
    "ContractError",
    "Finite",
    "ForeignBags",
    "Gripper",
    "GripperCommand",
    "Joint",
    "Name",
    "Positive",
    "Simulation",
    "Topic",
    "Topics",
    "Workspace",
    "load_contract",
    "parse_contract",
    "undecided_keys",
]

GRIPPER_COLUMN = "gripper"
_TOOL_COLUMNS = ("x", "y", "z", "rx", "ry", "rz")


class ContractError(ValueError):
    """The contract cannot be used; the message names the file, the key's path and the cure."""


class Contract(Section):
    """A whole robot; load it with :func:`load_contract`."""

    schema_version: Literal[1]
    robot: Name
    urdf: FileName = Field(description="file name, beside the contract")
    base_frame: FrameName
    tool_frame: FrameName
    joints: list[Joint] = Field(min_length=1)
    gripper: Gripper | None = None
    cameras: list[Camera] = Field(min_length=1)
    action: Action
    budgets: Budgets
    workspace: Workspace
    collision: CollisionCheck = CollisionCheck()
    home: list[Finite] | None = Field(
        None, description="arm joints where it rests; links may touch there"
    )
    command: Command
    topics: Topics = Topics()
    bags: ForeignBags | None = Field(None, description="to read bags of other recorders")
    simulation: Simulation = Simulation()
    _folder: Path | None = PrivateAttr(None)
    _urdf_xml: str = PrivateAttr("")

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        check_topics(self.cameras, self.topics, self.command)
        for what, names in (
            ("joints", self.command_joints),
            ("cameras", self.camera_names),
            ("action.names", self.action.names),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(
                    f"{what}: {', '.join(twice)} is named twice; give every entry its own name"
                )
        columns = [name for name in self.action.names if name != GRIPPER_COLUMN]
        if GRIPPER_COLUMN in self.action.names and self.gripper is None:
            raise ValueError(
                "action.names has a gripper column; add a gripper section or remove the column"
            )
        if self.action.space.is_tool:
            if columns not in (list(_TOOL_COLUMNS[:3]), list(_TOOL_COLUMNS)):
                raise ValueError(
                    f"action.names: {self.action.space} needs x y z or x y z rx ry rz (and"
                    f" gripper), got {columns}"
                )
            if len(columns) == 3 and self.action.tool_orientation is None:
                raise ValueError(
                    "action.tool_orientation: give the fixed tool orientation, or add the columns"
                    " rx ry rz"
                )
        elif columns != [joint.name for joint in self.joints]:
            raise ValueError(
                f"action.names: {self.action.space} needs all joints in order, got {columns}"
            )
        if self.command.gripper and not self.gripper:
            raise ValueError(
                "command.gripper: there is no gripper; add a gripper section or remove"
                " command.gripper"
            )
        if self.gripper and not self.command.carries_joints and not self.command.gripper:
            raise ValueError(
                f"command.gripper: {self.command.output} cannot carry the gripper; say where its"
                " commands go"
            )
        if self.bags:
            self._check_bags(self.bags)
        self._check_surroundings()
        return self

    def _check_surroundings(self) -> None:
        if unknown := sorted(set(self.simulation.cameras) - set(self.camera_names)):
            raise ValueError(
                f"simulation.cameras: {unknown[0]} is no camera; name one of"
                f" {', '.join(self.camera_names)}"
            )
        if self.home is None:
            return
        if len(self.home) != len(self.joints):
            raise ValueError(
                f"home: has {len(self.home)} values; give one for each of"
                f" {', '.join(self.arm_joints)}"
            )
        for joint, value in zip(self.joints, self.home, strict=True):
            if not joint.lower <= value <= joint.upper:
                raise ValueError(
                    f"home: {joint.name} at {value:g} is outside its limits {joint.lower:g} to"
                    f" {joint.upper:g}"
                )

    def _check_bags(self, bags: ForeignBags) -> None:
        cameras = [
            topic
            for camera in self.cameras
            for topic in (camera.topic, camera.info_topic, camera.depth_topic)
            if topic
        ]
        known = {topic.lstrip("/") for topic in (*cameras, *self.topics.model_dump().values())}
        for key, values, ours in (
            ("topics", bags.topics, known),
            ("joints", bags.joints, set(self.command_joints)),
        ):
            wrong = next(
                (value for value in values.values() if value.lstrip("/") not in ours), None
            )
            if wrong is not None:
                raise ValueError(
                    f"bags.{key}: {wrong} is not in this contract; name one of"
                    f" {', '.join(sorted(ours))}"
                )

    @property
    def arm_joints(self) -> list[str]:
        """Names of the arm joints, in order."""
        return [joint.name for joint in self.joints]

    @property
    def command_joints(self) -> list[str]:
        """Names of all commanded joints: the arm's, then the gripper's."""
        return self.arm_joints + ([self.gripper.joint] if self.gripper else [])

    @property
    def joint_ages_s(self) -> list[float]:
        """How old the measurement of each of ``command_joints`` may be [s]."""
        age = self.budgets.joint_state_age_s
        return [age] * len(self.joints) + (
            [self.budgets.gripper_age_s or age] if self.gripper else []
        )

    @property
    def camera_names(self) -> list[str]:
        """Camera names, in the order in which a policy sees them."""
        return [camera.name for camera in self.cameras]

    @property
    def urdf_xml(self) -> str:
        """The robot description that belongs to this contract."""
        return self._urdf_xml

    @property
    def mesh_folders(self) -> list[Path]:
        """Where meshes of the URDF are looked for first: beside the contract, if it came from a
        file.
        """
        return [self._folder] if self._folder else []

    def description(self) -> RobotDescription:
        """The URDF's links and joints.

        Raises:
            ContractError: the URDF cannot be used.
        """
        try:
            return RobotDescription(self._urdf_xml, self.urdf)
        except UrdfError as error:
            raise ContractError(f"urdf: {error}") from None

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits over what policies and recorded data depend on; the same for every key
        order.

        That is the robot's kinematics, joints, gripper, cameras and action space. Limits, budgets,
        workspace,
        topics and command output are not in it: they may be tuned without a new training. Of the
        URDF only what moves the tool counts, not its text.
        """
        text = json.dumps(self._interface(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """The contract as YAML, to embed in bags and checkpoints."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def difference(self, other: Contract) -> list[str]:
        """One line for every key of the hash that differs between two contracts; empty when the
        hashes agree.
        """
        mine, theirs = flatten(self._interface()), flatten(other._interface())
        lines = [
            f"{key}: {mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
        if not lines and self.camera_names != other.camera_names:
            lines.append(
                f"cameras: order {', '.join(self.camera_names)} here,"
                f" {', '.join(other.camera_names)} there"
            )
        return lines

    def _interface(self) -> dict:
        return {
            "robot": self.robot,
            "base_frame": self.base_frame,
            "tool_frame": self.tool_frame,
            "joints": [{"name": joint.name, "unit": joint.unit} for joint in self.joints],
            "gripper": (
                self.gripper
                and self.gripper.model_dump(include={"joint", "open", "closed", "unit", "binary"})
            ),
            "cameras": [
                camera.model_dump(include={"name", "width", "height"}) for camera in self.cameras
            ],
            "action": self.action.model_dump(mode="json"),
            "urdf": self._kinematics(),
        }

    def _kinematics(self) -> dict | str:
        """What of the URDF moves the tool; the digest of its text where that cannot be told."""
        try:
            return self.description().kinematics(self.base_frame, self.tool_frame)
        except (ContractError, UrdfError):
            return "text " + hashlib.sha256(self._urdf_xml.encode()).hexdigest()[:16]


def parse_contract(text: str, urdf_xml: str, source: str = "contract") -> Contract:
    """Validate a contract given as YAML text.

    Raises:
        ContractError: with one line per problem, each with the key's path.
    """
    try:
        repeated = repeated_keys(text)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(
            f"{source}: not valid YAML ({' '.join(str(error).split())}); fix the syntax"
        ) from None
    if repeated:
        raise ContractError("; ".join(f"{source}: {problem}" for problem in repeated))
    if not isinstance(data, dict):
        raise ContractError(
            f"{source}: expected keys and values; start from config/robots/sim_arm.yaml"
        )
    if undecided := data.pop("undecided", None):
        keys = "; ".join(map(str, undecided)) if isinstance(undecided, list) else str(undecided)
        raise ContractError(
            f"{source}: is a draft. Look at each of these keys, set it, and remove it from the list"
            f" undecided: {keys}"
        )
    try:
        contract = Contract.model_validate(data)
    except ValidationError as error:
        raise ContractError(
            "; ".join(f"{source}: {explain(item)}" for item in error.errors())
        ) from None
    contract._urdf_xml = urdf_xml
    return contract


def undecided_keys(text: str) -> list[str]:
    """Return what a drafted contract still asks a person to decide."""
    return [str(key) for key in (yaml.safe_load(text) or {}).get("undecided") or []]


def load_contract(path: str | Path) -> Contract:
    """Read a contract and the URDF beside it.

    Raises:
        ContractError: when a file is missing or a value is wrong.
    """
    path = Path(path)
    contract = parse_contract(_read(path, "", "check the robot's name or path"), "", str(path))
    contract._folder = path.absolute().parent
    contract._urdf_xml = _read(
        path.with_name(contract.urdf), f"{path}: urdf: ", "put the URDF beside the contract"
    )
    return contract


def _read(path: Path, key: str, cure: str) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise ContractError(f"{key}{path}: cannot be read ({error.strerror}); {cure}") from None
    except TextFileError as error:
        raise ContractError(f"{key}{error}") from None
