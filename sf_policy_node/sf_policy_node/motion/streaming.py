"""One command after another, for controllers that take no trajectories."""

from __future__ import annotations

import dataclasses
import math

from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.types import Setpoint

_GAP_S = 0.06  # a sender that was silent for longer, or for three periods, has lost the motion


class Stream:
    """Reads commands off a path, and notices when it was not asked for so long that the next one would be a leap.

    Args:
        alone: the arm follows these commands and nothing else. Where a controller follows trajectories and only the gripper is
            streamed, the arm has gone on meanwhile, and there is no gap.
    """

    def __init__(self, rate_hz: float, joint_names: tuple[str, ...], *, alone: bool = True) -> None:
        self._gap = max(_GAP_S, 3.0 / rate_hz) if alone else math.inf
        self._names = joint_names
        self._last: Setpoint | None = None  # of a motion that had not ended then

    def at(self, path: CommandedPath, now: float) -> tuple[Setpoint | None, float]:
        """The command for ``now`` and 0; after a gap the command before it, at rest, and the gap [s]; None when the arm stands."""
        last, self._last = self._last, None
        if last is None and now >= path.end:
            return None, 0.0
        if last is not None and now - last.stamp > self._gap:
            return Setpoint(now, self._names, last.positions, 0.0 * last.velocities), now - last.stamp
        position, velocity = path.state(now)
        setpoint = Setpoint(now, self._names, position, velocity)
        if now < path.end:
            self._last = setpoint
        return setpoint, 0.0

    def forget(self) -> None:
        """Nothing is under way: what was said last is not to be gone on from."""
        self._last = None

    def clock_set(self, jump: float) -> None:
        """The clock was set by ``jump`` [s], and the path with it."""
        if self._last is not None:
            self._last = dataclasses.replace(self._last, stamp=self._last.stamp + jump)
