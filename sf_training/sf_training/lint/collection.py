"""Check all episodes together: balance, duplicates, outliers, joints that never move."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sf_training.lint.checks import Finding, check_episode
from sf_training.lint.measure import EpisodeMeasure
from sf_training.lint.thresholds import Thresholds, Verdict

WARN, FAIL = Verdict.WARN, Verdict.FAIL
_EPISODES_MIN = 8  # with fewer, none can be called an outlier
_JERK_SPREAD = 0.2  # least standard deviation of log(jerk): operators differ by this much
_RESAMPLED = 24  # points of a motion when episodes are compared


@dataclass(frozen=True)
class Lint:
    """The result of lint.

    Attributes:
        measures: of all episodes.
        findings: the worst first.
        verdicts: episode name to verdict.
    """

    measures: list[EpisodeMeasure]
    findings: list[Finding]
    verdicts: dict[str, Verdict]

    @property
    def verdict(self) -> Verdict:
        """Verdict on the data set."""
        return max((finding.level for finding in self.findings), default=Verdict.PASS)

    def grouped(self) -> list[list[Finding]]:
        """Return the findings grouped by level, check and subject; groups, and the findings in
        each, the worst first.
        """
        groups: dict[tuple, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.level, finding.check, finding.subject].append(finding)
        ordered = sorted(
            groups.items(), key=lambda entry: (-entry[0][0], -len(entry[1]), entry[0][1:])
        )
        return [sorted(group, key=lambda finding: -finding.weight) for _, group in ordered]


def judge(measures: Sequence[EpisodeMeasure], limits: Thresholds) -> Lint:
    """Check every episode by itself, and all of them together. Discarded episodes are measured but
    not judged.
    """
    judged = [measure for measure in measures if measure.outcome != "discarded"]
    findings = [finding for measure in judged for finding in check_episode(measure, limits)]
    readable = [measure for measure in judged if not measure.broken]
    findings = _merge_slow_cameras(findings, len(readable))
    for check in (
        _outcomes,
        _contracts,
        _duplicates,
        _instructions,
        _never_moves,
        _gripper,
        _durations,
        _outliers,
        _end_poses,
        _jerks,
        _blurred,
    ):
        findings += check(readable, limits)
    verdicts = dict.fromkeys((measure.name for measure in measures), Verdict.PASS)
    for finding in findings:
        for name in finding.episodes:
            verdicts[name] = max(verdicts[name], finding.level)
    return Lint(
        list(measures),
        sorted(findings, key=lambda finding: (-finding.level, -finding.weight)),
        verdicts,
    )


def _merge_slow_cameras(findings: list[Finding], episodes: int) -> list[Finding]:
    """Merge the warnings about a camera that is slow in at least 95 % of the episodes into one
    finding about the data set.
    """
    merged, slow = [], defaultdict(list)
    for finding in findings:
        if finding.check == "rate" and finding.level == WARN:
            slow[finding.subject].append(finding)
        else:
            merged.append(finding)
    for subject, group in slow.items():
        if len(group) < 0.95 * episodes or episodes < 2:
            merged += group
            continue
        worst = max(group, key=lambda finding: finding.weight)
        merged.append(
            Finding(
                "rate",
                subject,
                WARN,
                f"{worst.text}, in {len(group)} of {episodes} episodes",
                worst.cure,
            )
        )
    return merged


def _outcomes(measures: list[EpisodeMeasure], _: Thresholds) -> Iterator[Finding]:
    if not any(measure.outcome == "success" for measure in measures):
        yield Finding(
            "outcomes", "", FAIL, "no episode has the outcome success", "record some, or label them"
        )


def _contracts(measures: list[EpisodeMeasure], _: Thresholds) -> Iterator[Finding]:
    hashes = Counter(measure.robot.hash for measure in measures)
    if len(hashes) < 2:
        return
    most = next(
        measure.robot for measure in measures if measure.robot.hash == hashes.most_common(1)[0][0]
    )
    for measure in measures:
        if not most.fits(measure.robot):
            text = f"another contract than most: {'; '.join(most.difference(measure.robot)[:3])}"
            yield Finding(
                "contract",
                "",
                FAIL,
                text,
                "train on one robot's episodes: move the others to another folder",
                (measure.name,),
            )


def _duplicates(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    moving = [
        measure
        for measure in measures
        if measure.motion is not None and len(measure.cameras) == len(measure.robot.cameras)
    ]
    groups: dict[tuple, list[EpisodeMeasure]] = defaultdict(list)
    for measure in moving:  # only episodes of the same contract and length can be duplicates
        groups[measure.robot.hash, measure.usable].append(measure)
    for group in groups.values():
        paths = np.stack([_resampled(measure) for measure in group])
        views = np.stack(
            [np.stack([camera.first for camera in measure.cameras]) for measure in group]
        ).astype(np.int16)
        for index in range(1, len(group)):
            near = np.flatnonzero(
                np.abs(paths[:index] - paths[index]).max(axis=(1, 2)) <= limits.duplicate_joints
            )
            if not len(near):
                continue
            same = near[
                np.abs(views[near] - views[index]).mean(axis=(1, 2, 3)) <= limits.duplicate_pixels
            ]
            if len(same):
                text = (
                    f"the same as {group[same[0]].name}: its joints differ by less than"
                    f" {limits.duplicate_joints:g} throughout"
                )
                yield Finding(
                    "duplicate",
                    "",
                    FAIL,
                    text,
                    "remove one: it would be trained on twice, or be in training and validation",
                    (group[index].name,),
                )


def _resampled(measure: EpisodeMeasure) -> np.ndarray:
    """Return the joints (24, J) at evenly spaced times."""
    motion = measure.joints
    times = np.linspace(motion.times[0], motion.times[-1], _RESAMPLED)
    return np.stack(
        [np.interp(times, motion.times, column) for column in motion.positions.T], axis=1
    )


def _instructions(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    counts = Counter(
        text
        for measure in measures
        if measure.outcome == "success"
        for text in measure.instructions
        if text.strip()
    )
    if len(counts) > 1:
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        if few < limits.balance_warn * many:
            text = f'"{least}" has {few} of {sum(counts.values())} episodes, "{most}" has {many}'
            yield Finding(
                "balance",
                "instructions",
                WARN,
                text,
                "record more of the rare ones, or the policy will prefer the frequent one",
            )
    spellings: dict[str, set[str]] = defaultdict(set)
    for text in counts:
        spellings["".join(letter for letter in text.casefold() if letter.isalnum())].add(text)
    for texts in spellings.values():
        if len(texts) > 1:
            quoted = " and ".join(f'"{text}"' for text in sorted(texts))
            yield Finding(
                "spelling",
                "instructions",
                WARN,
                f"{quoted} differ only in case, spaces or punctuation",
                "relabel one of them",
            )


def _never_moves(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    motions = [measure.motion for measure in measures if measure.motion is not None]
    if not motions or len({tuple(motion.names) for motion in motions}) > 1:
        return
    span = np.max([motion.upper for motion in motions], axis=0) - np.min(
        [motion.lower for motion in motions], axis=0
    )
    for name, width in zip(motions[0].names, span, strict=True):
        if width < limits.dead_range:
            text = f"spans {width:.1g} over all {len(motions)} episodes: it never moves"
            yield Finding(
                "dead joint",
                name,
                WARN,
                text,
                "check the joint; a model cannot learn it, and its normalisation uses a floor",
            )


def _gripper(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    openings = [
        measure.joints.opening
        for measure in measures
        if measure.motion is not None and len(measure.joints.opening)
    ]
    if not openings:
        return
    values = np.concatenate(openings)
    for word, share in (
        ("open", float(np.mean(values > 0.9))),
        ("closed", float(np.mean(values < 0.1))),
    ):
        if share > limits.gripper_share:
            text = f"{word} in {share:.1%} of all steps: the model will learn a constant"
            yield Finding(
                "gripper",
                "saturated",
                WARN,
                text,
                "check the gripper's stream and its open and closed values; record episodes that"
                " use it",
            )


def _robust_z(values: np.ndarray, least: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust z-scores of (E, ...) values over E episodes, and their median (...).

    z = (x - m) / max(1.4826 MAD, least), with median m and MAD = median |x - m|. For a normal
    distribution 1.4826 MAD estimates the standard deviation. Source: Iglewicz and Hoaglin, "How to
    Detect and Handle Outliers" (1993).

    Args:
        least: smallest standard deviation assumed, so that nearly equal values are no outliers.
    """
    median = np.median(values, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(values - median), axis=0), least)
    return (values - median) / spread, median


