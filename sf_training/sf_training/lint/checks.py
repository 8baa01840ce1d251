"""Judge the measures of one episode: findings with a level, a sentence and a cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sf_training.lint.measure import EpisodeMeasure
from sf_training.lint.thresholds import Thresholds, Verdict
from sf_training.recording.topics import absolute

WARN, FAIL = Verdict.WARN, Verdict.FAIL


@dataclass(frozen=True)
class Finding:
    """One problem. Findings of the same check, subject and level share a line of the report.

    Attributes:
        check: name of the check.
        subject: stream, camera or joint; may be empty.
        episodes: names of the episodes; empty for a finding about the data set.
        weight: orders the findings of one line, the worst first.
    """

    check: str
    subject: str
    level: Verdict
    text: str
    cure: str
    episodes: tuple[str, ...] = ()
    weight: float = 0.0


def check_episode(measure: EpisodeMeasure, limits: Thresholds) -> list[Finding]:
    """Return the findings about one episode by itself."""
    if measure.broken:
        text, _, cure = measure.broken.rpartition("; ")
        return [
            Finding(
                "unreadable",
                "",
                FAIL,
                text or cure,
                cure if text else "check the file",
                (measure.name,),
            )
        ]
    return [finding for check in _CHECKS for finding in check(measure, limits)]


def _found(
    measure: EpisodeMeasure,
    check: str,
    subject: str,
    level: Verdict,
    weight: float,
    text: str,
    cure: str,
) -> Finding:
    return Finding(check, subject, level, text, cure, (measure.name,), weight)


def _graded(value: float, warn: float, fail: float) -> Verdict:
    return FAIL if value > fail else WARN if value > warn else Verdict.PASS


def _rate(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    policy_hz = 1.0 / measure.robot.action.step_s
    for stream in measure.streams:
        if not stream.expected_hz or stream.count < 2:
            continue
        if stream.hz < limits.rate_fail * policy_hz:
            text = f"{stream.hz:.1f} Hz, the policy steps at {policy_hz:g} Hz"
            yield _found(
                measure,
                "rate",
                stream.name,
                FAIL,
                -stream.hz,
                text,
                "raise the camera's rate, or action.step_s",
            )
        elif stream.hz < limits.rate_warn * stream.expected_hz:
            text = f"{stream.hz:.1f} Hz, the contract says {stream.expected_hz:g} Hz"
            cure = (
                "check exposure time, USB bandwidth and the driver's rate, or correct rate_hz in"
                " the contract"
            )
            yield _found(measure, "rate", stream.name, WARN, -stream.hz, text, cure)


def _gaps(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    for stream in measure.streams:
        # Releasing the dead-man switch makes gaps in the operator's commands.
        if stream.name.startswith("operator") or not stream.period_s:
            continue
        level = _graded(
            stream.longest_gap_s,
            limits.gap_warn * stream.period_s,
            max(limits.gap_fail_s, limits.gap_warn * stream.period_s),
        )
        if level:
            text = (
                f"no message for {stream.longest_gap_s:.2f} s at {stream.gap_at_s:.2f} s, its"
                f" period is {stream.period_s * 1e3:.0f} ms"
            )
            yield _found(
                measure,
                "gap",
                stream.name,
                level,
                stream.longest_gap_s,
                text,
                "check cable and bandwidth; record again if it matters",
            )


def _stamps(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    for stream in measure.streams:
        wrong = stream.repeated + stream.backwards
        if wrong:
            share = wrong / stream.count
            text = (
                f"{stream.repeated} stamps repeat and {stream.backwards} go back, of {stream.count}"
            )
            yield _found(
                measure,
                "stamps",
                stream.name,
                _graded(share, 0, limits.stamps_fail),
                share,
                text,
                "let the driver stamp at capture, with one clock",
            )


def _age(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    budgets = measure.robot.budgets
    for stream in measure.streams:
        budget = (
            budgets.joint_state_age_s
            if stream.name == "joint states"
            else budgets.observation_age_s
        )
        if stream.age_p99_s > budget:
            text = (
                f"1 % of messages arrive more than {stream.age_p99_s:.2f} s after their stamp, the"
                f" live policy refuses after {budget} s"
            )
            yield _found(
                measure,
                "age",
                stream.name,
                WARN,
                stream.age_p99_s,
                text,
                "check the network, the load, and the clocks of all machines",
            )
        if stream.age_least_s < -limits.future_s:
            text = f"stamps are up to {-stream.age_least_s:.2f} s in the future"
            yield _found(
                measure,
                "clock",
                stream.name,
                WARN,
                -stream.age_least_s,
                text,
                "synchronise the clocks of all machines (chrony, PTP)",
            )


def _skew(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    level = _graded(measure.skew_beyond, limits.skew_warn, limits.skew_fail)
    if level:
        budget = measure.robot.budgets.camera_skew_s
        text = (
            f"{measure.skew_beyond:.0%} of images are further apart than {budget} s (99 %:"
            f" {measure.skew_p99_s:.3f} s)"
        )
        yield _found(
            measure,
            "skew",
            "cameras",
            level,
            measure.skew_beyond,
            text,
            "trigger the cameras together, or bring their rates together",
        )


def _unusable(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    if measure.problem:
        yield _found(
            measure,
            "observations",
            "",
            FAIL,
            1.0,
            measure.problem,
            "check stamps, names and budgets",
        )
        return
    share = max(0.0, 1.0 - measure.usable / measure.steps)
    level = _graded(share, limits.unusable_warn, limits.unusable_fail)
    if level:
        text = (
            f"{measure.steps - measure.usable} of {measure.steps} policy steps have no usable"
            " observation"
        )
        yield _found(
            measure,
            "observations",
            "",
            level,
            share,
            text,
            "check gaps, skew and the contract's budgets: the live policy would refuse them too",
        )


def _lost(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    counts = {stream.topic: stream.count for stream in measure.streams}
    for topic, lost in measure.lost.items():
        share = lost / max(lost + counts.get(topic, 0), 1)
        text = f"{lost} messages lost while recording ({share:.1%})"
        yield _found(
            measure,
            "lost",
            topic,
            _graded(share, 0, limits.drops_fail),
            share,
            text,
            "record to a faster disk, or fewer pixels",
        )


def _labels(measure: EpisodeMeasure, _: Thresholds) -> Iterator[Finding]:
    topics = measure.robot.topics
    if not measure.labels:
        text = (
            f"no actions: no message on {absolute(topics.teleop_command)} or"
            f" {absolute(topics.expert_chunk)}"
        )
        yield _found(measure, "labels", "", FAIL, 1, text, "record the operator's commands")
    if not measure.instruction.strip():
        yield _found(
            measure,
            "instruction",
            "",
            FAIL,
            1,
            "has no instruction",
            "relabel it: service /recorder/label_episode, or set the instruction before recording",
        )


def _joints(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    motion, contract = measure.motion, measure.robot
    if motion is None:
        return
    if motion.not_finite:
        yield _found(
            measure,
            "joints",
            "",
            FAIL,
            motion.not_finite,
            f"{motion.not_finite} joint states hold NaN or Inf",
            "check the driver",
        )
    if motion.jumps:
        share = motion.jumps / motion.samples
        cure = (
            "check the encoder and the stamps of joint_states; correct the velocity limit where it"
            " is too low"
        )
        yield _found(
            measure,
            "jump",
            "joints",
            _graded(share, 0, limits.jump_fail),
            motion.jumps,
            f"{motion.jumps} jumps, the worst: {motion.jump_text}",
            cure,
        )
    for name, low, high, commanded in zip(
        motion.names, motion.lower, motion.upper, motion.commanded, strict=True
    ):
        if high - low < limits.dead_range and commanded > limits.commanded_range:
            text = f"was commanded over a range of {commanded:.3f} but never moved"
            yield _found(
                measure,
                "dead joint",
                name,
                FAIL,
                commanded,
                text,
                "check the joint's driver and its name in joint_states",
            )
    joints = {joint.name: joint for arm in contract.arms.values() for joint in arm.joints}
    for name, low, high in zip(motion.names, motion.lower, motion.upper, strict=True):
        if (joint := joints.get(name)) is None:  # of a gripper
            continue
        margin = limits.limit_margin * (joint.upper - joint.lower)
        beyond = max(joint.lower - low, high - joint.upper)
        if beyond > margin:
            text = (
                f"reaches {low:.3f} to {high:.3f} {joint.unit}, the contract allows {joint.lower:g}"
                f" to {joint.upper:g}"
            )
            yield _found(
                measure,
                "limits",
                joint.name,
                WARN,
                beyond,
                text,
                "correct units, zero position or the contract's limits",
            )


def _images(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    for images in measure.images:
        broken = np.flatnonzero(~images.readable)
        if len(broken):
            share = len(broken) / len(images.readable)
            text = (
                f"{len(broken)} of {len(images.readable)} images cannot be decoded, the first at"
                f" {images.times[broken[0]]:.2f} s"
            )
            cure = "check the camera's driver; training leaves these frames out"
            yield _found(
                measure,
                "broken image",
                images.name,
                _graded(share, 0, limits.broken_fail),
                share,
                text,
                cure,
            )
        wrong = np.flatnonzero(~images.fits)
        if len(wrong):
            size = "x".join(map(str, images.sizes[wrong[0]].tolist()))
            wanted = "x".join(map(str, images.wanted))
            at = images.times[wrong[0]]
            text = (
                f"{len(wrong)} of {len(images.fits)} images are {size}, the first at {at:.2f} s;"
                f" the contract says {wanted}"
            )
            cure = (
                "set the driver to one size; correct width and height in the contract, or record"
                " again"
            )
            yield _found(
                measure, "image size", images.name, FAIL, len(wrong) / len(images.fits), text, cure
            )


def _training(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    """Report the faults for which training leaves the episode out, and its notes."""
    for level, check, sentences in (
        (FAIL, "refused by training", measure.faults),
        (WARN, "odd", measure.notes),
    ):
        for sentence in sentences:
            text, _, cure = sentence.rpartition("; ")
            cure = cure if text else "correct it, or leave it out"
            yield _found(measure, check, sentence.split(":")[0], level, 1, text or sentence, cure)


def _gripper(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    if measure.motion is None or not len(measure.motion.opening):
        return
    opening = measure.motion.opening
    low, high = float(opening.min()), float(opening.max())
    if low < -limits.gripper_margin or high > 1 + limits.gripper_margin:
        text = f"opening from {low:.2f} to {high:.2f}, should lie in 0 to 1"
        yield _found(
            measure,
            "gripper",
            "range",
            WARN,
            max(-low, high - 1),
            text,
            "correct open and closed in the contract's gripper section",
        )


def _idle(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    motion = measure.motion
    if motion is None:
        return
    level = _graded(motion.idle_share, limits.idle_warn, limits.idle_fail)
    if level:
        where = f"{motion.idle_start_s:.1f} s at the start, {motion.idle_end_s:.1f} s at the end"
        text = f"nothing moves in {motion.idle_share:.0%} of its steps ({where})"
        yield _found(
            measure,
            "idle",
            "",
            level,
            motion.idle_share,
            text,
            "start and stop recording closer to the motion; train with the idle filter on",
        )


def _cameras(measure: EpisodeMeasure, limits: Thresholds) -> Iterator[Finding]:
    for camera in measure.cameras:
        for word, wrong in (
            ("black", camera.brightness < limits.black_level),
            ("overexposed", camera.brightness > limits.white_level),
        ):
            share = float(np.mean(wrong))
            level = _graded(share, 0, limits.exposure_fail)
            if level:
                at = camera.times[int(np.argmax(wrong))]
                text = f"{share:.0%} of {len(wrong)} frames are {word}, the first at {at:.2f} s"
                yield _found(
                    measure,
                    word,
                    f"{camera.name} camera",
                    level,
                    share,
                    text,
                    "check lens cap, light and exposure time",
                )
        level = _graded(camera.frozen, limits.frozen_warn, limits.frozen_fail)
        if level:
            text = f"{camera.frozen:.0%} of frames equal the previous one although the arm moved"
            yield _found(
                measure,
                "frozen",
                f"{camera.name} camera",
                level,
                camera.frozen,
                text,
                "the driver repeats frames: check cable and driver",
            )


def _recorder(measure: EpisodeMeasure, _: Thresholds) -> Iterator[Finding]:
    level = {"WARN": WARN, "FAIL": FAIL}.get(measure.recorder_verdict.upper())
    if level:
        text = f"the recorder's verdict is {measure.recorder_verdict}: {measure.recorder_reasons}"
        yield _found(measure, "recorder", "", level, 1, text, "follow the cures in its reasons")


_CHECKS: tuple[Callable[[EpisodeMeasure, Thresholds], Iterator[Finding]], ...] = (
    _labels,
    _rate,
    _gaps,
    _stamps,
    _age,
    _skew,
    _unusable,
    _lost,
    _recorder,
    _joints,
    _gripper,
    _idle,
    _images,
    _training,
    _cameras,
)
