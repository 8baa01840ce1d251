"""The data types of ``motion``: action chunks come in, joint trajectories go out. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

import numpy as np

from sf_policy_node.contract import ActionSpace, Contract


class Join(IntEnum):
    """The blending mode of a chunk; same numbers as the constants of ``sf_msgs/ActionChunk``."""

    BLEND = 0
    ENSEMBLE = 1
    RTC = 2


class ControlSource(IntEnum):
    """The source that controls the arm; same numbers as the constants of
    ``sf_msgs/ControlSource``.
    """

    NOBODY = 0
    POLICY = 1
    TELEOPERATION = 2
    REPLAY = 3
    HOME = 4


@dataclass(frozen=True)
class Chunk:
    """A policy's prediction; the plain-Python form of ``sf_msgs/ActionChunk``.

    Times are seconds on the clock of the node (ROS time; simulated time where that is used).

    Attributes:
        stamp: when the observation was made [s].
        epoch: number of the instruction; rises with each new one.
        sequence: number of the chunk; rises within an epoch.
        names: (C,) the columns of ``data``.
        data: (H, C); row k is the target for ``stamp + (k + 1) * step_s``.
        reference_names: (J,) the joints of ``reference``.
        reference: (J,) joint positions measured at ``stamp`` [rad or m].
        join: the blending mode.
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
        """Create a chunk with the names, action space, step and frame of ``contract``."""
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
    """A joint motion that ends stationary, so that a controller which receives nothing more holds
    position inside the limits.

    The first points may be earlier than the time of sending. A controller that interpolates
    between the points of its newest message then continues where it was commanded to be, instead
    of bridging from a state of its own.

    Attributes:
        stamp: the time to which ``times`` are relative [s].
        times: (N,) strictly rising and > 0 [s].
        positions: (N, J) [rad or m].
        velocities: (N, J) [rad/s or m/s].
        hold_s: :meth:`held` repeats the last point this long after the motion [s], so that a
            controller accepts the message although it arrives late.
        left_out: indices of joints whose controller must not receive the motion, because it holds
            position somewhere else.
    """

    stamp: float
    joint_names: tuple[str, ...]
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    hold_s: float = 0.0
    left_out: tuple[int, ...] = ()

    def held(self) -> Trajectory:
        """Return the motion as it is sent to a controller: with the last point repeated after
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
    """A command for one time ``stamp`` [s], for outputs that stream commands: positions and
    velocities (J,).
    """

    stamp: float
    joint_names: tuple[str, ...]
    positions: np.ndarray
    velocities: np.ndarray


Motion = TypeVar("Motion", Trajectory, Setpoint)


def of_joints(motion: Motion, joints: Sequence[int] | np.ndarray) -> Motion:
    """Return the motion of the joints with these indices, for one of several controllers."""
    columns = np.asarray(joints)
    return replace(
        motion,
        joint_names=tuple(motion.joint_names[index] for index in columns),
        positions=np.asarray(motion.positions)[..., columns],
        velocities=np.asarray(motion.velocities)[..., columns],
    )
