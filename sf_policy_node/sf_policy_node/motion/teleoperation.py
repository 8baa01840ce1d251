"""Plans the motion for each teleoperation command, with the same limits as for a policy."""

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

_GAIN = 12.0  # 1/s: the arm lags by 1/12 s behind a leader that sends no velocities
_LOOK_AHEAD_S = 0.06  # the leader's velocity is extrapolated for this long after its message
_FURTHEST_S = 0.6  # how far ahead of a command is planned; the next command continues from there
_TAKING_OVER = 0.25  # share of the joints' speed until the arm has reached its new leader
_CAUGHT_UP = 0.2  # share of the tracking error within which the arm has reached its leader
# Shares of the distance to a target, tried in turn when the motion leaves the workspace box.
_SHARES = (1.0, 0.3, 0.1, 0.02)
# A motion whose tool is too fast is planned again with slower joints: 3 % slower than the survey
# asks for, at most three times.
_SLOWER, _SLOWER_TRIES = 0.97, 3


class TeleoperationPlanner:
    """Plans motions to joint targets (J,) in the order of ``contract.command_joints``.

    Every plan ends stationary.
    """

    def __init__(self, contract: Contract, workspace: Workspace) -> None:
        self._limits, self._workspace = JointLimits.of(contract), workspace
        self._period = 1.0 / contract.rate_hz
        self._age = contract.budgets.teleop_age_s
        self._caught_up = False
        self.reason = ""
        """Why the last plan stops before its target or is None; empty if it does not."""

    def check(
        self, stamp: float, positions: np.ndarray, velocities: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the target positions and velocities (J,) of a command as arrays.

        Raises:
            MotionRefused: the command is incomplete, not finite, or older than
                ``budgets.teleop_age_s``.
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
                f" {self._age:g} s; check the network, and synchronise the clocks"
            )
        return target, speed

    def take_over(self) -> None:
        """Approach the next targets slowly, because a new leader may be far from the arm."""
        self._caught_up = False

    def plan(
        self,
        target: np.ndarray,
        target_velocity: np.ndarray,
        position: np.ndarray,
        velocity: np.ndarray,
    ) -> Shaped | None:
        """Plan the motion from a commanded state (J,) towards a moving target (J,).

        None when every motion would leave the workspace box or collide. Joints move independently,
        so the motion to a target inside the box may leave it. Then only a share of the distance is
        planned, on a straighter path, and the next command continues from there.
        """
        reachable = np.minimum(np.maximum(target, self._limits.lower), self._limits.upper)
        self._caught_up = self._caught_up or bool(
            (np.abs(reachable - position) <= _CAUGHT_UP * self._limits.tracking_error).all()
        )
        self.reason = ""
        for share in _SHARES:
            shaped, reason = self._towards(
                position + share * (target - position), share * target_velocity, position, velocity
            )
            self.reason = self.reason or reason
            if shaped is not None:
                beyond = reachable != target
                faster = np.abs(target_velocity) > self._limits.velocity
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
    ) -> tuple[Shaped | None, str]:
        """Plan the motion to a target; None with the reason when it would leave the workspace box
        or collide.
        """
        limits, period = self._limits, self._period
        reachable = np.minimum(np.maximum(target, limits.lower), limits.upper)
        if not self._caught_up:
            limits = dataclasses.replace(limits, velocity=limits.velocity * _TAKING_OVER)
        speed = np.minimum(np.maximum(target_velocity, -limits.velocity), limits.velocity)
        count = math.ceil(_FURTHEST_S / period)
        moving = np.minimum(period * np.arange(count + 1), _LOOK_AHEAD_S)[:, None]
        positions = np.minimum(
            np.maximum(reachable + speed * moving, self._limits.lower), self._limits.upper
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
        return (shaped, "") if survey.first_violation is None else (None, survey.reason)
