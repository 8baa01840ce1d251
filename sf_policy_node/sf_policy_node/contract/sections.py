"""The sections of a robot contract, each validated by itself; :mod:`sf_policy_node.contract` puts
them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sf_policy_node import names

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(names.own_name)]
JointName = Annotated[str, AfterValidator(names.urdf_name)]
FrameName = Annotated[str, AfterValidator(names.frame_name)]
FileName = Annotated[str, AfterValidator(names.file_name)]
Topic = Annotated[str, AfterValidator(names.topic_name)]
Vector3 = Annotated[list[Finite], Field(min_length=3, max_length=3)]

_UNIT_LENGTH = 0.02  # a quaternion's length may differ by rounding


class Section(BaseModel):
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


class Joint(Section):
    """One arm joint with explicit limits: there are no default limits."""

    name: JointName
    lower: Finite = Field(description="lowest position [unit]")
    upper: Finite = Field(description="highest position [unit]")
    velocity: Positive = Field(description="highest speed [unit/s]")
    acceleration: Positive = Field(description="highest acceleration [unit/s^2]")
    tracking_error: Positive = Field(
        description="distance of measured from commanded position at which the arm stops [unit]"
    )
    step: Positive | None = Field(
        None,
        description=(
            "largest change of a target from one step of a chunk to the next [unit]; an executor"
            " needs it"
        ),
    )
    unit: Literal["rad", "m"] = "rad"

    @model_validator(mode="after")
    def _ordered(self) -> Joint:
        if self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must be below upper ({self.upper})")
        return self


class Finger(Section):
    """A further commanded joint of a gripper; it opens and closes with the first one."""

    joint: JointName
    open: Finite = Field(description="joint position when open [unit of the gripper]")
    closed: Finite = Field(description="joint position when closed [unit of the gripper]")

    @model_validator(mode="after")
    def _distinct(self) -> Finger:
        if self.open == self.closed:
            raise ValueError("open and closed must differ")
        return self

    def to_joint(self, opening: float) -> float:
        """Joint position [unit] for an opening from 0 (closed) to 1 (open)."""
        return self.closed + (self.open - self.closed) * min(max(opening, 0.0), 1.0)

    def to_opening(self, position: float) -> float:
        """Opening from 0 (closed) to 1 (open) for a joint position [unit]."""
        return (position - self.closed) / (self.open - self.closed)


class Gripper(Finger):
    """A gripper; chunks carry it as one column from 0 (closed) to 1 (open).

    Fingers that follow its joint by themselves (mimic joints of the URDF, or coupled in the
    hardware) are not listed. Fingers with a command of their own are: ``fingers``.
    """

    velocity: Positive
    acceleration: Positive
    unit: Literal["rad", "m"] = "m"
    binary: bool = Field(True, description="commands snap to open or closed at 0.5")
    in_urdf: bool = Field(
        True, description="false: the URDF has no gripper, so its limits are not compared"
    )
    fingers: list[Finger] = Field(
        [], description="further joints that are commanded, each with its own open and closed"
    )

    @property
    def every_finger(self) -> list[Finger]:
        """The gripper's own joint, then its further ones."""
        return [self, *self.fingers]

    @property
    def joints(self) -> list[str]:
        """Names of the commanded joints."""
        return [finger.joint for finger in self.every_finger]

    def to_joints(self, opening: float) -> list[float]:
        """Positions of :attr:`joints` [unit] for an opening from 0 (closed) to 1 (open)."""
        return [finger.to_joint(opening) for finger in self.every_finger]

    def mean_opening(self, positions: Sequence[float]) -> float:
        """Opening from 0 to 1, the mean over the fingers, for positions of :attr:`joints`."""
        pairs = zip(self.every_finger, positions, strict=True)
        return sum(finger.to_opening(float(place)) for finger, place in pairs) / len(positions)


class Camera(Section):
    """One colour camera, with its depth stream where it has one."""

    name: Name
    topic: Topic
    transport: Literal["raw", "compressed"] = "raw"
    width: Annotated[int, Field(gt=0, le=8192)]
    height: Annotated[int, Field(gt=0, le=8192)]
    frame: FrameName = Field(description="optical frame (REP 103: z forward, x right, y down)")
    rate_hz: Positive
    info_topic: Topic | None = None
    depth_topic: Topic | None = Field(
        None, description="32FC1 metres or 16UC1 millimetres (REP 118), for training only"
    )


