"""Watches the joint commands of an operator or a replay: a leader arm whose cable drops reads
zeros.
"""

from __future__ import annotations

import math

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import MotionRefused

_FASTER = 2.0  # times the top speed with which a leader may move between two commands


class LeaderWatch:
    """Refuses commands that leap, until the leader is back at the arm or has been released.

    A leader is released when its stream is silent for ``silent_s``; the next command begins a new
    teleoperation, which may start anywhere: the arm approaches it slowly.
    """

    def __init__(self, limits: JointLimits, silent_s: float) -> None:
        self._limits, self._silent_s = limits, silent_s
        self._received = -math.inf
        self._target: np.ndarray | None = None  # of the newest command that was taken
        self._stamp = 0.0
        self._refused, self._until_released = "", False

    def require_release(self, reason: str) -> None:
        """Refuse commands until the leader has been released; ``reason`` says why."""
        self._refused, self._until_released = reason, True

    def check(self, target: np.ndarray, commanded: np.ndarray, now: float) -> None:
        """Check a command: joint positions (J,), for an arm that is commanded to be at
        ``commanded``.

        Raises:
            MotionRefused: it leapt, or the leader has to be released first.
        """
        silent = now - self._received > self._silent_s or now < self._received - self._silent_s
        self._received = now
        if silent:
            self._refused, self._until_released, self._target = "", False, None
        near = (np.abs(target - commanded) <= self._limits.step).all()
        if self._refused:
            if self._until_released or not near:
                raise MotionRefused(f"{self._refused}; release the leader and take over again")
            self._refused, self._target = "", None
        if self._target is not None:
            way = np.abs(target - self._target)
            allowed = self._limits.step + _FASTER * self._limits.velocity * max(
                0.0, now - self._stamp
            )
            over = way / allowed
            worst = int(over.argmax())
            if over[worst] > 1.0:
                self._refused = (
                    f"{self._limits.names[worst]} of the leader leapt by {way[worst]:.2f} in "
                    f"{now - self._stamp:.3f} s, joints[].step allows "
                    f"{self._limits.step[worst]:g}; check its cable"
                )
                raise MotionRefused(self._refused)
        self._target, self._stamp = target.copy(), now
