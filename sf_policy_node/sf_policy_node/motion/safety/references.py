"""Keeps the references that controllers report, to know where they hold the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.safety.commanded import CommandedPath

AT_COMMAND = 0.1  # share of the tracking error within which a joint is at a position
_SAME = 0.01  # share of the tracking error within which two positions are the same
HOLDING = 0.02  # share of the top speed below which a controller holds position
_SPEED_S = 0.03  # how far the time of a report may be off


@dataclass(frozen=True)
class Reference:
    """The positions and velocities (N,) that a controller reports as its reference."""

    stamp: float
    joints: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


class ControllerReferences:
    """The last report of every controller. Joints (J,) are all commanded joints of the robot.

    Args:
        age_s: reports that are older than this are not used.
    """

    def __init__(self, limits: JointLimits, age_s: float) -> None:
        self._limits, self._age = limits, age_s
        self._last: dict[tuple[int, ...], Reference] = {}  # by the joints of a controller
        self._before: dict[tuple[int, ...], Reference] = {}  # the report before the last one

    def add(
        self,
        stamp: float,
        positions: np.ndarray,
        velocities: np.ndarray,
        joints: np.ndarray | None = None,
    ) -> None:
        """Take the reference positions and velocities (N,) that a controller reports.

        Values that are not finite remove the last report of this controller.

        Args:
            joints: (N,) indices of the joints of the controller; None: all, in order.
        """
        joints = np.arange(len(self._limits.names)) if joints is None else np.asarray(joints)
        key = tuple(joints.tolist())
        if np.isfinite(positions).all() and np.isfinite(velocities).all():
            if key in self._last and self._last[key].stamp < stamp:
                self._before[key] = self._last[key]
            self._last[key] = Reference(stamp, joints, positions, velocities)
        else:
            self._last.pop(key, None)
            self._before.pop(key, None)

    def forget(self) -> None:
        """Forget all reports, as after a clock jump."""
        self._last.clear()
        self._before.clear()

    def held(self, path: CommandedPath | None, now: float) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the position that the controllers hold (J,), and which joints they report (J,).

        The position is None when it is unknown for a joint.

        Args:
            path: the commanded path, whose end counts for joints without a report; None: unknown.

        Raises:
            MotionRefused: a controller moves, commanded by another publisher.
        """
        own = None if path is None else path.positions[-1]
        known = np.zeros(len(self._limits.names), dtype=bool)
        position = np.full(len(known), np.nan) if own is None else own.copy()
        for each in self.fresh(now):
            moving = np.abs(each.velocities) / self._limits.velocity[each.joints]
            if moving.max() > HOLDING:
                if path is not None and not path.is_over(each.stamp):
                    continue  # reported before the motion of this executor ended
                name = self._limits.names[each.joints[int(moving.argmax())]]
                raise MotionRefused(
                    f"the controller moves {name}, commanded by another publisher; stop that"
                    " publisher"
                )
            known[each.joints], position[each.joints] = True, each.positions
        if own is None:
            return position if known.all() else None, known
        if not known.any() or (np.abs(position - own) <= _SAME * self._limits.tracking_error).all():
            return own, known
        return position, known

    def deviation(self, path: CommandedPath, now: float) -> tuple[str, tuple[int, ...]] | None:
        """Return how far the reference of a controller is from ``path``, and its joints.

        The distance is given as a sentence. None when all controllers follow the path or have not
        reported recently. Two reports must agree: a single wrong one stops nothing.
        """
        for each in self.fresh(now):
            before = self._before.get(tuple(each.joints.tolist()))
            if before is None or before.stamp < path.begins:
                continue
            over, distance = self._excess(each, path)
            worst = int(over.argmax())
            if over[worst] > 1.0 and self._excess(before, path)[0].max() > 1.0:
                sentence = (
                    f"the controller commands {self._limits.names[each.joints[worst]]}"
                    f" {distance[worst]:.2f} from the path"
                )
                return sentence, tuple(each.joints.tolist())
        return None

    def confirm(self, path: CommandedPath, now: float) -> bool:
        """Return whether recent reports of all joints but grippers are on ``path``."""
        known = self._limits.is_gripper.copy()
        for each in self.fresh(now):
            if self._excess(each, path)[0].max() > 1.0:
                return False
            known[each.joints] = True
        return bool(known.all())

    def _excess(self, report: Reference, path: CommandedPath) -> tuple[np.ndarray, np.ndarray]:
        """Return how far a report is from ``path`` (N,): as a share of what is allowed, and as a
        distance [rad or m].
        """
        wanted, speed = (part[report.joints] for part in path.state(report.stamp))
        error = self._limits.tracking_error[report.joints]
        distance = np.abs(report.positions - wanted)
        return distance / (AT_COMMAND * error + np.abs(speed) * _SPEED_S), distance

    def fresh(self, now: float) -> list[Reference]:
        """Return the last report of each controller that has reported recently."""
        return [each for each in self._last.values() if abs(now - each.stamp) <= self._age]
