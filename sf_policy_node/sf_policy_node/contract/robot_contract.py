"""The robot contract: one YAML per robot names its joints, limits, cameras, action space, budgets
and topics.

It is the only place where these are written. Nodes, recorder, training and checkpoints all read it
through :func:`load_contract`, and compare it by :attr:`Contract.hash` where they meet.
Units are SI (REP 103): metres, radians, seconds. Frames are those of the robot's URDF.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from sf_policy_node.contract.checks import (
    arm_key,
    check_arms,
    check_columns,
    check_distinct,
    check_foreign_bags,
    check_topics,
    explain,
    flatten,
)
from sf_policy_node.contract.columns import (
    GRIPPER_COLUMN,
    ColumnKind,
    Columns,
    columns_of,
)
from sf_policy_node.contract.comparison import is_same
from sf_policy_node.contract.magnitudes import check_magnitudes
from sf_policy_node.contract.sections import (
    Action,
    Arm,
    Budgets,
    Camera,
    Command,
    FileName,
    ForeignBags,
    FrameName,
    Gripper,
    Joint,
    Name,
    Section,
    Topics,
    Workspace,
)
from sf_policy_node.contract.surroundings import (
    CollisionCheck,
    Simulation,
)
from sf_policy_node.contract.upgrade import ARM_KEYS, ONLY_ARM, upgraded, with_common_values
from sf_policy_node.contract.urdf_source import UrdfSource, UrdfSourceError
from sf_policy_node.text_files import TextFileError, read_text, repeated_keys
from sf_policy_node.urdf import RobotDescription, UrdfError

_ARM_KEYS = frozenset(ARM_KEYS)
_STORED = "stored"


class ContractError(ValueError):
    """The contract cannot be used; the message names the file, the key's path and the cure."""


