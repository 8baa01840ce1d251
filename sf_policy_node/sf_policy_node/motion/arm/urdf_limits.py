"""Compares the limits of a contract with those of its URDF and refuses wider ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sf_policy_node.contract import Contract, ContractError, Finger, Gripper, Joint
from sf_policy_node.urdf import UrdfJoint

_ROUNDING = {"rad": 1e-3, "m": 1e-4}  # limits are written with few digits
_FASTER = 1.001  # velocity over that of the URDF which still counts as rounding
# No joint of an arm exceeds these positions and speeds, so a larger number is in the other unit.
# They count only where the URDF has no limit, or a narrower one.
_FURTHEST = {"rad": 10.0 * 2.0 * math.pi, "m": 20.0}
_FASTEST = {"rad": 50.0, "m": 20.0}  # unit/s
_OTHER = {"rad": ("degrees", "radians"), "m": ("millimetres", "metres")}
_RATIO = {"rad": 180.0 / math.pi, "m": 1000.0}  # of a number in the other unit
_NEAR = (0.8, 1.25)  # share of that ratio to the URDF which shows the other unit


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
    if problems:
        raise ContractError("; ".join(problems))


def _compare(wanted: _Wanted, urdf: UrdfJoint, file: str) -> list[str]:
    """Return a sentence for every limit of a joint that is wider than in the URDF ``file``."""
    if urdf.unit and urdf.unit != wanted.unit:
        problem = (
            f"{wanted.key}.unit: {wanted.unit}, but joint {urdf.name} is {urdf.kind} in {file};"
            f" give unit: {urdf.unit}"
        )
        return [problem]
    problems, unit = [], wanted.unit
    other, right = _OTHER[unit]
    is_other = _is_other_unit(wanted, urdf)
    cure = (
        f"that looks like {other}: give {right}"
        if is_other
        else "narrow the contract, or correct the URDF if the robot's manual allows more"
    )
    if _is_lower(wanted, urdf) or _is_higher(wanted, urdf):
        has = "open and closed" if wanted.is_gripper else "lower and upper"
        problems.append(
            f"{wanted.key}: {has} {wanted.lower:g} and {wanted.upper:g} {unit} are wider than the"
            f" limits {_number(urdf.lower)} and {_number(urdf.upper)} {unit} of the URDF {file};"
            f" {cure}"
        )
    if _is_faster(wanted, urdf):
        problems.append(
            f"{wanted.key}.velocity: {wanted.velocity:g} {unit}/s is above {urdf.velocity:g}"
            f" {unit}/s of the URDF {file}; {cure}"
        )
    if is_other and not problems:
        problems.append(
            f"{wanted.key}: lower {wanted.lower:g}, upper {wanted.upper:g} {unit} and velocity"
            f" {wanted.velocity:g} {unit}/s look like {other} (the URDF {file} has no limit to"
            f" compare); give {right}"
        )
    return problems


def _is_other_unit(wanted: _Wanted, urdf: UrdfJoint) -> bool:
    """Return whether a limit that the URDF does not allow looks like degrees or millimetres."""
    unit = wanted.unit
    low, high = (share * _RATIO[unit] for share in _NEAR)
    furthest, fastest = _FURTHEST[unit], _FASTEST[unit]
    for ours, theirs, is_wider, bound in (
        (wanted.lower, urdf.lower, _is_lower(wanted, urdf), furthest),
        (wanted.upper, urdf.upper, _is_higher(wanted, urdf), furthest),
        (wanted.velocity, urdf.velocity, _is_faster(wanted, urdf), fastest),
    ):
        if theirs is None:
            found = abs(ours) > bound
        else:
            is_ratio = bool(theirs) and low < ours / theirs < high
            found = is_wider and (is_ratio or abs(ours) > bound)
        if found:
            return True
    return False


def _is_lower(wanted: _Wanted, urdf: UrdfJoint) -> bool:
    return urdf.lower is not None and wanted.lower < urdf.lower - _ROUNDING[wanted.unit]


def _is_higher(wanted: _Wanted, urdf: UrdfJoint) -> bool:
    return urdf.upper is not None and wanted.upper > urdf.upper + _ROUNDING[wanted.unit]


def _is_faster(wanted: _Wanted, urdf: UrdfJoint) -> bool:
    return urdf.velocity is not None and wanted.velocity > _FASTER * urdf.velocity


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
