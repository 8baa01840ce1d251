"""Check that joint positions can be the robot's: finite, from one publisher, in its units."""

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

# Shares of a joint's range:
NEAR_SHARE = 0.05  # positions beyond a limit by more than this get a note
FAR_SHARE = 0.5  # positions beyond a limit by more than this are in another unit
# The same for grippers, whose open and closed are often set roughly.
NEAR_GRIPPER, FAR_GRIPPER = 0.5, 10.0
APART_SHARE = 0.25  # commands further than this from the joint belong to something else
# Share of the positions: if more of them jump back and forth, there are two publishers.
SWINGS = 0.2
SWING_NS = 500_000_000  # commands that follow each other later than this may differ by any distance
TOO_FAST = 2.0  # a step above this multiple of the velocity limit is no motion
# Commands are in another order if another order is nearer to the joints by this factor, and on
# average by this share of a joint's range.
NEARER, NEARER_SHARE = 4.0, 0.03
OPPOSITE = -0.8  # correlation of a gripper's commands with its position
FULL_SCALE = 101.0  # of values from -100 to 100, with rounding
_DEGREES = 180.0 / np.pi


def check_one_source(reader: EpisodeReader, stream: Stream) -> None:
    """Check that each joint is on one topic of the bag only, and once in a message.

    Raises:
        BagError: a joint is not.
    """
    if not isinstance(stream.messages, JointMessages):
        return
    twice = stream.messages.repeated()
    if twice and twice in reader.contract.command_joints:
        everywhere = {
            reader.channel(number).topic for number in np.unique(stream.channels).tolist()
        }
        raise BagError(
            f"{reader.path}: {', '.join(sorted(everywhere))}: joint {twice} is named twice in one"
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
                f"{reader.path}: joint {name} is ambiguous, it is on {' and on '.join(topics)}; map"
                " only one of these topics in bags.topics, or rename the joints of the other robot"
                " in bags.joints"
            )


def check_all_joints(reader: EpisodeReader, stream: Stream) -> None:
    """Check that the joint states of a recording hold a position of every joint.

    Raises:
        BagError: a joint has none.
    """
    if not len(stream.stamps):
        return
    names = reader.contract.command_joints
    missing = [name for name in names if not len(stream.joint_messages.column(name)[0])]
    if not missing:
        return
    topic = reader.recorded_name(absolute(reader.contract.topics.joint_states))
    named = stream.joint_messages.names()
    if named >= set(missing):
        problem = "named, but no message holds its position; correct the driver"
    else:
        found = ", ".join(sorted(named)[:12]) or "no names"
        problem = f"never named in the messages ({found}); map the names in bags.joints"
    raise BagError(f"{reader.path}: {topic}: joint {', '.join(missing)} is {problem}")


def check_joints(reader: EpisodeReader, joints: JointStream, topic: str, start: int) -> list[str]:
    """Return sentences about positions a little outside of the limits of the contract.

    Args:
        topic: name in the bag, for the sentences.
        start: first image of the recording [ns].

    Raises:
        BagError: a position is not finite, two publishers use one name, or a position is so far
            outside that it must be in another unit.
    """
    contract = reader.contract
    for name, knots in zip(contract.command_joints, joints.knots, strict=True):
        wrong = np.flatnonzero(~np.isfinite(knots.values))
        if len(wrong):
            at = (int(knots.stamps[wrong[0]]) - start) * 1e-9
            raise BagError(
                f"{reader.path}: {topic}: {name} is {knots.values[wrong[0]]} at {at:.2f} s"
                f" ({len(wrong)} of {len(knots.values)} positions are not finite); correct its"
                " publisher, trim the episode, or leave it out"
            )
    notes = _check_one_publisher(reader, joints, topic, start)
    lows = [float(knots.values.min()) for knots in joints.knots]
    highs = [float(knots.values.max()) for knots in joints.knots]
    return notes + _check_ranges(reader, contract, lows, highs, topic)


