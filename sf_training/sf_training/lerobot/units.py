"""Converts a LeRobot dataset's columns to the contract's units, and refuses what cannot be in the
units that are assumed.

Datasets do not say their units. LeRobot's own arms record joints from -100 to 100 (each motor's
calibrated range) and the gripper from 0 to 100, or joints in degrees; others record radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sf_policy_node.contract import Contract
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
    arm = len(contract.joints)
    outside = _outside(contract, scale[:arm], offset[:arm], lowest[:arm], highest[:arm])
    note = ""
    if (
        chosen == "normalised"
        and max(np.abs(lowest[:arm]).max(), np.abs(highest[:arm]).max()) > _FULL_SCALE
    ):
        worst = int(np.argmax(np.maximum(np.abs(lowest[:arm]), np.abs(highest[:arm]))))
        raise LeRobotError(
            f"{_range(contract, worst, names, lowest, highest)}; normalised values lie between -100"
            " and 100: try --units degrees"
        )
    if outside is not None and units == "auto":
        raise LeRobotError(_refusal(contract, outside, names, lowest, highest))
    if outside is not None:
        note = (
            f"{_range(contract, outside, names, lowest, highest)}, in {chosen} beyond the limits of"
            " the contract: check --units"
        )
    if contract.gripper:
        _check_gripper(contract, scale[-1], offset[-1], names[-1], lowest[-1], highest[-1])
    return Conversion(scale, offset, note)


def _lines(
    contract: Contract, units: str, gripper: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    scale, offset = np.ones(len(contract.command_joints)), np.zeros(len(contract.command_joints))
    for row, joint in enumerate(contract.joints):
        if units == "degrees" and joint.unit == "rad":
            scale[row] = np.pi / 180
        elif units == "normalised":
            scale[row] = (joint.upper - joint.lower) / 200
            offset[row] = (joint.upper + joint.lower) / 2
    ends = gripper or (GRIPPER_PERCENT if units == "normalised" else None)
    if contract.gripper and ends:
        closed, opened = ends
        scale[-1] = (contract.gripper.open - contract.gripper.closed) / (opened - closed)
        offset[-1] = contract.gripper.closed - closed * scale[-1]
    return scale, offset


def _outside(
    contract: Contract,
    scale: np.ndarray,
    offset: np.ndarray,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> int | None:
    """The arm joint that leaves its limits farthest, if one does by more than a tenth of its
    range.
    """
    lower, upper = (
        np.array([getattr(joint, side) for joint in contract.joints]) for side in ("lower", "upper")
    )
    beyond = np.maximum(lower - (lowest * scale + offset), (highest * scale + offset) - upper) / (
        upper - lower
    )
    worst = int(np.argmax(beyond))
    return worst if beyond[worst] > _BEYOND else None


def _refusal(
    contract: Contract, joint: int, names: Sequence[str], lowest: np.ndarray, highest: np.ndarray
) -> str:
    arm = len(contract.joints)
    turning = [row for row, each in enumerate(contract.joints) if each.unit == "rad"]
    scale, offset = _lines(contract, "degrees", None)
    as_degrees = (
        bool(turning)
        and _outside(contract, scale[:arm], offset[:arm], lowest[:arm], highest[:arm]) is None
    )
    as_percent = max(np.abs(lowest[:arm]).max(), np.abs(highest[:arm]).max()) <= _FULL_SCALE
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
        f"{_range(contract, joint, names, lowest, highest)}, far beyond the limits of the contract,"
        f" so these are hardly radians; they look like {looks} (--units radians takes them as they"
        " are)"
    )


def _range(
    contract: Contract, row: int, names: Sequence[str], lowest: np.ndarray, highest: np.ndarray
) -> str:
    joint = contract.joints[row]
    limits = f"{joint.lower:g} to {joint.upper:g} {joint.unit}"
    return (
        f"{joint.name} (column {names[row]}) goes from {lowest[row]:.4g} to {highest[row]:.4g}, the"
        f" contract allows {limits}"
    )


def _check_gripper(
    contract: Contract, scale: float, offset: float, name: str, lowest: float, highest: float
) -> None:
    closed, opened = contract.gripper.closed, contract.gripper.open
    lower, upper = min(closed, opened), max(closed, opened)
    ends = sorted((lowest * scale + offset, highest * scale + offset))
    if max(lower - ends[0], ends[1] - upper) > _BEYOND * (upper - lower):
        likely = "0 100" if highest > 1.5 else "0 1"
        ours = f"{closed:g} (closed) and {opened:g} {contract.gripper.unit} (open)"
        raise LeRobotError(
            f"the gripper (column {name}) goes from {lowest:.4g} to {highest:.4g}, the contract has"
            f" {ours}; give the dataset's values for closed and open, for example --gripper"
            f" {likely}"
        )
