"""Translation between a server and the contract: names, order, units, gripper."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from typing import Any

import numpy as np

from sf_policy_node.contract import GRIPPER_COLUMN, ActionSpace, ColumnKind, Contract
from sf_policy_node.contract.columns import column_name
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.vla.preprocessing import prepare
from sf_policy_node.vla.remote.mapping import IGNORED, JOINT, ZERO, Column, Mapping, MappingError

_TOOL = ("tool_x", "tool_y", "tool_z", "tool_rx", "tool_ry", "tool_rz")
_OPENING = "1"  # unit of the opening of a gripper
_UNITS = {"rad": ("rad", "deg"), "m": ("m", "mm")}
_GRIPPER_BEYOND = 0.25  # of its stroke: more than a network's overshoot, less than a wrong unit
_JOINT_BEYOND = 0.5  # of its range


class Translation:
    """Translates between one server and the contract of a robot.

    Raises:
        MappingError: the mapping names something that the contract does not have, leaves an action
            out, or differs in action space or time step.
    """

    def __init__(self, contract: Contract, mapping: Mapping, source: str = "mapping") -> None:
        self._contract, self._mapping, self._source = contract, mapping, source
        self._kinematics = kinematics_of(contract)
        commands, arms = contract.columns.commands, contract.arms
        units = dict(zip(commands.names, commands.units, strict=True))
        # Units of what a server's state may hold; 1 for the opening of a gripper.
        self._state_units = units | {JOINT + name: unit for name, unit in units.items()}
        self._state_units[ZERO] = "m"
        for name, arm in arms.items():
            for index, axis in enumerate(_TOOL):
                self._state_units[column_name(name, axis, arms)] = "m" if index < 3 else "rad"
            if arm.gripper:
                self._state_units[column_name(name, GRIPPER_COLUMN, arms)] = _OPENING
        self._check()
        names = contract.action.names
        self._picked = [[column.name for column in mapping.columns].index(name) for name in names]
        self._columns = [mapping.columns[index] for index in self._picked]

    def observation(
        self, images: MappingType[str, np.ndarray], joints: np.ndarray, instruction: str
    ) -> dict[str, Any]:
        """Build the observation that the server is sent.

        Args:
            images: camera name to (H, W, 3) uint8 RGB.
            joints: measured (J,), in the order of ``contract.command_joints`` [rad, m].

        Raises:
            ValueError: a camera is missing, or a joint position is wrong.
        """
        mapping = self._mapping
        found: dict[str, Any] = {}
        for camera, key in mapping.images.items():
            image = images.get(camera)
            if image is None:
                raise ValueError(f"camera {camera}: no image")
            if mapping.image_size:
                image = prepare({camera: image}, [camera], mapping.image_size, mapping.image_fit)[
                    0
                ].transpose(1, 2, 0)
            image = image.transpose(2, 0, 1) if mapping.image_layout == "chw" else image
            _put(found, key, np.ascontiguousarray(image))
        if mapping.state:
            values = self._state(np.asarray(joints, dtype=float))
            for key, columns in mapping.state.items():
                _put(
                    found,
                    key,
                    np.array([_theirs(column, values[column.name]) for column in columns]),
                )
        _put(found, mapping.prompt, instruction)
        return found

    def chunk(self, reply: Any) -> np.ndarray:
        """Return the chunk (horizon, columns) of a reply in the contract's units.

        Steps beyond the contract's horizon are dropped.

        Raises:
            ValueError: the reply holds no such chunk, or values far outside the range of their
                column.
        """
        values = self._rows(reply)
        action, width = self._contract.action, len(self._mapping.columns)
        if values.ndim != 2 or values.shape[1] != width or len(values) < action.horizon:
            raise ValueError(
                f"the server's chunk has the shape {values.shape}; {self._source} needs {width}"
                f" columns (key columns) and at least {action.horizon} rows (the contract's"
                " horizon)"
            )
        rows = values[: action.horizon, self._picked]
        if not np.isfinite(rows).all():
            raise ValueError(f"the server's chunk holds {rows[~np.isfinite(rows)][0]}")
        ours = np.stack(
            [_ours(column, rows[:, index]) for index, column in enumerate(self._columns)], axis=1
        )
        self._check_values(ours)
        return ours

    def _rows(self, reply: Any) -> np.ndarray:
        for part in self._mapping.actions.split(".") if self._mapping.actions else ():
            if not isinstance(reply, dict) or part not in reply:
                there = (
                    ", ".join(map(str, reply)) if isinstance(reply, dict) else type(reply).__name__
                )
                raise ValueError(
                    f"the reply has no {self._mapping.actions!r} (key actions of {self._source});"
                    f" it has {there[:200]}"
                )
            reply = reply[part]
        try:
            return np.asarray(reply, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"the reply's {self._mapping.actions or 'body'} is not a table of numbers"
            ) from None

    def _check_values(self, rows: np.ndarray) -> None:
        """Refuse values so far out of range that a unit, order or gripper sense is wrong.

        The executor enforces the limits themselves.
        """
        limits = {}
        if self._contract.action.space is ActionSpace.JOINT_POSITION:
            limits = {
                joint.name: (joint.lower, joint.upper)
                for arm in self._contract.arms.values()
                for joint in arm.joints
            }
        for action in self._contract.columns.action:
            name, column = action.name, rows[:, action.index]
            if action.kind is ColumnKind.GRIPPER:
                low, high, beyond, why = (
                    0.0,
                    1.0,
                    _GRIPPER_BEYOND,
                    f"open and closed of {name} in {self._source}",
                )
            elif name in limits:
                (low, high), beyond = limits[name], _JOINT_BEYOND
                why = f"unit, sign and order of columns in {self._source}"
            else:
                continue
            slack = beyond * (high - low)
            wrong = column[(column < low - slack) | (column > high + slack)]
            if len(wrong):
                raise ValueError(
                    f"the server's chunk moves {name} to {wrong[0]:.4g}, its range is {low:g} to"
                    f" {high:g}: check {why}"
                )
            if action.kind is ColumnKind.GRIPPER:
                column.clip(0.0, 1.0, out=column)

    def _state(self, joints: np.ndarray) -> dict[str, float]:
        contract, names = self._contract, self._contract.command_joints
        if joints.shape != (len(names),) or not np.isfinite(joints).all():
            raise ValueError(
                f"joint positions: needs {len(names)} finite values ({', '.join(names)})"
            )
        values = dict(zip(names, joints, strict=True)) | {ZERO: 0.0}
        values |= {JOINT + name: value for name, value in zip(names, joints, strict=True)}
        commands, arms = contract.columns.commands, contract.arms
        for name, arm in arms.items():
            pose = self._kinematics[name].forward(
                joints[commands.indices(ColumnKind.JOINT, arm=name)]
            )
            numbers = (*pose.position, *_rotation_vector(pose.rotation))
            for axis, number in zip(_TOOL, numbers, strict=True):
                values[column_name(name, axis, arms)] = number
            if arm.gripper:
                fingers = joints[commands.indices(ColumnKind.GRIPPER, arm=name)]
                opening = arm.gripper.mean_opening(fingers.tolist())
                values[column_name(name, GRIPPER_COLUMN, arms)] = opening
        return values

    def _check(self) -> None:
        mapping, contract, action = self._mapping, self._contract, self._contract.action
        if mapping.space is not action.space:
            self._refuse("space", f"{mapping.space}, the contract's is {action.space}")
        if abs(mapping.step_s - action.step_s) > 1e-6:
            self._refuse("step_s", f"{mapping.step_s:g} s, the contract's is {action.step_s:g} s")
        for camera in mapping.images:
            if camera not in contract.camera_names:
                self._refuse(
                    f"images.{camera}",
                    f"the contract has no such camera; it has {', '.join(contract.camera_names)}",
                )
        known = [name for name in self._state_units if not name.startswith(JOINT)]
        for key, columns in mapping.state.items():
            for column in columns:
                if column.name not in self._state_units:
                    self._refuse(
                        f"state.{key}",
                        f"{column.name} is unknown; known are {', '.join(sorted(known))}",
                    )
                self._check_column(f"state.{key}", column, self._state_units[column.name])
        names = [column.name for column in mapping.columns if column.name != IGNORED]
        for name in action.names:
            if names.count(name) != 1:
                self._refuse(
                    "columns", f"{name} must be there once, it is {names.count(name)} times"
                )
        if left := [name for name in names if name not in action.names]:
            self._refuse(
                "columns",
                f"{left[0]} is not an action of the contract ({', '.join(action.names)}); write"
                f" {IGNORED} to leave it out",
            )
        layout = contract.columns.action
        units = dict(zip(layout.names, layout.units, strict=True))
        for column in mapping.columns:
            self._check_column("columns", column, units.get(column.name, "m"))

    def _check_column(self, key: str, column: Column, unit: str) -> None:
        gripper = unit == _OPENING
        if gripper and column.open is None:
            self._refuse(
                key,
                f"{column.name}: give the server's values of open and closed; there is no default",
            )
        if not gripper and column.open is not None:
            self._refuse(key, f"{column.name}: open and closed are for the gripper")
        if column.unit and not gripper and column.unit not in _UNITS[unit]:
            self._refuse(
                key, f"{column.name}: unit {column.unit} does not fit, the contract's is {unit}"
            )

    def _refuse(self, key: str, reason: str) -> None:
        raise MappingError(f"{self._source}: {key}: {reason}")


def _theirs(column: Column, value: float) -> float:
    if column.open is not None and column.closed is not None:  # both or none
        return column.closed + (column.open - column.closed) * value
    return value / column.factor


def _ours(column: Column, values: np.ndarray) -> np.ndarray:
    if column.open is not None and column.closed is not None:  # both or none
        return (values - column.closed) / (column.open - column.closed)
    return values * column.factor


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        target = target.setdefault(part, {})
    target[last] = value


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return the rotation vector (axis times angle) (3,) [rad] of a rotation matrix (3, 3)."""
    import pinocchio

    return pinocchio.log3(rotation)
