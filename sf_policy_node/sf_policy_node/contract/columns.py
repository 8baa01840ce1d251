"""Define the columns of a chunk, of a policy's state and of a joint command.

:attr:`Contract.columns <sf_policy_node.contract.Contract.columns>` says which column is a gripper
and which columns belong to one arm. Use it for every robot; only code for ``sim_arm`` and for the
contract of one arm relies on the order of its columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from sf_policy_node.contract.sections import Arm

GRIPPER_COLUMN = "gripper"
OPENING_COLUMN = "opening"
TOOL_POSITION = ("x", "y", "z")
TOOL_ROTATION = ("rx", "ry", "rz")


class ColumnKind(StrEnum):
    """What a column measures."""

    JOINT = "joint"
    GRIPPER = "gripper"  # opening from 0 (closed) to 1 (open); in commands: its joint
    TOOL_POSITION = "tool_position"
    TOOL_ROTATION = "tool_rotation"  # of a rotation vector


@dataclass(frozen=True)
class Column:
    """One column: ``unit`` is rad or m, and 1 for the opening of a gripper."""

    name: str
    arm: str
    kind: ColumnKind
    unit: str
    index: int


class Layout:
    """Columns in order; iterate over it, or select columns by arm and kind."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self.names = tuple(column.name for column in columns)
        self.units = tuple(column.unit for column in columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __getitem__(self, index: int) -> Column:
        return self._columns[index]

    def indices(
        self, *kinds: ColumnKind, arm: str | None = None, without: Collection[ColumnKind] = ()
    ) -> np.ndarray:
        """Return the indices (N,) of the columns of these kinds and this arm.

        Args:
            kinds: none given: all.
            arm: None: all.
            without: excluded kinds.
        """
        return np.array(
            [
                column.index
                for column in self._columns
                if (not kinds or column.kind in kinds)
                and column.kind not in without
                and arm in (None, column.arm)
            ],
            dtype=np.intp,
        )

    @property
    def grippers(self) -> np.ndarray:
        """Indices (N,) of the grippers' columns."""
        return self.indices(ColumnKind.GRIPPER)

    def mask(self, *kinds: ColumnKind, arm: str | None = None) -> np.ndarray:
        """Return (N,), true for the columns of these kinds and arm."""
        result = np.zeros(len(self), dtype=bool)
        result[self.indices(*kinds, arm=arm)] = True
        return result


@dataclass(frozen=True)
class Columns:
    """All layouts of a robot.

    ``action``: a chunk's columns, named by ``contract.action.names``. ``state``: input of a
    policy, see :func:`sf_policy_node.perception.robot_state.robot_state`. ``commands``: joints in
    the order of ``contract.command_joints``: of each arm its joints, then those of its gripper.
    """

    action: Layout
    state: Layout
    commands: Layout


def column_name(arm: str, name: str, arms: Collection[str]) -> str:
    """Return the name of an arm's own column: ``left/x``; of a robot with one arm just ``x``."""
    return name if len(arms) == 1 else f"{arm}/{name}"


def columns_of(arms: Mapping[str, Arm], action_names: Sequence[str]) -> Columns:
    """Return the columns of a robot whose chunks have the columns ``action_names``.

    Raises:
        ValueError: a name is no column of any arm.
    """
    known = _action_columns(arms)
    unknown = [name for name in action_names if name not in known]
    if unknown:
        raise ValueError(
            f"action.names: {unknown[0]} is no column of this robot; name some of"
            f" {', '.join(known)}"
        )
    action = [Column(name, *known[name], index) for index, name in enumerate(action_names)]
    return Columns(Layout(action), Layout(_state_columns(arms)), Layout(_command_columns(arms)))


def _action_columns(arms: Mapping[str, Arm]) -> dict[str, tuple[str, ColumnKind, str]]:
    """Return arm, kind and unit of every column that a chunk may have, by its name."""
    known = {}
    for name, arm in arms.items():
        for joint in arm.joints:
            known[joint.name] = (name, ColumnKind.JOINT, joint.unit)
        own = [(axis, ColumnKind.TOOL_POSITION, "m") for axis in TOOL_POSITION]
        own += [(axis, ColumnKind.TOOL_ROTATION, "rad") for axis in TOOL_ROTATION]
        own += [(GRIPPER_COLUMN, ColumnKind.GRIPPER, "1")] if arm.gripper else []
        for column, kind, unit in own:
            known.setdefault(column_name(name, column, arms), (name, kind, unit))
    return known


def _state_columns(arms: Mapping[str, Arm]) -> list[Column]:
    rows = []
    for name, arm in arms.items():
        rows += [(joint.name, name, ColumnKind.JOINT, joint.unit) for joint in arm.joints]
        own = [(OPENING_COLUMN, ColumnKind.GRIPPER, "1")] if arm.gripper else []
        own += [(f"tool_{axis}", ColumnKind.TOOL_POSITION, "m") for axis in TOOL_POSITION]
        rows += [(column_name(name, column, arms), name, kind, unit) for column, kind, unit in own]
    return [Column(*row, index) for index, row in enumerate(rows)]


def _command_columns(arms: Mapping[str, Arm]) -> list[Column]:
    rows = []
    for name, arm in arms.items():
        rows += [(joint.name, name, ColumnKind.JOINT, joint.unit) for joint in arm.joints]
        if arm.gripper:
            rows += [
                (joint, name, ColumnKind.GRIPPER, arm.gripper.unit) for joint in arm.gripper.joints
            ]
    return [Column(*row, index) for index, row in enumerate(rows)]
