"""Synchronise streams of different rates, without using later data than the live policy would have.
Times are int64 nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.joint_messages import JointMessageBuilder, JointMessages

# Stamps that were converted to float seconds or microseconds still count as equal.
SAME_STAMP_NS = 500_000


@dataclass(frozen=True)
class Observations:
    """N observations as the live policy would have made them, with V cameras.

    Attributes:
        indices: (N, V) index of one image of each camera; -1 for a missing camera.
        stamps: (N,) stamp of the oldest image, which is the time of the observation.
        complete: (N,) stamp of the newest image; joint states up to it may be used.
        arrived: (N,) stamp of the image that completed the observation: the first time at which it
            could be used. It is later than ``complete`` if a newer image made another choice
            possible.
    """

    indices: np.ndarray
    stamps: np.ndarray
    complete: np.ndarray
    arrived: np.ndarray


def align_cameras(
    cameras: Sequence[np.ndarray],
    contract: Contract,
    only_stamps: np.ndarray | None = None,
    missing: Sequence[bool] | None = None,
) -> Observations:
    """Choose one observation per policy step from all moments at which an image arrives.

    Images are matched as on the robot (``sf_policy_node.perception.observation``). At moment m:

    - newest_v(m): newest image of camera v with stamp <= m
    - t0(m) = min over v of newest_v(m), from the camera that lags behind
    - chosen_v(m): image of camera v nearest to t0(m) among those with stamp <= m
    - skew(m) = max - min over v of chosen_v(m); age(m) = m - min over v of chosen_v(m)

    A moment is usable if skew <= ``camera_skew_s`` and age <= ``observation_age_s``. With the grid
    m_0 + k * ``action.step_s`` from the first usable moment m_0, the moment with the smallest
    |m - grid| + skew represents each cell k.

    Args:
        cameras: stamps (N_v,) of the images of each camera in recorded order.
        only_stamps: keep only observations with one of these times (which have labels); None keeps
            all.
        missing: (V,) which cameras have no images in the recording; the others are matched without
            them. None: no camera is missing.
    """
    if missing is not None and any(missing):
        there = np.flatnonzero(~np.asarray(missing))
        found = align_cameras([cameras[view] for view in there.tolist()], contract, only_stamps)
        indices = np.full((len(found.stamps), len(cameras)), -1)
        indices[:, there] = found.indices
        return replace(found, indices=indices)
    orders = [np.argsort(stamps, kind="stable") for stamps in cameras]
    ordered = [stamps[order] for stamps, order in zip(cameras, orders, strict=True)]
    moments = np.unique(np.concatenate(ordered))
    newest = np.stack(
        [np.searchsorted(stamps, moments, side="right") - 1 for stamps in ordered], axis=1
    )
    seen = (newest >= 0).all(axis=1)
    moments, newest = moments[seen], newest[seen]
    slowest = np.min(
        [stamps[column] for stamps, column in zip(ordered, newest.T, strict=True)], axis=0
    )
    chosen = np.stack(
        [
            _nearest_arrived(stamps, slowest, column)
            for stamps, column in zip(ordered, newest.T, strict=True)
        ],
        axis=1,
    )
    if len(chosen):  # a moment that chooses the same images is not another observation
        fresh = np.append(True, (np.diff(chosen, axis=0) != 0).any(axis=1))
        moments, chosen = moments[fresh], chosen[fresh]
    times = np.stack(
        [stamps[column] for stamps, column in zip(ordered, chosen.T, strict=True)], axis=1
    )
    oldest = times.min(axis=1)
    skew = times.max(axis=1) - oldest
    usable = (skew <= round(contract.budgets.camera_skew_s * 1e9)) & (
        moments - oldest <= round(contract.budgets.observation_age_s * 1e9)
    )
    if only_stamps is not None:
        usable &= _contains(np.sort(only_stamps), oldest)
    moments, chosen, oldest, skew = moments[usable], chosen[usable], oldest[usable], skew[usable]
    picked = _nearest_to_grid(moments, skew, round(contract.action.step_s * 1e9))
    indices = np.stack(
        [order[column] for order, column in zip(orders, chosen[picked].T, strict=True)], axis=1
    )
    return Observations(indices, oldest[picked], oldest[picked] + skew[picked], moments[picked])


class Knots(NamedTuple):
    """Positions of one joint over time.

    Attributes:
        stamps: (n,) [ns].
        values: (n,) [rad, m].
        ramps: (n,) True where the value changes linearly to the next one, False where it is held.
    """

    stamps: np.ndarray
    values: np.ndarray
    ramps: np.ndarray


class JointStream:
    """Positions of J joints over time, from messages that may hold the joints in any order or only
    some of them.

    Args:
        stamps: (N,) of the messages.
        joint_messages: N messages with ``name`` and ``position``.
        names: the J joints.

    Raises:
        ValueError: a joint is never named.
    """

    def __init__(self, stamps: np.ndarray, joint_messages: Sequence, names: Sequence[str]) -> None:
        if not isinstance(joint_messages, JointMessages):
            builder = JointMessageBuilder({})
            for message in joint_messages:
                builder.add(message.name, message.position)
            joint_messages = builder.built()
        self._joints = self._sorted(
            names, [self._column(stamps, joint_messages, name) for name in names]
        )

    @classmethod
    def of_knots(cls, names: Sequence[str], knots: Mapping[str, Knots]) -> JointStream:
        """Return the stream with given knots of each joint.

        Raises:
            ValueError: a joint has no knot.
        """
        found = cls.__new__(cls)
        nothing = Knots(np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
        found._joints = cls._sorted(names, [knots.get(name, nothing) for name in names])
        return found

    @staticmethod
    def _column(stamps: np.ndarray, joint_messages: JointMessages, name: str) -> Knots:
        rows, values = joint_messages.column(name)
        return Knots(np.asarray(stamps, np.int64)[rows], values, np.zeros(len(rows), bool))

    @staticmethod
    def _sorted(names: Sequence[str], columns: Sequence[Knots]) -> list[Knots]:
        missing = [
            name for name, column in zip(names, columns, strict=True) if not len(column.stamps)
        ]
        if missing:
            raise ValueError(f"joint {', '.join(missing)} is never named in the messages")
        orders = [np.argsort(column.stamps, kind="stable") for column in columns]
        return [
            Knots(*(array[order] for array in column))
            for column, order in zip(columns, orders, strict=True)
        ]

    @classmethod
    def of_section(
        cls,
        stamps: np.ndarray,
        joint_messages: Sequence,
        names: Sequence[str],
        all_messages: Callable[[], Sequence],
    ) -> JointStream | None:
        """Return the stream of a section of a recording.

        None if it lacks a joint that the recording has. A section can be so short that a publisher
        sent no message in it.

        Args:
            all_messages: returns the messages of the recording.

        Raises:
            ValueError: a joint is never named in the recording.
        """
        try:
            return cls(stamps, joint_messages, names)
        except ValueError:
            messages = all_messages()
            named = (
                messages.names()
                if isinstance(messages, JointMessages)
                else {name for each in messages for name in each.name}
            )
            if set(names) <= named:
                return None
            raise

    @property
    def knots(self) -> list[Knots]:
        """Knots of every joint, sorted by time."""
        return self._joints

    @property
    def first(self) -> int:
        """Time from which on every joint has a value [ns]."""
        return int(max(knots.stamps[0] for knots in self._joints))

    @property
    def last(self) -> int:
        """Time of the last knot [ns]."""
        return int(max(knots.stamps[-1] for knots in self._joints))

    def held(self, times: np.ndarray) -> np.ndarray:
        """Return the value (N, J) in force at each time: held since the newest knot, or
        interpolated on a ramp; NaN before the first knot.
        """
        columns = []
        for stamps, values, ramps in self._joints:
            index = np.searchsorted(stamps, times + SAME_STAMP_NS, side="right") - 1
            column = np.where(index >= 0, values[index], np.nan)
            if ramps.any():
                after = np.minimum(index + 1, len(stamps) - 1)
                length = np.maximum(stamps[after] - stamps[index], 1)
                share = np.clip((times - stamps[index]) / length, 0.0, 1.0)
                on_ramp = (index >= 0) & ramps[index] & (after > index)
                with np.errstate(invalid="ignore"):  # positions that are not finite
                    between = values[index] + share * (values[after] - values[index])
                column = np.where(on_ramp, between, column)
            columns.append(column)
        return np.stack(columns, axis=-1)

    def newest(self, times: np.ndarray) -> np.ndarray:
        """Return the time (N,) [ns] of the newest knot of any joint at or before each time; on a
        ramp, the time itself.
        """
        found = np.full(len(times), np.iinfo(np.int64).min)
        for stamps, _, ramps in self._joints:
            index = np.searchsorted(stamps, times + SAME_STAMP_NS, side="right") - 1
            known = index >= 0
            moment = np.where(known & ramps[index], times, stamps[index])
            found = np.where(known, np.maximum(found, moment), found)
        return found

    def measured(
        self,
        times: np.ndarray,
        known_until: np.ndarray,
        max_age_ns: int | Sequence[int],
        now: np.ndarray | None = None,
    ) -> np.ndarray:
        """Interpolate the values (N, J) at ``times`` without samples later than ``known_until``.

        If no later sample is known, the newest one is held. The value is NaN

        - before the first sample,
        - if the newest sample at ``now`` is older than ``max_age_ns``,
        - in a gap: if the last sample before ``times`` is older than ``max_age_ns`` at that time.

        Args:
            times: (N,) of the wanted values.
            known_until: (N,) newest stamp that may be used for each.
            max_age_ns: for all joints, or (J,).
            now: (N,) when the values are used; None means ``known_until``.
        """
        now = known_until if now is None else now
        columns = []
        for (stamps, values, _), max_age in zip(
            self._joints, np.broadcast_to(max_age_ns, len(self._joints)), strict=True
        ):
            newest = np.searchsorted(stamps, known_until, side="right") - 1
            before = np.minimum(np.searchsorted(stamps, times, side="right") - 1, newest)
            after = np.minimum(before + 1, newest)
            gap = stamps[after] - stamps[before]
            share = np.where(gap > 0, (times - stamps[before]) / np.maximum(gap, 1), 0.0)
            latest = stamps[np.searchsorted(stamps, now, side="right") - 1]
            usable = (before >= 0) & (now - latest <= max_age) & (times - stamps[before] <= max_age)
            with np.errstate(invalid="ignore"):  # positions that are not finite
                between = values[before] + share * (values[after] - values[before])
            columns.append(np.where(usable, between, np.nan))
        return np.stack(columns, axis=-1)


def nearest(stamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the index (N,) of the stamp nearest to each time; the earlier one of two equally near.

    Args:
        stamps: (M,) in any order, M > 0.
    """
    order = np.argsort(stamps, kind="stable")
    ordered = stamps[order]
    right = np.clip(np.searchsorted(ordered, times), 0, len(ordered) - 1)
    left = np.maximum(right - 1, 0)
    closer = np.abs(ordered[left] - times) <= np.abs(ordered[right] - times)
    return order[np.where(closer, left, right)]


def _nearest_arrived(stamps: np.ndarray, times: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Return the index (N,) of the stamp nearest to each time among the first ``newest + 1``; the
    earlier one of two equally near.
    """
    left = np.maximum(np.searchsorted(stamps, times, side="right") - 1, 0)
    right = np.minimum(left + 1, newest)
    return np.where(np.abs(stamps[right] - times) < np.abs(times - stamps[left]), right, left)


def _contains(ordered: np.ndarray, times: np.ndarray) -> np.ndarray:
    if not len(ordered):
        return np.zeros(len(times), bool)
    return np.abs(ordered[nearest(ordered, times)] - times) <= SAME_STAMP_NS


def _nearest_to_grid(moments: np.ndarray, skew: np.ndarray, step: int) -> np.ndarray:
    """Return the index of the moment with the lowest cost in every cell of the grid; see
    :func:`align_cameras`.
    """
    if not len(moments):
        return np.empty(0, int)
    since = moments - moments[0]
    cells = (since + step // 2) // step
    cost = np.abs(since - cells * step) + skew
    order = np.lexsort((cost, cells))
    _, first = np.unique(cells[order], return_index=True)
    return order[first]