def _check_one_publisher(
    reader: EpisodeReader, joints: JointStream, topic: str, start: int
) -> list[str]:
    """Check that no joint jumps back and forth between two positions, as the states of two arms on
    one topic do.

    Returns:
        Sentences about joints that do so rarely, faster than they can move.

    Raises:
        BagError: a joint does so in many messages.
    """
    limits, notes = JointLimits.of(reader.contract), []
    for name, knots, width, velocity in zip(
        limits.names, joints.knots, limits.upper - limits.lower, limits.velocity, strict=True
    ):
        steps, gaps = np.diff(knots.values), np.diff(knots.stamps)
        far = (np.abs(steps) > NEAR_SHARE * width) & (gaps < SWING_NS)
        signs = np.sign(steps)
        swings = far[1:] & far[:-1] & (signs[1:] * signs[:-1] < 0)
        fast = np.abs(steps) > TOO_FAST * velocity * gaps * 1e-9
        leaps = np.flatnonzero(swings & fast[1:] & fast[:-1])
        if len(swings) >= 8 and swings.mean() > SWINGS:
            values = knots.values[int(np.flatnonzero(swings)[0]) :][:2]
            raise BagError(
                f"{reader.path}: {topic}: {name} jumps between {values[0]:.3g} and"
                f" {values[1]:.3g} in {swings.mean():.0%} of the messages: two publishers use this"
                " name; stop one of them, or give its joints other names"
            )
        if len(leaps):
            at = (int(knots.stamps[leaps[0] + 1]) - start) * 1e-9
            notes.append(
                f"{topic}: {name} jumps away and back {len(leaps)} times, the first time at"
                f" {at:.2f} s: another publisher uses this name, or the sensor is faulty; stop or"
                " repair it"
            )
    return notes


def check_commands_are_near(
    reader: EpisodeReader, commanded: np.ndarray, measured: np.ndarray, topic: str
) -> None:
    """Check that commands are absolute positions of these joints.

    Args:
        commanded, measured: (N, J) at the same times [rad, m].
        topic: of the commands in the bag, for the sentence.

    Raises:
        BagError: the median distance from command to measured position is too large for a joint,
            the commands fit other joints much better, or a gripper moves opposite to them.
    """
    known = np.isfinite(commanded).all(axis=1) & np.isfinite(measured).all(axis=1)
    if known.sum() < 8:
        return
    commanded, measured = commanded[known], measured[known]
    away = np.median(np.abs(commanded - measured), axis=0)
    share = away / _ranges(reader.contract)
    # A gripper that holds an object stays far from its command.
    share[JointLimits.of(reader.contract).is_gripper] = 0.0
    worst = int(np.argmax(share))
    if share[worst] > APART_SHARE:
        raise BagError(
            f"{reader.path}: {topic}: commands of {reader.contract.command_joints[worst]} are"
            f" {away[worst]:.3g} from its position (median), so they are relative, of another arm,"
            " or in another order; map a topic with absolute joint positions"
        )
    _check_order(reader, commanded, measured, topic)
    _check_grippers(reader, commanded, measured, topic)


def _check_order(
    reader: EpisodeReader, commanded: np.ndarray, measured: np.ndarray, topic: str
) -> None:
    """Raise BagError if each arm joint follows the commands of another one much more closely."""
    limits = JointLimits.of(reader.contract)
    arm = np.flatnonzero(~limits.is_gripper)
    # apart[j, k]: median distance from joint j to the commands of joint k, as a share of the range.
    apart = np.array(
        [
            np.median(np.abs(commanded[:, arm] - measured[:, [joint]]), axis=0)
            / (limits.upper - limits.lower)[joint]
            for joint in arm
        ]
    )
    nearest = apart.argmin(axis=1)
    moved = np.flatnonzero(nearest != np.arange(len(arm)))
    if not len(moved) or len(set(nearest.tolist())) < len(arm):
        return
    now, best = apart[moved, moved].mean(), apart[moved, nearest[moved]].mean()
    if now > NEARER * best and now - best > NEARER_SHARE:
        names = [limits.names[joint] for joint in arm]
        raise BagError(
            f"{reader.path}: {topic}: the commands are in another order than the joints:"
            f" {names[moved[0]]} follows those of {names[nearest[moved[0]]]}; correct the names in"
            " bags.joints or bags.columns"
        )