def _durations(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    if len(measures) < _EPISODES_MIN:
        return
    # Durations within 5 % count as equal.
    scores, median = _robust_z(np.log([max(each.duration_s, 1e-3) for each in measures]), 0.05)
    for measure, score in zip(measures, np.abs(scores).tolist(), strict=True):
        if score > limits.duration_z:
            text = f"lasts {measure.duration_s:.1f} s, the median is {np.exp(median):.1f} s"
            yield Finding(
                "duration",
                "",
                WARN,
                text,
                "check it with `view`: it may be truncated, or contain a pause",
                (measure.name,),
                score,
            )


def _end_poses(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    """Find successes that end far from the other successes of their instruction: probably they are
    failures.
    """
    groups: dict[tuple, list[EpisodeMeasure]] = defaultdict(list)
    for measure in measures:
        if measure.motion is not None and measure.outcome == "success":
            groups[measure.instruction, tuple(measure.joints.names)].append(measure)
    for (_, names), group in groups.items():
        if len(group) < _EPISODES_MIN:
            continue
        scores, median = _robust_z(
            np.stack([measure.joints.end for measure in group]), limits.commanded_range
        )
        for measure, row in zip(group, np.abs(scores), strict=True):
            for name, score, value, usual in zip(
                names, row.tolist(), measure.joints.end, median, strict=True
            ):
                if score > limits.end_pose_z:
                    text = (
                        f"ends at {value:.3f}, successes of this instruction usually at {usual:.3f}"
                    )
                    cure = "check its end with `view`: it may be a failure, or truncated"
                    yield Finding("end pose", name, WARN, text, cure, (measure.name,), score)


def _jerks(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    moving = [
        measure for measure in measures if measure.motion is not None and measure.joints.jerk > 0
    ]  # NaN: too short
    if len(moving) < _EPISODES_MIN:
        return
    scores, median = _robust_z(np.log([measure.joints.jerk for measure in moving]), _JERK_SPREAD)
    for measure, score in zip(moving, scores.tolist(), strict=True):
        if score > limits.jerk_z:
            text = f"{measure.joints.jerk / np.exp(median):.1f} times the median jerk"
            cure = "check for a shaking arm, a loose leader arm or dropped commands"
            yield Finding("jerk", "", WARN, text, cure, (measure.name,), score)


def _outliers(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    moving = [measure for measure in measures if measure.motion is not None]
    if len(moving) < _EPISODES_MIN or len({tuple(measure.joints.names) for measure in moving}) > 1:
        return
    lowest, highest = (
        np.array([getattr(measure.joints, end) for measure in moving]) for end in ("lower", "upper")
    )
    fence_low, fence_high = _fence(-lowest, limits), _fence(highest, limits)
    for measure, low, high in zip(moving, lowest, highest, strict=True):
        for name, value, beyond, usual in (
            *zip(
                measure.joints.names,
                low,
                -low - fence_low,
                -np.median(-lowest, axis=0),
                strict=True,
            ),
            *zip(
                measure.joints.names,
                high,
                high - fence_high,
                np.median(highest, axis=0),
                strict=True,
            ),
        ):
            if beyond > 0:
                text = f"reaches {value:.3f}, episodes usually {usual:.3f}"
                yield Finding(
                    "outlier",
                    name,
                    WARN,
                    text,
                    "check it with `view`: it may be a glitch, or a motion of its own",
                    (measure.name,),
                    beyond,
                )


def _fence(extremes: np.ndarray, limits: Thresholds) -> np.ndarray:
    """Return the upper outlier fence (J,) of the furthest positions ``extremes`` (E, J).

    Q3 + k max(Q3 - Q1, least range), with quartiles Q1, Q3 and k = ``limits.outlier_spread``.
    Source: Tukey, "Exploratory Data Analysis" (1977).
    """
    lower, upper = np.quantile(extremes, [0.25, 0.75], axis=0)
    return upper + limits.outlier_spread * np.maximum(upper - lower, limits.commanded_range)


def _blurred(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    cameras: dict[str, list[np.ndarray]] = defaultdict(list)
    for measure in measures:
        for camera in measure.cameras:
            cameras[camera.name].append(camera.sharpness)
    usual = {name: float(np.median(np.concatenate(values))) for name, values in cameras.items()}
    for measure in measures:
        for camera in measure.cameras:
            share = float(np.mean(camera.sharpness < limits.blur_ratio * usual[camera.name]))
            if share > limits.blur_warn:
                text = (
                    f"{share:.0%} of frames have less than {limits.blur_ratio:.0%} of the median"
                    " sharpness of this camera"
                )
                yield Finding(
                    "blurred",
                    f"{camera.name} camera",
                    WARN,
                    text,
                    "clean the lens; check focus and exposure time",
                    (measure.name,),
                    share,
                )
