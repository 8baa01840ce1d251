"""What flows through ``motion``: a chunk in, a joint trajectory out. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

import numpy as np

from sf_policy_node.contract import ActionSpace, Contract


class Join(IntEnum):
    """How a chunk becomes one with the motion under way; same numbers as the constants of
    ``sf_msgs/ActionChunk``.
    """

    BLEND = 0
    ENSEMBLE = 1
    RTC = 2


class ControlSource(IntEnum):
    """Who moves the arm; same numbers as the constants of ``sf_msgs/ControlSource``."""

    NOBODY = 0
    POLICY = 1
    TELEOPERATION = 2
    REPLAY = 3
    HOME = 4


@dataclass(frozen=True)
class Chunk:
    """A policy's prediction; the plain-Python form of ``sf_msgs/ActionChunk``.

    ``data`` is (rows, columns); row k is the target for ``stamp + (k + 1) * step_s``.
    ``reference`` (J,) holds the joint positions measured at ``stamp``, named by
    ``reference_names``. Times are seconds on the clock of the node (ROS time, so simulated time
    where that is used).
    """

    stamp: float
    frame: str
    policy_id: str
    contract_hash: str
    instruction: str
    epoch: int
    sequence: int
    space: ActionSpace
    names: tuple[str, ...]
    step_s: float
    data: np.ndarray
    reference_names: tuple[str, ...]
    reference: np.ndarray
    inference_latency_s: float = 0.0
    join: Join = Join.BLEND

    @classmethod
    def of(
        cls,
        contract: Contract,
        data: np.ndarray,
        *,
        stamp: float,
        reference: np.ndarray,
        policy_id: str,
        instruction: str,
        epoch: int,
        sequence: int,
        inference_latency_s: float = 0.0,
        join: Join = Join.BLEND,
    ) -> Chunk:
        """A chunk for the robot of ``contract``: names, space, step and frame come from there."""
        return cls(
            stamp=stamp,
            frame=contract.base_frame,
            policy_id=policy_id,
            contract_hash=contract.hash,
            instruction=instruction,
            epoch=epoch,
            sequence=sequence,
            space=contract.action.space,
            names=tuple(contract.action.names),
            step_s=contract.action.step_s,
            data=data,
            reference_names=tuple(contract.command_joints),
            reference=reference,
            inference_latency_s=inference_latency_s,
            join=join,
        )


@dataclass(frozen=True)
class Trajectory:
    """Joint motion: ``positions`` and ``velocities`` (N, J) at ``stamp + times`` (N,), times
    strictly rising and > 0.

    Always ends at rest, so that a receiver that gets nothing more holds position inside the limits.
    The first points may lie before the moment of sending: a controller that interpolates between
    the points of its newest message then continues where it was commanded to be, instead of
    bridging from a state of its own. ``hold_s``: the end is repeated that long after the motion, so
    that a controller accepts the message however late it arrives. ``left_out``: indices of joints
    whose controller must not get it, because it holds position elsewhere.
    """

    stamp: float
    joint_names: tuple[str, ...]
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    hold_s: float = 0.0
    left_out: tuple[int, ...] = ()

    def held(self) -> Trajectory:
        """Return the same motion as a controller gets it: with the end repeated after
        ``hold_s``.
        """
        if self.hold_s <= 0.0:
            return self
        return replace(
            self,
            times=np.append(self.times, self.times[-1] + self.hold_s),
            positions=np.vstack([self.positions, self.positions[-1:]]),
            velocities=np.vstack([self.velocities, 0.0 * self.velocities[-1:]]),
            hold_s=0.0,
        )


@dataclass(frozen=True)
class Setpoint:
    """Where the joints (J,) are to be at one moment, and how fast they move then; for outputs that
    send one command after another.
    """

    stamp: float
    joint_names: tuple[str, ...]
    positions: np.ndarray
    velocities: np.ndarray


Motion = TypeVar("Motion", Trajectory, Setpoint)


def of_joints(motion: Motion, joints: Sequence[int]) -> Motion:
    """Return the motion of some of the joints (N,), as one of several controllers gets it."""
    rows = np.asarray(joints)
    return replace(
        motion,
        joint_names=tuple(motion.joint_names[index] for index in rows),
        positions=np.asarray(motion.positions)[..., rows],
        velocities=np.asarray(motion.velocities)[..., rows],
    )
