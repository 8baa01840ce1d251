"""Passes measured joints that are not commanded to the collision check: a mast, a lift, another
arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.safety.clock import FUTURE_S

SILENT_S = 1.0
"""Older joint states are not used; a joint without newer ones is reported [s]."""


class OtherJoints:
    """The joints of the URDF that the contract does not command, and that move a checked shape.

    Before its first joint state such a joint is assumed at 0, or at its limit nearest to 0. One
    that is silent is assumed where it was measured last. False if there are none.

    Args:
        future_s: how far stamps may be ahead of this computer's clock [s].
    """

    def __init__(self, workspace: Workspace, future_s: float = FUTURE_S) -> None:
        self._future_s = future_s
        self.names = frozenset(workspace.other_joints)
        self._workspace = workspace
        self._stamps: dict[str, float] = {}  # of the newest position [s]

    def __bool__(self) -> bool:
        return bool(self.names)

    def add(
        self, stamp: float, names: Sequence[str], positions: Sequence[float], now: float
    ) -> None:
        """Take positions [rad or m] of any joints, measured at ``stamp`` [s].

        Positions that are not finite, older than :data:`SILENT_S` or than the last one, or from the
        future are ignored.
        """
        if len(names) != len(positions) or not now - SILENT_S <= stamp <= now + self._future_s:
            return
        fresh = {
            name: float(position)
            for name, position in zip(names, positions, strict=True)
            if name in self.names and math.isfinite(position) and self._is_new(name, stamp, now)
        }
        if fresh:
            self._stamps.update(dict.fromkeys(fresh, stamp))
            self._workspace.set_other_joints(fresh)

    @property
    def unmeasured(self) -> list[str]:
        """The joints without a joint state so far, sorted."""
        return sorted(self.names - self._stamps.keys())

    def problem(self, now: float, *, waits: bool = False) -> str:
        """Return which joints are not measured at ``now`` [s], with the cure; empty if all are.

        Args:
            waits: their driver may still start, so joints never measured are not a problem yet.
        """
        ages = {name: now - stamp for name, stamp in self._stamps.items()}
        late = sorted(name for name, age in ages.items() if age > SILENT_S)
        sentences = []
        if late:
            oldest = max(ages[name] for name in late)
            sentences.append(
                f"no joint states of {', '.join(late)} for {oldest:.0f} s: the collision check"
                " assumes the last measured position; start the driver"
            )
        if self.unmeasured and not waits:
            sentences.append(
                f"no joint states of {', '.join(self.unmeasured)} so far: the collision check"
                " assumes position 0; start the driver, or make joints that never move fixed in"
                " the URDF"
            )
        return "; ".join(sentences)

    def _is_new(self, name: str, stamp: float, now: float) -> bool:
        newest = self._stamps.get(name, -math.inf)
        return stamp > newest or newest > now + self._future_s  # else the clock was set back