class Contract(Section):
    """A whole robot; load it with :func:`load_contract`.

    ``joints``, ``gripper``, ``tool_frame``, ``workspace``, ``home`` and ``command`` are those of
    the only arm, for code that serves one arm; with several arms they raise ContractError.
    """

    schema_version: Literal[2]
    robot: Name
    urdf: FileName = Field(description="file name of the URDF, as it is embedded in recordings")
    base_frame: FrameName
    arms: dict[Name, Arm] = Field(min_length=1)
    cameras: list[Camera] = Field(min_length=1)
    action: Action
    budgets: Budgets
    collision: CollisionCheck = CollisionCheck()
    topics: Topics = Topics()
    bags: ForeignBags | None = Field(None, description="to read bags of other recorders")
    simulation: Simulation = Simulation()
    _folder: Path | None = PrivateAttr(None)
    _urdf_xml: str = PrivateAttr("")
    _urdf_source: UrdfSource | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _common_values(cls, data: object) -> object:
        return with_common_values(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Contract:
        check_arms(self.arms)
        check_topics(self.cameras, self.topics, self.arms)
        check_distinct("cameras", self.camera_names)
        check_distinct("action.names", self.action.names)
        if GRIPPER_COLUMN in self.action.names and not any(
            arm.gripper for arm in self.arms.values()
        ):
            raise ValueError(
                "action.names has a gripper column; add a gripper section or remove the column"
            )
        check_columns(self.action, self.arms, self.columns)
        if self.bags:
            cameras = [
                topic
                for camera in self.cameras
                for topic in (camera.topic, camera.info_topic, camera.depth_topic)
                if topic
            ]
            topics = (*cameras, *self.topics.model_dump().values())
            check_foreign_bags(self.bags, topics, self.command_joints, self.arms)
        if unknown := sorted(set(self.simulation.cameras) - set(self.camera_names)):
            raise ValueError(
                f"simulation.cameras: {unknown[0]} is no camera; name one of"
                f" {', '.join(self.camera_names)}"
            )
        if not (info.context or {}).get(_STORED):
            check_magnitudes(
                self.arms,
                self.cameras,
                self.action,
                self.budgets,
                self.collision,
                self.simulation,
            )
        return self

    # ---- all arms ----

    @cached_property
    def columns(self) -> Columns:
        """What each column of a chunk, of the state and of a joint command means."""
        return columns_of(self.arms, self.action.names)

    @property
    def arm_joints(self) -> list[str]:
        """Names of the joints of all arms, in order, without grippers."""
        return [name for arm in self.arms.values() for name in arm.joint_names]

    @property
    def command_joints(self) -> list[str]:
        """Names of all commanded joints: of each arm its joints, then those of its gripper."""
        return [name for arm in self.arms.values() for name in arm.command_joints]

    @property
    def joint_ages_s(self) -> list[float]:
        """How old the measurement of each of ``command_joints`` may be [s]."""
        age = self.budgets.joint_state_age_s
        grippers = self.columns.commands.mask(ColumnKind.GRIPPER)
        return [(self.budgets.gripper_age_s or age) if gripper else age for gripper in grippers]

    @property
    def rate_hz(self) -> float:
        """Points per second of all arms' trajectories, or commands per second."""
        return next(iter(self.arms.values())).command.rate_hz

    @property
    def output(self) -> str:
        """How motion leaves the executor: see ``Command.output``; all arms have the same."""
        return next(iter(self.arms.values())).command.output

    @property
    def command_groups(self) -> dict[str, list[int]]:
        """Topic of every controller of an arm, or of several: the indices in ``command_joints`` of
        the joints that it is commanded. Joints of a gripper with a controller of its own are in
        none.
        """
        groups: dict[str, list[int]] = {}
        for column in self.columns.commands:
            command = self.arms[column.arm].command
            if column.kind is ColumnKind.JOINT or command.gripper is None:
                groups.setdefault(command.topic, []).append(column.index)
        return groups

    def key_of(self, arm: str, key: str) -> str:
        """Return the path of an arm's key, for messages: short where there is only one arm."""
        return arm_key(self.arms, arm, key)

    # ---- the only arm ----

    @property
    def only_arm(self) -> Arm:
        """The arm of a robot with one arm.

        Raises:
            ContractError: there are several.
        """
        if len(self.arms) > 1:
            raise ContractError(
                f"robot: {self.robot} has the arms {', '.join(self.arms)}, and this part works with"
                " one arm only; use a contract of one of them"
            )
        return next(iter(self.arms.values()))

    @property
    def joints(self) -> list[Joint]:
        """Joints of the only arm."""
        return self.only_arm.joints

    @property
    def gripper(self) -> Gripper | None:
        """Gripper of the only arm."""
        return self.only_arm.gripper

    @property
    def tool_frame(self) -> str:
        """Tool frame of the only arm."""
        return self.only_arm.tool_frame

    @property
    def workspace(self) -> Workspace:
        """Workspace of the only arm."""
        return self.only_arm.workspace

    @property
    def home(self) -> list[float] | None:
        """Home pose of the only arm."""
        return self.only_arm.home

    @property
    def command(self) -> Command:
        """Command output of the only arm."""
        return self.only_arm.command

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> Contract:
        """Return a copy with other values; keys of an arm change the only arm."""
        update = dict(update or {})
        own = {key: update.pop(key) for key in _ARM_KEYS & update.keys()}
        if own:
            arm = self.only_arm.model_copy(update=own)
            update["arms"] = dict.fromkeys(self.arms, arm)
        copy = super().model_copy(update=update, deep=deep)
        for key in ("hash", "robot_hash", "columns"):
            copy.__dict__.pop(key, None)  # computed for the original
        return copy

    @property
    def camera_names(self) -> list[str]:
        """Camera names, in the order in which a policy sees them."""
        return [camera.name for camera in self.cameras]

    @property
    def urdf_xml(self) -> str:
        """The robot description that belongs to this contract."""
        return self._urdf_xml

    @property
    def description_topic(self) -> str | None:
        """Topic from which the robot description came, as in the contract; None: from a file."""
        return self._urdf_source.topic if self._urdf_source else None

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
        """Sixteen hex digits over what policies depend on; the same for every key order.

        That is the robot (:attr:`robot_hash`) and the action space: columns, step and horizon. A
        checkpoint and a chunk must have the hash of the contract that they are used with. Limits,
        budgets, workspace, topics and command output are not in it: they may be tuned without a
        new training.
        """
        return _digest(self._interface())

    @cached_property
    def robot_hash(self) -> str:
        """Sixteen hex digits over what recordings depend on.

        That is kinematics, joints, grippers and cameras. Of the URDF only what moves a tool
        counts, not its text. The action space does not: recordings hold what was measured and
        commanded, and chunks of any action space are computed from that.
        """
        return _digest(self._interface(action=False))

    def to_yaml(self) -> str:
        """The contract as YAML, to embed in bags and checkpoints."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def fits(self, other: Contract, *, action: bool = True) -> bool:
        """Return whether checkpoints and recordings of ``other`` can be used with this contract.

        All joints are in the same order, and the hashes are equal, or what they cover differs only
        in rounded numbers. The hashes ignore the order of the arms.

        Args:
            action: false: compare the robots only, as :attr:`robot_hash` does.
        """
        if self.command_joints != other.command_joints:
            return False
        key = "hash" if action else "robot_hash"
        return getattr(self, key) == getattr(other, key) or is_same(
            self._interface(action=action), other._interface(action=action)
        )

    def difference(self, other: Contract, *, action: bool = True) -> list[str]:
        """One line for every key of the hash that differs between two contracts; empty when they
        fit.

        Args:
            action: false: compare the robots only, as :attr:`robot_hash` does.
        """
        mine, theirs = (flatten(each._interface(action=action)) for each in (self, other))
        lines = [
            f"{key}: {mine.get(key, 'absent')} here, {theirs.get(key, 'absent')} there"
            for key in sorted(mine.keys() | theirs.keys())
            if not is_same(mine.get(key), theirs.get(key), key)
        ]
        orders = ("cameras", "camera_names"), ("joints", "arm_joints")
        for key, names in orders if not lines else ():
            here, there = getattr(self, names), getattr(other, names)
            if here != there:
                lines.append(f"{key}: order {', '.join(here)} here, {', '.join(there)} there")
        return lines

    def _interface(self, *, action: bool = True) -> dict:
        """What the hashes cover. Of one arm as in version 1, so that its hashes stay the same."""
        arms = {name: self._arm_interface(arm) for name, arm in self.arms.items()}
        interface = {
            "robot": self.robot,
            "base_frame": self.base_frame,
            **(next(iter(arms.values())) if len(arms) == 1 else {"arms": arms}),
            "cameras": [
                camera.model_dump(include={"name", "width", "height"}) for camera in self.cameras
            ],
        }
        return interface | ({"action": self.action.model_dump(mode="json")} if action else {})

    def _arm_interface(self, arm: Arm) -> dict:
        gripper = arm.gripper
        kept = {"joint", "open", "closed", "unit", "binary"}
        kept |= {"fingers"} if gripper and gripper.fingers else set()
        return {
            "tool_frame": arm.tool_frame,
            "joints": [{"name": joint.name, "unit": joint.unit} for joint in arm.joints],
            "gripper": gripper and gripper.model_dump(include=kept),
            "urdf": self._kinematics(arm.tool_frame),
        }

    def _kinematics(self, tool_frame: str) -> dict | str:
        """What of the URDF moves the tool; the digest of its text where that cannot be told."""
        try:
            return self.description().kinematics(self.base_frame, tool_frame)
        except (ContractError, UrdfError):
            return "text " + hashlib.sha256(self._urdf_xml.encode()).hexdigest()[:16]


def _digest(interface: dict) -> str:
    text = json.dumps(interface, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_contract(
    text: str, urdf_xml: str, source: str = "contract", *, stored: bool = False
) -> Contract:
    """Validate a contract given as YAML text.

    Args:
        stored: it is from a bag or a checkpoint: numbers in a wrong unit are accepted.

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
    urdf = UrdfSource.of(data["urdf"]) if isinstance(data.get("urdf"), str) else None
    if urdf is not None:
        data["urdf"] = urdf.name
    try:
        data, is_old = upgraded(data)
        contract = Contract.model_validate(data, context={_STORED: stored})
    except ValidationError as error:
        problems = [explain(item) for item in error.errors()]
        if is_old:  # its keys as they are in the file
            problems = [problem.removeprefix(f"arms.{ONLY_ARM}.") for problem in problems]
        raise ContractError(
            "; ".join(f"{source}: {problem}" for problem in dict.fromkeys(problems))
        ) from None
    except ValueError as error:
        raise ContractError(f"{source}: {error}") from None
    contract._urdf_xml, contract._urdf_source = urdf_xml, urdf
    return contract


def undecided_keys(text: str) -> list[str]:
    """Return what a drafted contract still asks a person to decide."""
    return [str(key) for key in (yaml.safe_load(text) or {}).get("undecided") or []]


def load_contract(path: str | Path, *, stored: bool = False, namespace: str = "") -> Contract:
    """Read a contract and its URDF: the file beside it, or where else it says.

    Args:
        stored: it is from a bag or a checkpoint: numbers in a wrong unit are accepted.
        namespace: of the robot's nodes; a relative topic of the robot description resolves in it.

    Raises:
        ContractError: when a file is missing or a value is wrong.
    """
    path = Path(path)
    contract = parse_contract(_read(path), "", str(path), stored=stored)
    source = contract._urdf_source or UrdfSource(contract.urdf)
    try:
        contract._urdf_xml, contract._folder = source.read(path.parent, namespace)
    except UrdfSourceError as error:
        raise ContractError(f"{path}: urdf: {error}") from None
    return contract


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise ContractError(
            f"{path}: cannot be read ({error.strerror}); check the robot's name or path"
        ) from None
    except TextFileError as error:
        raise ContractError(str(error)) from None
