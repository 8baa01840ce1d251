"""Convert the columns of a LeRobot dataset to the units of the contract, and refuse values that do
not fit the assumed units.

Datasets do not state their units. LeRobot's own arms record joints from -100 to 100 (the calibrated
range of each motor) and the gripper from 0 to 100, or joints in degrees. Others record radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.lerobot.layout import LeRobotError

Units = Literal["auto", "radians", "degrees", "normalised"]
GRIPPER_PERCENT = (0.0, 100.0)  # closed, open
# Tolerated share of a joint's range beyond its limits: calibrations differ, and limits are set
# inside the mechanical ones.
_BEYOND = 0.1
_STILL = 0.05  # share of the opening; a gripper that moves less is in other units, or never used
_FULL_SCALE = 101.0  # 100, plus rounding and a motor just outside its calibrated range


@dataclass(frozen=True)
class Conversion:
    """Conversion of J command joints: contract value = dataset value * scale + offset.

    Attributes:
        scale, offset: (J,).
        note: warning for the user; may be empty.
    """

    scale: np.ndarray
    offset: np.ndarray
    note: str = ""

    @classmethod
    def unchanged(cls, joints: int) -> Conversion:
        """Return the conversion of values that are in the contract's units already."""
        return cls(np.ones(joints), np.zeros(joints))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Convert (N, J) values."""
        return values * self.scale + self.offset


def conversion(
    contract: Contract,
    units: Units,
    gripper: tuple[float, float] | None,
    names: Sequence[str],
    lowest: np.ndarray,
    highest: np.ndarray,
) -> Conversion:
    """Choose the conversion, and check it against the values.

    Args:
        units: of the arm joints; "auto" accepts only radians.
        gripper: values for closed and open in the dataset; None means as the units imply.
        names: column of each command joint in the dataset.
        lowest, highest: (J,) extremes of the values in the dataset.

    Raises:
        LeRobotError: the values do not fit the units; the message guesses the right ones.
    """
    if gripper and gripper[0] == gripper[1]:
        raise LeRobotError("--gripper: closed and open are equal; give two different values")
    chosen = "radians" if units == "auto" else units
    scale, offset = _scale_and_offset(contract, chosen, gripper)
    limits = _Limits.of(contract)
    outside = _outside(limits, scale, offset, lowest, highest)
    notes = []
    largest = np.where(limits.is_gripper, 0.0, np.maximum(np.abs(lowest), np.abs(highest)))
    if chosen == "normalised" and largest.max() > _FULL_SCALE:
        worst = int(np.argmax(largest))
        raise LeRobotError(
            f"{_range(limits, worst, names, lowest, highest)}; normalised values lie between -100"
            " and 100: try --units degrees"
        )
    if outside is not None and units == "auto":
        raise LeRobotError(_refusal(contract, limits, outside, names, lowest, highest))
    if outside is not None:
        notes.append(
            f"{_range(limits, outside, names, lowest, highest)}, so in {chosen} it is beyond the"
            " limits; check --units"
        )
    for row in np.flatnonzero(limits.is_gripper).tolist():
        _check_gripper(limits, row, scale[row], offset[row], names[row], lowest[row], highest[row])
        opening = abs(limits.opened[row] - limits.closed[row])
        if (highest[row] - lowest[row]) * abs(scale[row]) < _STILL * opening:
            notes.append(
                f"the gripper (column {names[row]}) goes only from {lowest[row]:.4g} to"
                f" {highest[row]:.4g}, so it hardly moves; check --gripper and --units"
            )
    return Conversion(scale, offset, "; ".join(notes))


class _Limits(NamedTuple):
    """Limits of the J command joints of all arms; ``closed`` and ``opened`` (J,) are NaN except for
    gripper joints.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    is_gripper: np.ndarray
    closed: np.ndarray
    opened: np.ndarray

    @classmethod
    def of(cls, contract: Contract) -> _Limits:
        limits, closed_and_open = JointLimits.of(contract), []
        for arm in contract.arms.values():
            closed_and_open += [(np.nan, np.nan)] * len(arm.joints)
            fingers = arm.gripper.every_finger if arm.gripper else []
            closed_and_open += [(each.closed, each.open) for each in fingers]
        closed, opened = np.array(closed_and_open).T
        units = contract.columns.commands.units
        bounds = (limits.lower, limits.upper, limits.is_gripper)
        return cls(limits.names, units, *bounds, closed, opened)