def _check_grippers(
    reader: EpisodeReader, commanded: np.ndarray, measured: np.ndarray, topic: str
) -> None:
    """Raise BagError if a gripper opens where its commands close it."""
    limits = JointLimits.of(reader.contract)
    widths = 0.2 * (limits.upper - limits.lower)
    for joint in np.flatnonzero(limits.is_gripper).tolist():
        pair = np.stack([commanded[:, joint], measured[:, joint]])
        if (np.ptp(pair, axis=1) > widths[joint]).all() and np.corrcoef(pair)[0, 1] < OPPOSITE:
            raise BagError(
                f"{reader.path}: {topic}: {limits.names[joint]} opens where its commands close it;"
                f" add to the contract bags.gripper: {{{topic}: [CLOSED, OPEN]}}"
            )


def _ranges(contract: Contract) -> np.ndarray:
    """Return the range (J,) between the limits of every command joint [rad, m]."""
    limits = JointLimits.of(contract)
    return limits.upper - limits.lower


def _check_ranges(
    reader: EpisodeReader,
    contract: Contract,
    lows: Sequence[float],
    highs: Sequence[float],
    topic: str,
) -> list[str]:
    """Return sentences about joints whose ``lows`` or ``highs`` are beyond their limits.

    Raises:
        BagError: a joint is so far beyond that its unit must be another one.
    """
    bounds = JointLimits.of(contract)
    limits = zip(
        contract.command_joints,
        bounds.lower.tolist(),
        bounds.upper.tolist(),
        contract.columns.commands.units,
        bounds.is_gripper.tolist(),
        strict=True,
    )
    notes, worst, share = [], "", 0.0
    for (name, lower, upper, unit, is_gripper), low, high in zip(limits, lows, highs, strict=True):
        near, far = (NEAR_GRIPPER, FAR_GRIPPER) if is_gripper else (NEAR_SHARE, FAR_SHARE)
        beyond = max(lower - low, high - upper) / (upper - lower)
        value = low if lower - low > high - upper else high
        text = f"{name} reaches {value:.4g}, the contract allows {lower:g} to {upper:g} {unit}"
        if beyond > far and beyond / far > share:
            worst, share = text, beyond / far
        elif beyond > near and is_gripper:
            notes.append(
                f"{topic}: {text}, so every opening beyond is learned as open or closed; "
                + _gripper_cure(reader, topic)
            )
        elif beyond > near:
            notes.append(f"{topic}: {text}; correct units, zero position or the contract's limits")
    if not worst:
        return notes
    raise BagError(f"{reader.path}: {topic}: {worst}: {_probable_unit(reader, topic, lows, highs)}")


def _probable_unit(
    reader: EpisodeReader, topic: str, lows: Sequence[float], highs: Sequence[float]
) -> str:
    """Return the probable unit of the positions, and the cure."""
    contract = reader.contract
    limits = JointLimits.of(contract)
    joints = contract.columns.commands.indices(ColumnKind.JOINT)
    angles = [joint for joint in joints if contract.columns.commands[joint].unit == "rad"]
    arm_is_right = all(
        limits.lower[joint] <= lows[joint] and highs[joint] <= limits.upper[joint]
        for joint in joints
    )
    if (
        not arm_is_right
        and angles
        and all(
            limits.lower[joint] - 0.1 <= lows[joint] / _DEGREES
            and highs[joint] / _DEGREES <= limits.upper[joint] + 0.1
            for joint in angles
        )
    ):
        largest = max(abs(value) for joint in joints for value in (lows[joint], highs[joint]))
        other = " or values from -100 to 100" if largest <= FULL_SCALE else ""
        cure = (
            f"{'for degrees ' if other else ''}add to the contract bags.units:"
            f" {{{topic}: degrees}}{', else publish radians (REP 103)' if other else ''}"
            if reader.foreign
            else "publish radians (REP 103), and record again"
        )
        return f"this looks like degrees{other}; {cure}"
    if arm_is_right:
        cure = _gripper_cure(reader, topic)
        return f"this looks like millimetres, percent or another unit; {cure}"
    return (
        "this looks like another unit, another robot or another order of joints; correct it in the"
        " driver or the contract"
    )


def _gripper_cure(reader: EpisodeReader, topic: str) -> str:
    """Return how to correct the open and closed values of a gripper, as a clause."""
    if reader.foreign:
        return f"add to the contract bags.gripper: {{{topic}: [CLOSED, OPEN]}}"
    return "correct it in the driver, or open and closed in the contract's gripper section"