class Action(Section):
    """The action space that policies for this robot speak."""

    space: ActionSpace
    names: list[JointName] = Field(min_length=1, description="columns of a chunk, in order")
    step_s: Positive = Field(description="time between two steps of a chunk [s]")
    horizon: Annotated[int, Field(ge=2, le=500)] = Field(description="steps of a chunk")
    tool_orientation: Annotated[list[Finite], Field(min_length=4, max_length=4)] | None = Field(
        None,
        description=(
            "fixed tool orientation, quaternion x y z w in base_frame, when no rx ry rz columns"
            " exist"
        ),
    )

    @model_validator(mode="after")
    def _turned(self) -> Action:
        if self.tool_orientation is not None:
            length = sum(value * value for value in self.tool_orientation) ** 0.5
            if abs(length - 1.0) > _UNIT_LENGTH:
                raise ValueError(
                    f"tool_orientation: {self.tool_orientation} has the length {length:.3g}; give a"
                    " unit quaternion x y z w, such as [0, 1, 0, 0] for a tool that points down"
                )
        return self


class Budgets(Section):
    """Maximum ages and delays [s]. Older data are not used."""

    observation_age_s: Positive = Field(
        description="age of the oldest image of an observation when it is used"
    )
    camera_skew_s: Positive = Field(description="between the images of one observation")
    joint_state_age_s: Positive = Field(description="of the newest joint state of an arm")
    gripper_age_s: Positive | None = Field(
        None,
        description=("of the gripper's joint, if its driver is slower; none: joint_state_age_s"),
    )
    chunk_age_s: Positive = Field(description="observation stamp to chunk arrival at the executor")
    emergency_stop_age_s: Positive | None = Field(
        None,
        description=(
            "every button on topics.emergency_stop repeats its state within this time, or it is a"
            " stop; none: no heartbeat"
        ),
    )
    hold_s: Positive | None = Field(
        None,
        description=(
            "from the last usable chunk until the arm is stationary; an executor needs it"
        ),
    )
    teleop_age_s: Positive | None = Field(
        None, description="silence after which teleoperation has no control; an executor needs it"
    )


