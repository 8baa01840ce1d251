"""Compares the limits of a contract with those of its URDF and refuses wider ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sf_policy_node.contract import Arm, Contract, ContractError, Finger, Gripper, Joint
from sf_policy_node.urdf import UrdfJoint

_ROUNDING = {"rad": 1e-3, "m": 1e-4}  # limits are written with few digits
_FASTER = 1.001  # velocity over that of the URDF which still counts as rounding
_FURTHEST = 20.0  # m: no arm reaches further, so a larger number is in millimetres
# No joint of an arm exceeds these, so a larger number is in degrees.
_TURNS_MAX = 10.0  # turns from 0
_SPEED_MAX = 50.0  # rad/s
_ACCELERATION_MAX = 500.0  # rad/s^2
_DEGREES = (0.8 * 180.0 / math.pi, 1.25 * 180.0 / math.pi)  # ratio to the URDF that shows degrees


@dataclass(frozen=True)
class _Wanted:
    """The limits of one joint in the contract: ``key`` is its path there, ``unit`` rad or m."""

    key: str
    name: str
    unit: str
    lower: float
    upper: float
    velocity: float

    @classmethod
    def of_joint(cls, joint: Joint, key: str) -> _Wanted:
        return cls(key, joint.name, joint.unit, joint.lower, joint.upper, joint.velocity)

    @classmethod
    def of_finger(cls, gripper: Gripper, finger: Finger, key: str) -> _Wanted:
        lower, upper = sorted((finger.open, finger.closed))
        return cls(key, finger.joint, gripper.unit, lower, upper, gripper.velocity)

    @property
    def is_gripper(self) -> bool:
        return self.key.rpartition(".")[2] == "gripper"


def check_against_urdf(contract: Contract) -> None:
    """Check the limits and units of a contract against its URDF.

    Raises:
        ContractError: limits are wider than those of the URDF or implausible, a unit is wrong, or
            the URDF has no such gripper joint. One sentence for each of them, with both numbers.
    """
    joints = contract.description().joints
    wanted, problems = [], []
    for name, arm in contract.arms.items():
        wanted += [
            _Wanted.of_joint(joint, contract.key_of(name, f"joints.{joint.name}"))
            for joint in arm.joints
        ]
        key = contract.key_of(name, "gripper")
        for finger in arm.gripper.every_finger if arm.gripper else []:
            if finger.joint in joints:
                wanted.append(_Wanted.of_finger(arm.gripper, finger, key))
            elif arm.gripper.in_urdf:
                problems.append(
                    f"{key}.joint: {contract.urdf} has no joint {finger.joint!r}; correct the name,"
                    " or give gripper.in_urdf: false if the gripper is not part of the URDF"
                )
    for each in wanted:
        if each.name in joints:  # `Kinematics` reports arm joints that the URDF lacks
            problems += _compare(each, joints[each.name], contract.urdf)
    for name, arm in contract.arms.items():
        problems += _sizes(arm, contract.key_of(name, ""))
    if problems:
        raise ContractError("; ".join(problems))


def _sizes(arm: Arm, prefix: str) -> list[str]:
    """Return a sentence for every number that looks like degrees or millimetres."""
    problems = []
    for joint in arm.joints:
        reach, unit = joint.upper - joint.lower, joint.unit
        for key in ("tracking_error", "step"):
            if (value := getattr(joint, key)) is not None and value > reach:
                problems.append(
                    f"{prefix}joints.{joint.name}.{key}: {value:g} {unit} is more than the joint's"
                    f" range of {reach:g} {unit}; give {unit},"
                    f" {'not degrees' if unit == 'rad' else 'not millimetres'}"
                )
        if unit == "rad" and joint.acceleration > _ACCELERATION_MAX:
            problems.append(
                f"{prefix}joints.{joint.name}.acceleration: {joint.acceleration:g} rad/s^2 looks"
                " like degrees; give radians"
            )
    furthest = max(map(abs, (*arm.workspace.lower, *arm.workspace.upper)))
    if furthest > _FURTHEST:
        problems.append(
            f"{prefix}workspace: {furthest:g} m from base_frame looks like millimetres; give metres"
        )
    return problems


def _compare(wanted: _Wanted, urdf: UrdfJoint, file: str) -> list[str]:
    """Return a sentence for every limit of a joint that is wider than in the URDF ``file``."""
    if urdf.unit and urdf.unit != wanted.unit:
        problem = (
            f"{wanted.key}.unit: {wanted.unit}, but joint {urdf.name} is {urdf.kind} in {file};"
            f" give unit: {urdf.unit}"
        )
        return [problem]
    problems, unit = [], wanted.unit
    degrees = _in_degrees(wanted, urdf)
    cure = (
        "that looks like degrees: give radians"
        if degrees
        else "narrow the contract, or correct the URDF if the robot's manual allows more"
    )
    low = urdf.lower is not None and wanted.lower < urdf.lower - _ROUNDING[unit]
    high = urdf.upper is not None and wanted.upper > urdf.upper + _ROUNDING[unit]
    if low or high:
        has = "open and closed" if wanted.is_gripper else "lower and upper"
        problems.append(
            f"{wanted.key}: {has} {wanted.lower:g} and {wanted.upper:g} {unit} are wider than the"
            f" limits {_number(urdf.lower)} and {_number(urdf.upper)} {unit} of the URDF {file};"
            f" {cure}"
        )
    if urdf.velocity is not None and wanted.velocity > _FASTER * urdf.velocity:
        problems.append(
            f"{wanted.key}.velocity: {wanted.velocity:g} {unit}/s is above {urdf.velocity:g}"
            f" {unit}/s of the URDF {file}; {cure}"
        )
    if degrees and not problems:
        problems.append(
            f"{wanted.key}: lower {wanted.lower:g}, upper {wanted.upper:g} rad and velocity"
            f" {wanted.velocity:g} rad/s look like degrees (the URDF {file} has no limit to"
            " compare); give radians"
        )
    return problems


def _in_degrees(wanted: _Wanted, urdf: UrdfJoint) -> bool:
    """Return whether the limits of a joint look like degrees instead of radians."""
    if wanted.unit != "rad":
        return False
    pairs = (
        (wanted.lower, urdf.lower),
        (wanted.upper, urdf.upper),
        (wanted.velocity, urdf.velocity),
    )
    if any(theirs and _DEGREES[0] < ours / theirs < _DEGREES[1] for ours, theirs in pairs):
        return True
    furthest = max(abs(wanted.lower), abs(wanted.upper))
    return furthest > 2.0 * math.pi * _TURNS_MAX or wanted.velocity > _SPEED_MAX


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
