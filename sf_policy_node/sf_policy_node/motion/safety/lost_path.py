"""Notices an arm that still follows a path which its controller is said to have left.

Reports of a controller can be wrong. After a loss nothing is sent, because the controller holds
position on its own; an arm whose controller is on the path all the same would move to its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.safety.commanded import CommandedPath
from sf_policy_node.motion.safety.monitor import ArmMonitor

_SECONDS = 0.1  # time for which an arm must follow the path after the loss: until then it coasts
_SHARE = 0.5  # of the commanded distance that it must move in this time
# A servo that droops by this share of the tracking error and lags by this time is on the path. An
# arm that is further away may be on an earlier point of it: a stop would make it leap.
_DROOP, _LAG_S = 0.25, 0.06


@dataclass(frozen=True)
class LostPath:
    """A path that a controller is said to have left.

    Attributes:
        path: commanded before the loss.
        joints: (N,) indices of the joints of the controller.
        since: time of the loss [s].
        is_certain: reports of the controller show that it moves on this path.
    """

    path: CommandedPath
    joints: tuple[int, ...]
    since: float
    is_certain: bool = False

    def is_followed(self, monitor: ArmMonitor, now: float) -> bool:
        """Return whether an arm moves along the path: joint states since the loss show it."""
        if self.is_certain:
            return now < self.path.end
        begin = now - _SECONDS
        if begin < self.since or now >= self.path.end or monitor.problem(now):
            return False
        measured = monitor.track(begin, list(self.joints))
        if measured is None:
            return False
        stamps, positions, error = measured
        wanted = np.array([self.path.state(stamp)[0] for stamp in stamps])[:, list(self.joints)]
        moved, commanded = positions[-1] - positions[0], wanted[-1] - wanted[0]
        joint = int((np.abs(commanded) / error).argmax())
        follows = moved[joint] * np.sign(commanded[joint]) > _SHARE * abs(commanded[joint]) > 0.0
        allowed = _DROOP * error + _LAG_S / _SECONDS * np.abs(commanded)
        return bool(follows and (np.abs(positions - wanted) <= allowed).all())