def _scale_and_offset(
    contract: Contract, units: str, gripper: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset (J,) from units of the dataset to those of the contract."""
    limits = _Limits.of(contract)
    scale, offset = np.ones(len(limits.names)), np.zeros(len(limits.names))
    arm = ~limits.is_gripper
    if units == "degrees":
        scale[arm & np.array([unit == "rad" for unit in limits.units])] = np.pi / 180
    elif units == "normalised":
        scale[arm] = (limits.upper - limits.lower)[arm] / 200
        offset[arm] = (limits.upper + limits.lower)[arm] / 2
    gripper = gripper or (GRIPPER_PERCENT if units == "normalised" else None)
    if gripper:
        closed, opened = gripper
        fingers = limits.is_gripper
        scale[fingers] = (limits.opened - limits.closed)[fingers] / (opened - closed)
        offset[fingers] = limits.closed[fingers] - closed * scale[fingers]
    return scale, offset


def _outside(
    limits: _Limits,
    scale: np.ndarray,
    offset: np.ndarray,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> int | None:
    """Return the arm joint that exceeds its limits most, if by more than a tenth of its range."""
    low, high = lowest * scale + offset, highest * scale + offset
    beyond = np.maximum(limits.lower - low, high - limits.upper) / (limits.upper - limits.lower)
    beyond[limits.is_gripper] = 0.0
    worst = int(np.argmax(beyond))
    return worst if beyond[worst] > _BEYOND else None


def _refusal(
    contract: Contract,
    limits: _Limits,
    joint: int,
    names: Sequence[str],
    lowest: np.ndarray,
    highest: np.ndarray,
) -> str:
    arm = np.flatnonzero(~limits.is_gripper)
    turning = any(limits.units[row] == "rad" for row in arm)
    scale, offset = _scale_and_offset(contract, "degrees", None)
    as_degrees = turning and _outside(limits, scale, offset, lowest, highest) is None
    as_percent = max(np.abs(lowest[arm]).max(), np.abs(highest[arm]).max()) <= _FULL_SCALE
    looks = {
        (True, True): (
            "degrees, or values from -100 to 100; choose with --units degrees or --units normalised"
        ),
        (True, False): "degrees; if so, give --units degrees",
        (False, True): "values from -100 to 100; if so, give --units normalised",
        (
            False,
            False,
        ): "neither degrees nor values from -100 to 100; check --joints and the contract's limits",
    }[as_degrees, as_percent]
    return (
        f"{_range(limits, joint, names, lowest, highest)}, so the values are probably not radians;"
        f" they look like {looks} (--units radians uses them as they are)"
    )


def _range(
    limits: _Limits, row: int, names: Sequence[str], lowest: np.ndarray, highest: np.ndarray
) -> str:
    allowed = f"{limits.lower[row]:g} to {limits.upper[row]:g} {limits.units[row]}"
    return (
        f"{limits.names[row]} (column {names[row]}) goes from {lowest[row]:.4g} to"
        f" {highest[row]:.4g}, the contract allows {allowed}"
    )


def _check_gripper(
    limits: _Limits,
    row: int,
    scale: float,
    offset: float,
    name: str,
    lowest: float,
    highest: float,
) -> None:
    closed, opened = limits.closed[row], limits.opened[row]
    lower, upper = min(closed, opened), max(closed, opened)
    low, high = sorted((lowest * scale + offset, highest * scale + offset))
    if max(lower - low, high - upper) > _BEYOND * (upper - lower):
        likely = "0 100" if highest > 1.5 else "0 1"
        ours = f"{closed:g} (closed) and {opened:g} {limits.units[row]} (open)"
        raise LeRobotError(
            f"the gripper (column {name}) goes from {lowest:.4g} to {highest:.4g}, the contract has"
            f" {ours}; give the dataset's values for closed and open, for example --gripper"
            f" {likely}, or --gripper {closed:g} {opened:g} if they have the contract's unit"
        )