class Workspace(Section):
    """Box that the tool may not leave, in base_frame [m]."""

    lower: Vector3
    upper: Vector3
    tool_speed: Positive | None = Field(
        None, description="highest speed of the tool [m/s]; an executor needs it"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Workspace:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if low >= high:
                raise ValueError(f"lower {axis} ({low}) must be below upper {axis} ({high})")
        return self


GRIPPER_ACTIONS = {
    "parallel_gripper": "control_msgs/action/ParallelGripperCommand",
    "gripper_command": "control_msgs/action/GripperCommand",
}
"""Type of the action of each ``command.gripper.output`` that is an action."""


class GripperCommand(Section):
    """A gripper with a controller of its own: it takes positions on a topic, or goals."""

    output: Literal["forward_command", "parallel_gripper", "gripper_command"]
    topic: Topic = Field(description="topic of the commands, or name of the action")
    max_effort: Positive | None = Field(
        None,
        description=(
            "of each goal of an action [N, or N m for a joint that turns]; none: as the controller"
            " is set, and 0 with gripper_command"
        ),
    )
    open: Finite | None = Field(
        None,
        description="with gripper_command: position of a goal that opens; none: gripper.open",
    )
    closed: Finite | None = Field(
        None,
        description="with gripper_command: position of a goal that closes; none: gripper.closed",
    )
    replaces_goals: bool = Field(
        True,
        description=(
            "of an action: a new goal ends the active one; false: the executor sends a goal only"
            " after the last one has ended"
        ),
    )

    @property
    def action(self) -> str | None:
        """Type of the action; None: the commands are messages on a topic."""
        return GRIPPER_ACTIONS.get(self.output)

    def to_goal(self, gripper: Finger, position: float) -> float:
        """Position of a goal for a joint position [unit of the gripper]."""
        if self.open is None and self.closed is None:
            return position
        opening = gripper.to_opening(position)
        begin, end = self._ends(gripper)
        return begin + (end - begin) * opening

    def from_goal(self, gripper: Finger, goal: float) -> float:
        """Joint position [unit of the gripper] for the position of a goal."""
        if self.open is None and self.closed is None:
            return goal
        begin, end = self._ends(gripper)
        return gripper.closed + (gripper.open - gripper.closed) * (goal - begin) / (end - begin)

    def _ends(self, gripper: Finger) -> tuple[float, float]:
        """Return the positions of the goals that close and open."""
        return (
            gripper.closed if self.closed is None else self.closed,
            gripper.open if self.open is None else self.open,
        )


class Command(Section):
    """Where and how motion leaves the executor."""

    output: Literal["joint_trajectory", "forward_command", "servo_twist", "servo_pose"] = (
        "joint_trajectory"
    )
    topic: Topic
    rate_hz: Annotated[float, Field(ge=10, le=1000)] = Field(
        description="points per second of a trajectory, or commands per second"
    )
    gripper: GripperCommand | None = Field(
        None, description="none: the gripper's joints are the last ones of the arm's command"
    )

    @property
    def carries_joints(self) -> bool:
        """The command has a value for every joint (and not a pose or twist of the tool)."""
        return self.output in ("joint_trajectory", "forward_command")


class Arm(Section):
    """One arm: its joints and limits, its gripper, its tool, and where its commands go."""

    base_frame: FrameName = Field(description="frame of its workspace box; none: the common one")
    tool_frame: FrameName
    joints: list[Joint] = Field(min_length=1)
    gripper: Gripper | None = None
    workspace: Workspace
    home: list[Finite] | None = Field(
        None, description="its joints in the home pose, in which links may touch [rad or m]"
    )
    rest: list[Finite] | None = Field(
        None,
        description=(
            "its joints in the rest pose, in which it lies safely without power [rad or m]; the"
            " executor moves there before it ends"
        ),
    )
    command: Command = Field(description="of this arm; none: the common one")

    @property
    def joint_names(self) -> list[str]:
        """Names of its joints, in order, without the gripper."""
        return [joint.name for joint in self.joints]

    @property
    def gripper_joints(self) -> list[str]:
        """Names of the gripper's commanded joints."""
        return self.gripper.joints if self.gripper else []

    @property
    def fitted_gripper(self) -> Gripper:
        """Its gripper, of an arm that has one."""
        if self.gripper is None:
            raise ValueError("the arm has no gripper")
        return self.gripper

    @property
    def command_joints(self) -> list[str]:
        """Names of its joints, then of its gripper's."""
        return self.joint_names + self.gripper_joints


class Topics(Section):
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


class ForeignBags(Section):
    """How bags that this suite has not recorded name what the contract needs; for reading them
    only.
    """

    topics: dict[str, Topic] = Field(
        {}, description="topic in the bag: topic of this contract; several may become one"
    )
    joints: dict[str, JointName] = Field(
        {}, description="joint name in the bag: joint of this contract"
    )
    commands: str | None = Field(
        None,
        description=(
            "topic in the bag with the operator's commands (JointState, JointTrajectory or"
            " numbers); that of the joint states: where the arm went next was the command; none: as"
            " topics.teleop_command"
        ),
    )
    columns: dict[str, list[str]] = Field(
        {},
        description=(
            "topic in the bag whose commands are numbers without names: the joint of each number,"
            " in order"
        ),
    )
    arms: dict[str, Name] = Field(
        {},
        description=(
            "topic in the bag with poses or twists of a tool: the arm that they command; needed"
            " with several arms where their frame is not the tool or base frame of only one"
        ),
    )
    units: dict[str, Literal["degrees"]] = Field(
        {}, description="topics in the bag whose joints are not in radians"
    )
    gripper: dict[str, tuple[Finite, Finite]] = Field(
        {},
        description=(
            "topics in the bag whose gripper joint has other values: those for closed and for open"
        ),
    )
    instruction: str = Field("", description="where the bag holds no message on topics.instruction")
    outcome: Literal["success", "failure", "discarded"] = "success"
