"""Watches the joint commands of an operator or a replay for jumps.

A leader arm whose cable is disconnected reports zeros, for example.
"""

from __future__ import annotations

import math

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import MotionRefused

_FASTER = 2.0  # times the arm's top speed: how fast a leader may move between two commands


class LeaderWatch:
    """Refuses commands that jump, until the leader is back near the arm or has been released.

    A leader counts as released when no command arrives for ``silent_s`` [s]. The next command
    starts a new teleoperation. It may be anywhere, because the arm approaches it slowly. Times are
    on a clock that is never set, where there is one.
    """

    def __init__(self, limits: JointLimits, silent_s: float) -> None:
        self._limits, self._silent_s = limits, silent_s
        self._received = -math.inf
        self._target: np.ndarray | None = None  # of the last accepted command, received at _stamp
        self._stamp = 0.0
        self._refused, self._until_released = "", False

    def require_release(self, reason: str) -> None:
        """Refuse commands until the leader has been released.

        Args:
            reason: how the message to the operator starts.
        """
        self._refused, self._until_released = reason, True

    def hear(self, now: float) -> None:
        """Take that a command was received at ``now`` [s], whether or not it can be followed.

        A leader that was silent before counts as released. A command that is refused must be heard
        as well: otherwise a leader that never paused counts as released.
        """
        silent = now - self._received > self._silent_s
        self._received = now
        if silent:
            self._refused, self._until_released, self._target = "", False, None

    def check(self, target: np.ndarray, commanded: np.ndarray, now: float) -> None:
        """Check that a command that was heard does not jump.

        Args:
            target: (J,) commanded by the leader.
            commanded: (J,) commanded position of the arm.
            now: when the command was received [s].

        Raises:
            MotionRefused: it jumped, or the leader must be released first.
        """
        near = (np.abs(target - commanded) <= self._limits.step).all()
        if self._refused:
            if self._until_released or not near:
                raise MotionRefused(f"{self._refused}; release the leader and take over again")
            self._refused, self._target = "", None
        if self._target is not None:
            moved = np.abs(target - self._target)
            allowed = self._limits.step + _FASTER * self._limits.velocity * max(
                0.0, now - self._stamp
            )
            over = moved / allowed
            worst = int(over.argmax())
            if over[worst] > 1.0:
                self._refused = (
                    f"{self._limits.names[worst]} of the leader jumped by {moved[worst]:.2f} in "
                    f"{now - self._stamp:.3f} s, joints[].step allows "
                    f"{self._limits.step[worst]:g}; check its cable"
                )
                raise MotionRefused(self._refused)
        self._target, self._stamp = target.copy(), now
