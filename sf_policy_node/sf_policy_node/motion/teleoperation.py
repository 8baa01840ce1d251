"""A person's commands, one after another, into motion with the same limits as a policy's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.chunks.planning import append_stop
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.shaping import Shaped, follow

_GAIN = 12.0  # 1/s: a follower lags by 1/12 s where the leader gives no velocities
_LOOK_AHEAD_S = 0.06  # the leader's velocity counts for this long after its message
_FURTHEST_S = 0.6  # planned ahead of one message; whatever is left then is the next message's
_TAKING_OVER = 0.25  # share of the joints' speed until the arm has caught up with its new leader
_CAUGHT_UP = 0.2  # share of the tracking error
_SHARES = (1.0, 0.3, 0.1, 0.02)  # of the way to a target, where the whole way leads out of the box
_SLOWER, _SLOWER_TRIES = (
    0.97,
    3,
)  # a motion that was too fast for the tool is planned again with slower joints


class TeleoperationPlanner:
    """Follows joint targets (J,) in the order of ``contract.command_joints``. Every plan ends at
    rest.
    """

    def __init__(self, contract: Contract, workspace: Workspace) -> None:
        self._limits, self._workspace = JointLimits.of(contract), workspace
        self._period = 1.0 / contract.rate_hz
        self._age = contract.budgets.teleop_age_s
        self._caught_up = False
        self.shortened = False
        """The last plan covers only a part of the way, or none, so that the tool stays in its
        box.
        """

    def check(
        self, stamp: float, positions: np.ndarray, velocities: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Target positions and velocities (J,) of a command that is complete, finite and fresh.

        Raises:
            MotionRefused: it is not.
        """
        target, speed, names = (
            np.asarray(positions, dtype=float),
            np.asarray(velocities, dtype=float),
            self._limits.names,
        )
        if (
            target.shape != (len(names),)
            or speed.shape != target.shape
            or not (np.isfinite(target).all() and np.isfinite(speed).all())
        ):
            raise MotionRefused(
                f"a teleoperation command needs {len(names)} finite positions and velocities"
                f" ({', '.join(names)})"
            )
        if not -self._age <= now - stamp <= self._age:
            raise MotionRefused(
                f"a teleoperation command is {now - stamp:.3f} s old, budgets.teleop_age_s allows"
                f" {self._age:g} s"
            )
        return target, speed

    def take_over(self) -> None:
        """The next target may be far away: go there slowly."""
        self._caught_up = False

    def plan(
        self,
        target: np.ndarray,
        target_velocity: np.ndarray,
        position: np.ndarray,
        velocity: np.ndarray,
    ) -> Shaped | None:
        """Motion from a commanded state towards a target that moves; None when it would leave the
        workspace box.

        Joints move one by one, so that the way to a target inside may lead outside: then only a
        part of it is gone. Its way is straighter, and the next command goes on from there.
        """
        finite = np.where(
            np.isfinite(self._limits.tracking_error), self._limits.tracking_error, np.inf
        )
        place = np.minimum(np.maximum(target, self._limits.lower), self._limits.upper)
        self._caught_up = self._caught_up or bool(
            (np.abs(place - position) <= _CAUGHT_UP * finite).all()
        )
        for share in _SHARES:
            shaped = self._towards(
                position + share * (target - position), share * target_velocity, position, velocity
            )
            self.shortened = shaped is None or share < 1.0
            if shaped is not None:
                beyond, faster = place != target, np.abs(target_velocity) > self._limits.velocity
                return dataclasses.replace(
                    shaped,
                    position_clips=shaped.position_clips + (beyond & (shaped.position_clips == 0)),
                    velocity_clips=shaped.velocity_clips + (faster & (shaped.velocity_clips == 0)),
                )
        return None

    def _towards(
        self,
        target: np.ndarray,
        target_velocity: np.ndarray,
        position: np.ndarray,
        velocity: np.ndarray,
    ) -> Shaped | None:
        limits, period = self._limits, self._period
        place = np.minimum(np.maximum(target, limits.lower), limits.upper)
        if not self._caught_up:
            limits = dataclasses.replace(limits, velocity=limits.velocity * _TAKING_OVER)
        speed = np.minimum(np.maximum(target_velocity, -limits.velocity), limits.velocity)
        count = math.ceil(_FURTHEST_S / period)
        moving = np.minimum(period * np.arange(count + 1), _LOOK_AHEAD_S)[:, None]
        positions = np.minimum(
            np.maximum(place + speed * moving, self._limits.lower), self._limits.upper
        )
        velocities = np.where(period * np.arange(count + 1)[:, None] < _LOOK_AHEAD_S, speed, 0.0)
        for _ in range(_SLOWER_TRIES):
            shaped = follow(
                positions,
                velocities,
                position,
                velocity,
                limits,
                period,
                np.full(len(position), _GAIN),
            )
            shaped = append_stop(shaped, count, self._limits, period)
            survey = self._workspace.survey(
                np.vstack([position, shaped.positions]), np.vstack([velocity, shaped.velocities])
            )
            if survey.speed_factor >= 1.0:
                break
            limits = limits.slowed(shaped.velocities, survey.speed_factor * _SLOWER)
        return None if survey.first_violation is not None else shaped
