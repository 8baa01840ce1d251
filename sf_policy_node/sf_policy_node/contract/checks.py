"""Check a contract across its sections, and make messages of what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sf_policy_node.contract.columns import (
    TOOL_POSITION,
    TOOL_ROTATION,
    ColumnKind,
    Columns,
    column_name,
)
from sf_policy_node.contract.sections import Action, Arm, Camera, ForeignBags, Topics

_OTHER_UNIT = {"rad": (math.radians(1.0), "degrees"), "m": (1e-3, "millimetres")}
# By what pydantic found wrong and the end of the key: which unit a value may have.
_GUESSES = {
    ("greater_than_equal", "rate_hz"): "; is it the time between two of them?",
    ("less_than_equal", "collision.margin"): " m; is it in millimetres?",
    ("greater_than", "field_of_view"): " degrees; is it in radians?",
}


def arm_key(arms: Mapping[str, Arm], name: str, key: str) -> str:
    """Return the path of an arm's key, for messages: short where there is only one arm."""
    return key if len(arms) == 1 else f"arms.{name}.{key}"


def check_distinct(what: str, names: Sequence[str]) -> None:
    """Refuse a name that is given twice.

    Raises:
        ValueError: with the names.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{what}: {', '.join(twice)} is named twice; give every entry its own name"
        )


def check_arms(arms: Mapping[str, Arm]) -> None:
    """Refuse arms whose sections contradict each other.

    Raises:
        ValueError: with the key's path.
    """
    check_distinct("joints", [joint for arm in arms.values() for joint in arm.command_joints])
    for name, arm in arms.items():
        _check_gripper_command(arm, arm_key(arms, name, "command.gripper"))
        _check_pose(arm, arm.home, arm_key(arms, name, "home"))
        _check_pose(arm, arm.rest, arm_key(arms, name, "rest"))
    for key in ("output", "rate_hz"):
        values = {str(getattr(arm.command, key)): name for name, arm in arms.items()}
        if len(values) > 1:
            (one, first), (other, second), *_ = values.items()
            raise ValueError(
                f"arms.{second}.command.{key}: is {other}, and that of {first} {one}; all arms move"
                " on one timeline, so give them the same"
            )
    command = next(iter(arms.values())).command
    if len(arms) > 1 and not command.carries_joints:
        raise ValueError(
            f"command.output: {command.output} commands one tool, and there are {len(arms)} arms;"
            " use joint_trajectory or forward_command"
        )


def _check_gripper_command(arm: Arm, key: str) -> None:
    gripper = arm.command.gripper
    if gripper and not arm.gripper:
        raise ValueError(
            f"{key}: there is no gripper; add a gripper section or remove command.gripper"
        )
    if arm.gripper and not arm.command.carries_joints and not gripper:
        raise ValueError(
            f"{key}: {arm.command.output} cannot carry the gripper; say where its commands go"
        )
    if not gripper or not arm.gripper:
        return
    if gripper.action and arm.gripper.fingers:
        raise ValueError(
            f"{key}: {gripper.output} commands one joint, and the gripper has"
            f" {', '.join(arm.gripper.joints)}; use forward_command, or leave out fingers that"
            " follow by themselves"
        )
    if gripper.output != "gripper_command" and (gripper.open, gripper.closed) != (None, None):
        raise ValueError(
            f"{key}: {gripper.output} takes the positions of the joint; remove open and closed, or"
            " use gripper_command"
        )
    if not gripper.action and not gripper.replaces_goals:
        raise ValueError(
            f"{key}.replaces_goals: {gripper.output} has no goals; remove it, or use the output of"
            " an action"
        )
    if gripper.to_goal(arm.gripper, arm.gripper.open) == gripper.to_goal(
        arm.gripper, arm.gripper.closed
    ):
        raise ValueError(f"{key}: open and closed must differ")


def _check_pose(arm: Arm, pose: Sequence[float] | None, key: str) -> None:
    if pose is None:
        return
    if len(pose) != len(arm.joints):
        raise ValueError(
            f"{key}: has {len(pose)} values; give one for each of {', '.join(arm.joint_names)}"
        )
    for joint, value in zip(arm.joints, pose, strict=True):
        if not joint.lower <= value <= joint.upper:
            factor, other = _OTHER_UNIT[joint.unit]
            is_other = joint.lower <= value * factor <= joint.upper and abs(value) > 1.0
            guess = f" {joint.unit}: is it in {other}?" if is_other else ""
            raise ValueError(
                f"{key}: {joint.name} at {value:g} is outside its limits {joint.lower:g} to"
                f" {joint.upper:g}{guess}"
            )


def check_columns(action: Action, arms: Mapping[str, Arm], columns: Columns) -> None:
    """Refuse columns that an action space cannot have.

    Raises:
        ValueError: with the names.
    """
    for name, arm in arms.items():
        _check_columns_of(name, arm, action, arms, columns)
    motion = columns.action.indices(without=[ColumnKind.GRIPPER])
    order = [columns.action[index].arm for index in motion]
    if order != sorted(order, key=list(arms).index):
        raise ValueError(
            f"action.names: give the columns of {', '.join(arms)} one arm after another"
        )


def _check_columns_of(
    name: str, arm: Arm, action: Action, arms: Mapping[str, Arm], columns: Columns
) -> None:
    without_gripper = columns.action.indices(arm=name, without=[ColumnKind.GRIPPER])
    found = [columns.action[index].name for index in without_gripper]
    whose = "" if len(arms) == 1 else f" of {name}"
    if not action.space.is_tool:
        if found != arm.joint_names:
            raise ValueError(
                f"action.names: {action.space} needs all joints{whose} in order, got {found}"
            )
        return
    position = [column_name(name, axis, arms) for axis in TOOL_POSITION]
    pose = position + [column_name(name, axis, arms) for axis in TOOL_ROTATION]
    if found not in (position, pose):
        raise ValueError(
            f"action.names: {action.space} needs {' '.join(position)} or {' '.join(pose)} (and"
            f" gripper), got {found}"
        )
    if found == position and action.tool_orientation is None:
        raise ValueError(
            "action.tool_orientation: give the fixed tool orientation, or add the columns rx ry rz"
        )


def check_foreign_bags(
    bags: ForeignBags, topics: Iterable[str], joints: Iterable[str], arms: Iterable[str]
) -> None:
    """Refuse names in ``bags`` that should be the contract's and are not.

    Raises:
        ValueError: with the key and the names that it has.
    """
    for key, values, ours in (
        ("topics", bags.topics, {topic.lstrip("/") for topic in topics}),
        ("joints", bags.joints, set(joints)),
        ("arms", bags.arms, set(arms)),
    ):
        wrong = next((value for value in values.values() if value.lstrip("/") not in ours), None)
        if wrong is not None:
            raise ValueError(
                f"bags.{key}: {wrong} is not in this contract; name one of"
                f" {', '.join(sorted(ours))}"
            )


def check_topics(cameras: Sequence[Camera], topics: Topics, arms: Mapping[str, Arm]) -> None:
    """Refuse one topic for two purposes: messages of one would be taken for the other.

    Arms may share one topic for their commands: that of a controller of all their joints.

    Raises:
        ValueError: with both keys.
    """
    used: dict[str, str] = {}
    streams = [
        (f"cameras.{camera.name}.{key}", value)
        for camera in cameras
        for key in ("topic", "info_topic", "depth_topic")
        if (value := getattr(camera, key))
    ]
    streams += [(f"topics.{key}", value) for key, value in topics.model_dump().items()]
    commands = {
        arm.command.topic: arm_key(arms, name, "command.topic") for name, arm in arms.items()
    }
    streams += [(key, topic) for topic, key in commands.items()]
    streams += [
        (arm_key(arms, name, "command.gripper.topic"), arm.command.gripper.topic)
        for name, arm in arms.items()
        if arm.command.gripper
    ]
    for key, topic in streams:
        other = used.setdefault(topic.lstrip("/"), key)
        if other != key:
            raise ValueError(
                f"{key}: is the same topic as {other} ({topic}); give each its own topic"
            )


def explain(item: dict) -> str:
    """Return a problem that pydantic found as one sentence with the key's path."""
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "missing":
        return f"{key}: is missing; add it (there is no default)"
    if item["type"] == "extra_forbidden":
        return f"{key}: is not a known key; remove it or fix its spelling"
    if item["type"] == "string_type" and not isinstance(item["input"], (dict, list)):
        return f"{key}: {item['input']!r} is not a text; write it in quotes"
    message = item["msg"].removeprefix("Value error, ")
    for (kind, end), guess in _GUESSES.items():
        message += guess if item["type"] == kind and key.endswith(end) else ""
    if not key or isinstance(item["input"], dict):
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {item['input']!r})"


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Return nested values by the path of their keys; entries of lists go by their name."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        items = ((entry.get("name", index), entry) for index, entry in enumerate(value))
    else:
        return {prefix: value}
    return {
        key: leaf
        for name, entry in items
        for key, leaf in flatten(entry, f"{prefix}.{name}" if prefix else str(name)).items()
    }
