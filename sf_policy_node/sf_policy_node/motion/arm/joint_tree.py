"""Describes all joints of a URDF as arrays, and how commanded joints move them (mimic included)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pinocchio

from sf_policy_node.contract import ContractError


class JointTree:
    """The joints of a pinocchio model, driven by J commanded joints.

    A joint that is neither commanded nor mimics a commanded one is at 0, or at its limit nearest to
    0, until :meth:`set_others` gives its position.

    Args:
        names: the J commanded joints, in the order of the positions.
        optional: those of ``names`` that may be missing in the URDF; they then move nothing.

    Raises:
        ContractError: the URDF lacks a joint, or a commanded joint has not exactly one axis.
    """

    def __init__(
        self,
        model: pinocchio.Model,
        urdf_xml: str,
        names: Sequence[str],
        optional: Collection[str] = (),
    ) -> None:
        count = model.njoints - 1
        self.names = list(model.names)[1:]
        self.parents = np.array([model.parents[j + 1] - 1 for j in range(count)], dtype=np.int64)
        placements = [model.jointPlacements[j + 1] for j in range(count)]
        self.rotations = np.array([each.rotation for each in placements]).reshape(-1, 3, 3)
        self.offsets = np.array([each.translation for each in placements]).reshape(-1, 3)
        motions = np.array([_axis(model, j + 1) for j in range(count)]).reshape(-1, 6)
        self.slides = np.abs(motions[:, :3]).sum(axis=1) > 0.0
        self.axes = np.ascontiguousarray(
            np.where(self.slides[:, None], motions[:, :3], motions[:, 3:])
        )
        self._from_commands = np.zeros((len(names), count))  # angles = commands @ this + others
        self._others = np.zeros(count)
        index = {name: n for n, name in enumerate(self.names)}
        for column, name in enumerate(names):
            if name not in index and name in optional:
                continue
            if name not in index:
                raise ContractError(f"joints.{name}: the URDF has no such joint; correct the name")
            if not np.any(self.axes[index[name]]):
                raise ContractError(
                    f"joints.{name}: a joint must be revolute, continuous or prismatic"
                )
            self._from_commands[column, index[name]] = 1.0
        mimics = _mimics(urdf_xml)
        for _ in mimics:  # a mimic joint may mimic another one
            for name, (leader, multiplier, offset) in mimics.items():
                if name in index and leader in index and name not in names:
                    follower = index[name]
                    self._from_commands[:, follower] = (
                        multiplier * self._from_commands[:, index[leader]]
                    )
                    self._others[follower] = multiplier * self._others[index[leader]] + offset
        self._still = ~np.any(self._from_commands, axis=0)
        self._others[self._still] = _default_positions(model)[self._still]
        # Mimic joints of joints that are not commanded: (follower, leader, multiplier, offset).
        self._followers = [
            (index[name], index[leader], multiplier, offset)
            for name, (leader, multiplier, offset) in mimics.items()
            if name in index and leader in index and self._still[[index[name], index[leader]]].all()
        ]
        led = {follower for follower, *_ in self._followers}
        self.others = {
            name: n
            for name, n in index.items()
            if self._still[n] and n not in led and np.any(self.axes[n])
        }
        """Index of each joint with one axis that is neither commanded nor a mimic joint."""
        self._ranges = {name: _range(model, n + 1) for name, n in self.others.items()}

    def set_others(self, positions: Mapping[str, float]) -> None:
        """Take the positions [rad or m] of joints that are not commanded, by name."""
        for name, position in positions.items():
            if name in self.others:
                self._others[self.others[name]] = position
        self._follow(self._others)

    def sample_others(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Return random positions (count, joints) [rad or m] of joints that are not commanded, for
        :meth:`angles`.
        """
        sampled = np.tile(self._others, (count, 1))
        for name, joint in self.others.items():
            sampled[:, joint] = random.uniform(*self._ranges[name], count)
        self._follow(sampled)
        return sampled

    def _follow(self, others: np.ndarray) -> None:
        """Set the mimic joints of joints that are not commanded in ``others`` (..., joints)."""
        for _ in self._followers:  # a mimic joint may mimic another one
            for follower, leader, multiplier, offset in self._followers:
                others[..., follower] = multiplier * others[..., leader] + offset

    def drivers(self, joints: Collection[int]) -> list[str]:
        """Return the names of :attr:`others` that are among ``joints``, or that these mimic."""
        moving = set(joints)
        for _ in self._followers:
            moving |= {leader for follower, leader, *_ in self._followers if follower in moving}
        return [name for name, joint in self.others.items() if joint in moving]

    def angles(self, positions: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
        """Return the positions (N, joints) [rad or m] of all joints for commanded ones (N, J).

        Args:
            others: (N, joints) of the other joints; None: the measured or assumed ones.
        """
        return np.ascontiguousarray(
            positions @ self._from_commands + (self._others if others is None else others)
        )

    def movers(self) -> np.ndarray:
        """Return (joints, J): True where a commanded joint drives a joint, directly or by mimic."""
        return np.ascontiguousarray(self._from_commands.T != 0.0)

    def slope(self, command: int, joint: int) -> float:
        """Return how far a joint moves per unit of a commanded one: 1 for itself, the multiplier
        for its mimic joints.
        """
        return float(self._from_commands[command, joint])

    def path(self, first: int, second: int) -> list[int]:
        """Return the joints between two bodies; a body is the index of its joint, -1 the base."""
        up = [self._ancestors(first), self._ancestors(second)]
        return sorted(set(up[0]) ^ set(up[1]))

    def _ancestors(self, joint: int) -> list[int]:
        chain = []
        while joint >= 0:
            chain.append(joint)
            joint = int(self.parents[joint])
        return chain


def _axis(model: pinocchio.Model, joint: int) -> np.ndarray:
    """Return linear, then angular motion (6,) per unit of a joint; zeros if it has several axes."""
    kind = model.joints[joint]
    if kind.nv != 1:
        return np.zeros(6)
    data = kind.createData()
    kind.calc(data, pinocchio.neutral(model), np.zeros(model.nv))
    return np.asarray(data.S, dtype=float).reshape(6)


def _default_positions(model: pinocchio.Model) -> np.ndarray:
    """Return for every joint 0, or its limit nearest to 0 where 0 is outside its limits."""
    angles = np.zeros(model.njoints - 1)
    for n in range(len(angles)):
        joint = model.joints[n + 1]
        if joint.nq == 1:
            low, high = model.lowerPositionLimit[joint.idx_q], model.upperPositionLimit[joint.idx_q]
            angles[n] = min(max(0.0, low), high)
    return angles


def _range(model: pinocchio.Model, joint: int) -> tuple[float, float]:
    """Return lower and upper position [rad or m] of a joint; half a turn or 1 m where it has no
    limits.
    """
    kind = model.joints[joint]
    reach = 1.0 if np.any(_axis(model, joint)[:3]) else np.pi
    if kind.nq != 1:
        return -reach, reach
    low, high = model.lowerPositionLimit[kind.idx_q], model.upperPositionLimit[kind.idx_q]
    low, high = (float(np.clip(each, -1e3, 1e3)) for each in (low, high))
    return (low, high) if -1e3 < low < high < 1e3 else (-reach, reach)


def _mimics(urdf_xml: str) -> dict[str, tuple[str, float, float]]:
    """Return for each mimic joint the joint that it follows, multiplier and offset."""
    found = {}
    for joint in ElementTree.fromstring(urdf_xml.lstrip("\ufeff").encode()).iter("joint"):
        mimic = joint.find("mimic")
        if mimic is not None and "name" in joint.attrib:
            multiplier, offset = mimic.get("multiplier", "1"), mimic.get("offset", "0")
            found[joint.get("name", "")] = (
                mimic.get("joint", ""),
                float(multiplier),
                float(offset),
            )
    return found
