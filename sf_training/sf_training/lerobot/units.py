"""Converts a LeRobot dataset's columns to the contract's units, and refuses what cannot be in the
units that are assumed.

Datasets do not say their units. LeRobot's own arms record joints from -100 to 100 (each motor's
calibrated range) and the gripper from 0 to 100, or joints in degrees; others record radians.
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
_BEYOND = (
    0.1  # of a joint's range: calibration differs, and limits are set inside the mechanical ones
)
_FULL_SCALE = 101.0  # rounding and a motor just outside its calibrated range


@dataclass(frozen=True)
class Conversion:
    """``ours = theirs * scale + offset`` for each of the contract's command joints, (J,) each.

    ``note`` is a sentence for the user when something was assumed, else empty.
    """

    scale: np.ndarray
    offset: np.ndarray
    note: str = ""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Converts (N, J) values."""
        return values * self.scale + self.offset


def conversion(
    contract: Contract,
    units: Units,
    gripper: tuple[float, float] | None,
    names: Sequence[str],
    lowest: np.ndarray,
    highest: np.ndarray,
) -> Conversion:
    """Chooses the conversion, and checks it against the values.

    Args:
        units: of the arm's joints; "auto" accepts radians only, and names what else the values look
            like.
        gripper: the dataset's values for closed and open; None: as the units imply.
        names: the dataset's column of each command joint.
        lowest, highest: (J,) extremes of the dataset's values.

    Raises:
        LeRobotError: the values do not fit the units; the sentence says what they look like and the
            option that helps.
    """
    if gripper and gripper[0] == gripper[1]:
        raise LeRobotError("--gripper: closed and open must differ")
    chosen = "radians" if units == "auto" else units
    scale, offset = _lines(contract, chosen, gripper)
    limits = _Limits.of(contract)
    outside = _outside(limits, scale, offset, lowest, highest)
    note = ""
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
        note = (
            f"{_range(limits, outside, names, lowest, highest)}, in {chosen} beyond the limits of"
            " the contract: check --units"
        )
    for row in np.flatnonzero(limits.is_gripper).tolist():
        _check_gripper(limits, row, scale[row], offset[row], names[row], lowest[row], highest[row])
    return Conversion(scale, offset, note)


class _Limits(NamedTuple):
    """Limits of the J command joints of all arms; ``closed`` and ``opened`` (J,) are NaN for joints
    that are no gripper's.
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
        limits, ends = JointLimits.of(contract), []
        for arm in contract.arms.values():
            ends += [(np.nan, np.nan)] * len(arm.joints)
            fingers = arm.gripper.every_finger if arm.gripper else []
            ends += [(each.closed, each.open) for each in fingers]
        closed, opened = np.array(ends).T
        units = contract.columns.commands.units
        bounds = (limits.lower, limits.upper, limits.is_gripper)
        return cls(limits.names, units, *bounds, closed, opened)


def _lines(
    contract: Contract, units: str, gripper: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    limits = _Limits.of(contract)
    scale, offset = np.ones(len(limits.names)), np.zeros(len(limits.names))
    arm = ~limits.is_gripper
    if units == "degrees":
        scale[arm & np.array([unit == "rad" for unit in limits.units])] = np.pi / 180
    elif units == "normalised":
        scale[arm] = (limits.upper - limits.lower)[arm] / 200
        offset[arm] = (limits.upper + limits.lower)[arm] / 2
    ends = gripper or (GRIPPER_PERCENT if units == "normalised" else None)
    if ends:
        closed, opened = ends
        jaws = limits.is_gripper
        scale[jaws] = (limits.opened - limits.closed)[jaws] / (opened - closed)
        offset[jaws] = limits.closed[jaws] - closed * scale[jaws]
    return scale, offset


def _outside(
    limits: _Limits,
    scale: np.ndarray,
    offset: np.ndarray,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> int | None:
    """The arm joint that leaves its limits farthest, if one does by more than a tenth of its
    range.
    """
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
    scale, offset = _lines(contract, "degrees", None)
    as_degrees = turning and _outside(limits, scale, offset, lowest, highest) is None
    as_percent = max(np.abs(lowest[arm]).max(), np.abs(highest[arm]).max()) <= _FULL_SCALE
    looks = {
        (True, True): (
            "degrees, or values from -100 to 100: say which with --units degrees or --units"
            " normalised"
        ),
        (True, False): "degrees: if so, say --units degrees",
        (False, True): "values from -100 to 100: if so, say --units normalised",
        (
            False,
            False,
        ): "neither degrees nor values from -100 to 100: check --joints, and the contract's limits",
    }[as_degrees, as_percent]
    return (
        f"{_range(limits, joint, names, lowest, highest)}, far beyond the limits of the contract,"
        f" so these are hardly radians; they look like {looks} (--units radians takes them as they"
        " are)"
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
    ends = sorted((lowest * scale + offset, highest * scale + offset))
    if max(lower - ends[0], ends[1] - upper) > _BEYOND * (upper - lower):
        likely = "0 100" if highest > 1.5 else "0 1"
        ours = f"{closed:g} (closed) and {opened:g} {limits.units[row]} (open)"
        raise LeRobotError(
            f"the gripper (column {name}) goes from {lowest:.4g} to {highest:.4g}, the contract has"
            f" {ours}; give the dataset's values for closed and open, for example --gripper"
            f" {likely}"
        )
