"""Whether joint positions can be those of the contract's robot: finite, of one publisher, and in
its units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.data.bag_files import BagError
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.data.joint_messages import JointMessages
from sf_training.data.synchronisation import JointStream
from sf_training.recording.topics import absolute

NEAR_SHARE = 0.05  # of a joint's range: positions beyond a limit by more are worth a word
FAR_SHARE = 0.5  # by more than that: they cannot be this joint's, in this unit
FAR_GRIPPER = 10.0  # a gripper's open and closed are often set roughly
SWINGS = 0.2  # of the positions: so many that go back and forth are of two publishers
APART_SHARE = 0.25  # of a joint's range: commands that are so far from the joints are not for them
_DEGREES = 180.0 / np.pi


def check_one_source(reader: EpisodeReader, stream: Stream) -> None:
    """Check that no joint is on two topics of the bag, or twice in a message.

    Raises:
        BagError: one is.
    """
    if not isinstance(stream.messages, JointMessages):
        return
    twice = stream.messages.repeated()
    if twice and twice in reader.contract.command_joints:
        topics = {reader.channel(number).topic for number in np.unique(stream.channels).tolist()}
        raise BagError(
            f"{reader.path}: {', '.join(sorted(topics))}: joint {twice} is named twice in one"
            " message; give the joints of two arms different names in their drivers"
        )
    if len(np.unique(stream.channels)) < 2:
        return
    for name in reader.contract.command_joints:
        rows, _ = stream.messages.column(name)
        topics = sorted(
            {reader.channel(number).topic for number in np.unique(stream.channels[rows]).tolist()}
        )
        if len(topics) > 1:
            raise BagError(
                f"{reader.path}: joint {name} is on {' and on '.join(topics)}: whose it is cannot"
                " be told; map one of them only in bags.topics, or name the other robot's joints"
                " otherwise in bags.joints"
            )


def check_all_joints(reader: EpisodeReader, stream: Stream) -> None:
    """Check that joint states give a position of every joint.

    Raises:
        BagError: one has none in the whole recording.
    """
    if not len(stream.stamps):
        return
    names = reader.contract.command_joints
    missing = [name for name in names if not len(stream.messages.column(name)[0])]
    if not missing:
        return
    topic = reader.recorded_name(absolute(reader.contract.topics.joint_states))
    named = stream.messages.names()
    if named >= set(missing):
        told = "named, but no message holds a position of it; correct the driver"
    else:
        there = ", ".join(sorted(named)[:12]) or "no names"
        told = f"never named in the messages ({there}); say which is which in bags.joints"
    raise BagError(f"{reader.path}: {topic}: joint {', '.join(missing)} is {told}")


def check_joints(reader: EpisodeReader, joints: JointStream, topic: str, start: int) -> list[str]:
    """Return sentences about positions a little outside of the contract's limits.

    Args:
        topic: where they were recorded, for the sentences.
        start: beginning of the recording [ns].

    Raises:
        BagError: a position is not a finite number, or so far outside that the unit must be another
            one.
    """
    contract = reader.contract
    for name, knots in zip(contract.command_joints, joints.knots, strict=True):
        wrong = np.flatnonzero(~np.isfinite(knots.values))
        if len(wrong):
            at = (int(knots.stamps[wrong[0]]) - start) * 1e-9
            raise BagError(
                f"{reader.path}: {topic}: {name} is {knots.values[wrong[0]]} at {at:.2f} s"
                f" ({len(wrong)} of {len(knots.values)} positions are not finite); correct its"
                " publisher, cut that part away, or leave the episode out"
            )
    _check_one_publisher(reader, joints, topic)
    lows = [float(knots.values.min()) for knots in joints.knots]
    highs = [float(knots.values.max()) for knots in joints.knots]
    return _units(reader, contract, lows, highs, topic)


def _check_one_publisher(reader: EpisodeReader, joints: JointStream, topic: str) -> None:
    """Check that a joint does not go back and forth between two places, as the states of two arms
    on one topic do.

    Raises:
        BagError: one does.
    """
    for name, knots, width in zip(
        reader.contract.command_joints, joints.knots, _ranges(reader.contract), strict=True
    ):
        steps = np.diff(knots.values)
        far = np.abs(steps) > NEAR_SHARE * width
        swings = far[1:] & far[:-1] & (steps[1:] * steps[:-1] < 0)
        if len(swings) >= 8 and swings.mean() > SWINGS:
            values = knots.values[int(np.flatnonzero(swings)[0]) :][:2]
            raise BagError(
                f"{reader.path}: {topic}: {name} jumps between {values[0]:.3g} and"
                f" {values[1]:.3g} in {swings.mean():.0%} of the messages: two publishers use this"
                " name; stop one of them, or give its joints other names"
            )


def check_commands_are_near(
    reader: EpisodeReader, commanded: np.ndarray, measured: np.ndarray, topic: str
) -> None:
    """Check that commands are positions, and of these joints.

    Args:
        commanded, measured: (N, J) at the same times.
        topic: where the commands were recorded, for the sentence.

    Raises:
        BagError: half of the commands of a joint are far from where it was.
    """
    known = np.isfinite(commanded).all(axis=1) & np.isfinite(measured).all(axis=1)
    if known.sum() < 8:
        return
    away = np.median(np.abs(commanded[known] - measured[known]), axis=0)
    share = away / _ranges(reader.contract)
    share[reader.contract.columns.commands.grippers] = 0.0  # one that holds something is far from its command
    worst = int(np.argmax(share))
    if share[worst] > APART_SHARE:
        raise BagError(
            f"{reader.path}: {topic}: {reader.contract.command_joints[worst]} is commanded"
            f" {away[worst]:.3g} away from where it is (median): these are relative commands,"
            " another arm's or in another order; map the topic with absolute joint positions"
        )


def _ranges(contract: Contract) -> np.ndarray:
    """Return the widths (J,) of the limits of all commanded joints."""
    limits = JointLimits.of(contract)
    return limits.upper - limits.lower


def _units(
    reader: EpisodeReader,
    contract: Contract,
    lows: Sequence[float],
    highs: Sequence[float],
    topic: str,
) -> list[str]:
    ends = JointLimits.of(contract)
    far_of = np.where(ends.is_gripper, FAR_GRIPPER, FAR_SHARE).tolist()
    units = contract.columns.commands.units
    limits = list(zip(ends.lower.tolist(), ends.upper.tolist(), far_of, units, strict=True))
    notes, worst, share = [], "", 0.0
    for name, low, high, (lower, upper, far, unit) in zip(
        contract.command_joints, lows, highs, limits, strict=True
    ):
        beyond = max(lower - low, high - upper) / (upper - lower)
        value = low if lower - low > high - upper else high
        text = f"{name} reaches {value:.4g}, the contract allows {lower:g} to {upper:g} {unit}"
        if beyond > far and beyond / far > share:
            worst, share = text, beyond / far
        elif beyond > NEAR_SHARE and far == FAR_SHARE:
            notes.append(f"{topic}: {text}; correct units, zero position or the contract's limits")
    if not worst:
        return notes
    raise BagError(f"{reader.path}: {topic}: {worst}: {_guess(reader, topic, lows, highs)}")


def _guess(reader: EpisodeReader, topic: str, lows: Sequence[float], highs: Sequence[float]) -> str:
    """Return what unit the positions are probably in, and the cure."""
    contract = reader.contract
    limits = JointLimits.of(contract)
    joints = contract.columns.commands.indices(ColumnKind.JOINT)
    angles = [place for place in joints if contract.columns.commands[place].unit == "rad"]
    arm_is_right = all(
        limits.lower[place] <= lows[place] and highs[place] <= limits.upper[place]
        for place in joints
    )
    if (
        not arm_is_right
        and angles
        and all(
            limits.lower[place] - 0.1 <= lows[place] / _DEGREES
            and highs[place] / _DEGREES <= limits.upper[place] + 0.1
            for place in angles
        )
    ):
        cure = (
            f"say so in the contract: bags.units: {{{topic}: degrees}}"
            if reader.foreign
            else "publish radians (REP 103), and record again"
        )
        return f"this looks like degrees; {cure}"
    if arm_is_right:
        cure = (
            f"say so in the contract: bags.gripper: {{{topic}: [CLOSED, OPEN]}}"
            if reader.foreign
            else "correct it in the driver"
        )
        return f"this looks like millimetres, percent or another unit; {cure}"
    return (
        "this looks like another unit, another robot or another order of joints; correct it in the"
        " driver or the contract"
    )
