"""Collect joint states of one or several publishers into arrays in the contract's order, without
ROS.

A joint state is a stamp [s], names, positions and velocities. Each joint has its own history and
age, because an arm and its gripper may be published in separate messages at different rates.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.safety.missing_joint_states import (
    CURE,
    late_joint_states,
    no_joint_states,
)

# Tolerance for stamps in float seconds: an age equal to its budget is allowed, as in recorded data.
ROUNDING_S = 1e-6
# The clock was set back if a stamp is older than the newest one by _CLOCK_S, or if stamps have
# increased by _CLOCK_RUN_S while staying below the newest one.
_CLOCK_S = 1.0
_CLOCK_RUN_S = 0.03
_ONE_MESSAGE_S = 1e-3  # joints whose stamps differ by less are from the same message
_NAMED = 8  # maximum number of unknown names in a message to the user


class JointTrack:
    """Store the positions of one joint by increasing stamp, for the last ``length_s`` [s]."""

    def __init__(self, length_s: float) -> None:
        self._length = length_s
        self._stamps: list[float] = []
        self._positions: list[float] = []
        # First of the consecutive received stamps that are not newer than the newest stored one.
        self._older_since: float | None = None
        self.velocity = 0.0

    def __bool__(self) -> bool:
        return bool(self._stamps)

    @property
    def stamp(self) -> float:
        """Return the stamp of the newest position [s]; needs at least one."""
        return self._stamps[-1]

    @property
    def position(self) -> float:
        """Return the newest position."""
        return self._positions[-1]

    def add(self, stamp: float, position: float, velocity: float | None) -> None:
        """Store a position. One that is not newer is ignored, or, if the clock was set back,
        replaces all others.

        Args:
            velocity: None computes it from the last two positions.
        """
        if self._stamps and stamp <= self._stamps[-1]:
            if self._older_since is None:
                self._older_since = stamp
            if stamp > self._stamps[-1] - _CLOCK_S and stamp - self._older_since < _CLOCK_RUN_S:
                return
            self.clear()
        self._older_since = None
        if velocity is None:
            velocity = (position - self.position) / (stamp - self.stamp) if self._stamps else 0.0
        self.velocity = velocity
        self._stamps.append(stamp)
        self._positions.append(position)
        # One older position is still needed to interpolate.
        old = bisect_right(self._stamps, stamp - self._length) - 1
        if old > len(self._stamps) // 2:  # not each time: removing from the front moves the rest
            del self._stamps[:old], self._positions[:old]

    def clear(self) -> None:
        """Forget everything."""
        self._stamps.clear()
        self._positions.clear()
        self.velocity = 0.0

    def age_at(self, stamp: float) -> float:
        """Return the age at ``stamp`` of the newest position at or before it [s]; infinite if there
        is none.
        """
        before = bisect_right(self._stamps, stamp) - 1
        return stamp - self._stamps[before] if before >= 0 else math.inf

    def at(self, stamp: float, known_until: float = math.inf) -> float | None:
        """Return the interpolated position at ``stamp``; after the newest one the newest, before
        the oldest None.

        Args:
            known_until: positions with later stamps are not used.
        """
        known = bisect_right(self._stamps, known_until)
        before = bisect_right(self._stamps, stamp, 0, known) - 1
        if before < 0:
            return None
        if before == known - 1:
            return self._positions[before]
        share = (stamp - self._stamps[before]) / (self._stamps[before + 1] - self._stamps[before])
        return self._positions[before] + share * (
            self._positions[before + 1] - self._positions[before]
        )


class JointStates:
    """Store the joints of one contract, from messages that may name other joints, in any order, or
    only some of them.

    Args:
        length_s: how long positions are stored [s].
        future_s: how far stamps may be ahead of this computer's clock [s].
    """

    def __init__(
        self, contract: Contract, length_s: float = 1.0, future_s: float = FUTURE_S
    ) -> None:
        self._future_s = future_s
        self._names = contract.command_joints
        self._arm = contract.arm_joints
        self._topic = contract.topics.joint_states
        self._budgets = contract.budgets
        self._tracks = {name: JointTrack(length_s) for name in self._names}
        # By joint of the contract: what was wrong with the last message that named it.
        self._faults: dict[str, str] = {}
        self._others: dict[str, None] = {}  # received names that are not in the contract

    def add(
        self,
        stamp: float,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float] = (),
    ) -> bool:
        """Store a message; return False if it is faulty or names no joint of the contract.

        Positions and velocities that are not finite are ignored. A message of another device, which
        names no joint of the contract, may be faulty.
        """
        known = [name for name in names if name in self._tracks]
        if len(known) < len(names):
            for name in names:
                if name not in self._tracks and len(self._others) < _NAMED:
                    self._others[name] = None
        fault = ""
        if len(positions) != len(names):
            fault = f"have {len(names)} names, {len(positions)} positions; correct the driver"
        elif stamp <= 0.0:
            fault = "have no time stamp; set header.stamp in the driver"
        if fault:
            self._faults |= dict.fromkeys(known, fault)
            return False
        given = velocities if len(velocities) == len(names) else [math.nan] * len(names)
        for name, position, velocity in zip(names, positions, given, strict=True):
            if (track := self._tracks.get(name)) is None:
                continue
            if math.isfinite(position):
                self._faults.pop(name, None)
                track.add(
                    stamp, float(position), float(velocity) if math.isfinite(velocity) else None
                )
            else:
                fault = f"have the position {position} for {name}; check its sensor and driver"
                self._faults[name] = fault
        return bool(known) and not fault

    def read(
        self,
        stamp: float,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
    ) -> tuple[float, np.ndarray, np.ndarray] | None:
        """Store a message and return :meth:`newest`; None if :meth:`add` returns False."""
        return self.newest() if self.add(stamp, names, positions, velocities) else None

    def newest(self) -> tuple[float, np.ndarray, np.ndarray] | None:
        """Return the newest time [s] at which all arm joints are known, positions and velocities
        (J,).

        Every joint is taken from its own history at that time. A gripper that was measured earlier
        holds its position. ``None`` as long as a joint was never received.
        """
        if self.missing:
            return None
        stamp = min(self._tracks[name].stamp for name in self._arm)
        positions = []
        for track in self._tracks.values():
            position = track.at(stamp)
            positions.append(track.position if position is None else position)
        return (
            stamp,
            np.array(positions),
            np.array([track.velocity for track in self._tracks.values()]),
        )

    def at(self, stamp: float, known_until: float = math.inf) -> np.ndarray | None:
        """Return the positions (J,) at ``stamp``, each from its own history; ``None`` when a joint
        was not known by then.
        """
        positions = [track.at(stamp, known_until) for track in self._tracks.values()]
        return None if None in positions else np.array(positions)

    def clear(self) -> None:
        """Forget all positions and faults, as after a jump of the clock."""
        for track in self._tracks.values():
            track.clear()
        self._faults.clear()

    @property
    def missing(self) -> list[str]:
        """Return the joints of the contract that were never received."""
        return [name for name in self._names if not self._tracks[name]]

    def age(self, now: float) -> float:
        """Return the age of the oldest arm joint [s]: 0 for a stamp after ``now``, -1 while a joint
        is missing.
        """
        stamps = [self._tracks[name].stamp for name in self._arm if self._tracks[name]]
        return max(0.0, now - min(stamps)) if len(stamps) == len(self._arm) else -1.0

    def problem(self, now: float) -> str:
        """Return why the joints cannot be used at ``now`` [s]; empty when they can.

        ``now`` of 0 is a simulated clock that has not begun.
        """
        if now <= 0.0:
            return NO_CLOCK
        if self.missing:
            return (
                f"joint states on {self._topic} {self.fault}"
                if self.fault
                else no_joint_states(self._topic)
            )
        ages = {name: now - track.stamp for name, track in self._tracks.items()}
        excess = {name: age - self._budget(name)[1] for name, age in ages.items()}
        worst = max(excess, key=excess.__getitem__)
        if excess[worst] > ROUNDING_S:
            return self._late(worst, ages)
        newest = min(ages, key=ages.__getitem__)
        if ages[newest] < -self._future_s:
            return (
                f"joint states are stamped {-ages[newest]:.3f} s in the future ({newest});"
                " synchronise the clocks"
            )
        return ""

    def gap(self, stamp: float) -> str:
        """Return which joint has no measurement for too long before ``stamp``; empty if none.

        Positions are not interpolated across such a gap, because messages were lost in it.
        """
        for name, track in self._tracks.items():
            key, budget = self._budget(name)
            if (age := track.age_at(stamp)) > budget + ROUNDING_S:
                return (
                    f"joint states of {name} on {self._topic} are lost: the last one before the"
                    f" images is {age:.3f} s older, budgets.{key} allows {budget:g} s; reduce the"
                    " load of this computer"
                )
        return ""

    @property
    def fault(self) -> str:
        """Return what is wrong with the messages so far, such as ``have no time stamp``; empty if
        nothing is wrong or there was no message.
        """
        fault = next(iter(self._faults.values()), "")
        if (
            fault
            or not self.missing
            or (not self._others and len(self.missing) == len(self._names))
        ):
            return fault
        named = f"; they name {', '.join(self._others)}" if self._others else ""
        cure = (
            "correct the names in the contract or in the driver"
            if named
            else "start the driver that reports it"
        )
        return f"lack {', '.join(self.missing)}{named}; {cure}"

    def _late(self, name: str, ages: dict[str, float]) -> str:
        if fault := self._faults.get(name):
            return f"joint states on {self._topic} {fault}"
        key, budget = self._budget(name)
        of = "" if ages[name] - min(ages.values()) < _ONE_MESSAGE_S else name
        slow = name not in self._arm and of and self._budgets.gripper_age_s is None
        cure = "if its driver is that slow, give budgets.gripper_age_s" if slow else CURE
        return late_joint_states(ages[name], budget, key, of, cure)

    def _budget(self, name: str) -> tuple[str, float]:
        """Return the key and the value [s] of the maximum age of a joint."""
        if name not in self._arm and self._budgets.gripper_age_s is not None:
            return "gripper_age_s", self._budgets.gripper_age_s
        return "joint_state_age_s", self._budgets.joint_state_age_s


NO_CLOCK = (
    "simulated time has not begun: use_sim_time is set and no node publishes /clock; start the"
    " simulator, or set it to false"
)
