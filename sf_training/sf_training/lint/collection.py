"""What is only seen when all episodes lie side by side: balance, duplicates, outliers, what never
moves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sf_training.lint.checks import Finding, check_episode
from sf_training.lint.measure import EpisodeMeasure
from sf_training.lint.thresholds import Thresholds, Verdict

WARN, FAIL = Verdict.WARN, Verdict.FAIL
_ENOUGH = 8  # episodes; of fewer none can be called unusual
_JERK_SPREAD = 0.2  # of the logarithm: people differ by this much at least
_RESAMPLED = 24  # points of a trajectory when episodes are compared


@dataclass(frozen=True)
class Lint:
    """The result: all measures, all findings, the worst first, and each episode's verdict by its
    name.
    """

    measures: list[EpisodeMeasure]
    findings: list[Finding]
    verdicts: dict[str, Verdict]

    @property
    def verdict(self) -> Verdict:
        """Of the whole set."""
        return max((finding.level for finding in self.findings), default=Verdict.PASS)

    def grouped(self) -> list[list[Finding]]:
        """Findings that say the same of different episodes; in each group, and of groups, the worst
        first.
        """
        groups: dict[tuple, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.level, finding.check, finding.subject].append(finding)
        ordered = sorted(
            groups.items(), key=lambda entry: (-entry[0][0], -len(entry[1]), entry[0][1:])
        )
        return [sorted(group, key=lambda finding: -finding.weight) for _, group in ordered]


def judge(measures: Sequence[EpisodeMeasure], limits: Thresholds) -> Lint:
    """Check every episode, and all of them together. Discarded episodes are measured, but only what
    is trained on is judged.
    """
    judged = [measure for measure in measures if measure.outcome != "discarded"]
    findings = [finding for measure in judged for finding in check_episode(measure, limits)]
    whole = [measure for measure in judged if not measure.broken]
    findings = _shared_by_all(findings, len(whole))
    for check in (
        _nothing,
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
        findings += check(whole, limits)
    verdicts = dict.fromkeys((measure.name for measure in measures), Verdict.PASS)
    for finding in findings:
        for name in finding.episodes:
            verdicts[name] = max(verdicts[name], finding.level)
    return Lint(
        list(measures),
        sorted(findings, key=lambda finding: (-finding.level, -finding.weight)),
        verdicts,
    )


def _shared_by_all(findings: list[Finding], episodes: int) -> list[Finding]:
    """A camera that is slower than the contract says in (nearly) every episode is one fact about
    the set, not about each.
    """
    kept, slow = [], defaultdict(list)
    for finding in findings:
        (
            slow[finding.subject] if finding.check == "rate" and finding.level == WARN else kept
        ).append(finding)
    for subject, group in slow.items():
        if len(group) < 0.95 * episodes or episodes < 2:
            kept += group
            continue
        worst = max(group, key=lambda finding: finding.weight)
        kept.append(
            Finding(
                "rate",
                subject,
                WARN,
                f"{worst.text}, in {len(group)} of {episodes} episodes",
                worst.cure,
            )
        )
    return kept


def _nothing(measures: list[EpisodeMeasure], _: Thresholds) -> Iterator[Finding]:
    if not any(measure.outcome == "success" for measure in measures):
        yield Finding(
            "outcomes", "", FAIL, "no episode has the outcome success", "record some, or label them"
        )


def _contracts(measures: list[EpisodeMeasure], _: Thresholds) -> Iterator[Finding]:
    hashes = Counter(measure.contract.hash for measure in measures)
    if len(hashes) < 2:
        return
    most = next(
        measure.contract
        for measure in measures
        if measure.contract.hash == hashes.most_common(1)[0][0]
    )
    for measure in measures:
        if measure.contract.hash != most.hash:
            text = f"another contract than most: {'; '.join(most.difference(measure.contract)[:3])}"
            yield Finding(
                "contract",
                "",
                FAIL,
                text,
                "train on one robot's episodes: keep them in folders of their own",
                (measure.name,),
            )


def _duplicates(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    moving = [
        measure
        for measure in measures
        if measure.motion is not None and len(measure.cameras) == len(measure.contract.cameras)
    ]
    groups: dict[tuple, list[EpisodeMeasure]] = defaultdict(list)
    for measure in moving:  # only those of one length, robot and number of cameras can be equal
        groups[measure.contract.hash, measure.usable].append(measure)
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
                    "remove one: it would be trained on twice, or stand in training and validation",
                    (group[index].name,),
                )


def _resampled(measure: EpisodeMeasure) -> np.ndarray:
    """(24, J) joints at evenly spread times."""
    motion = measure.motion
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
            said = " and ".join(f'"{text}"' for text in sorted(texts))
            yield Finding(
                "spelling",
                "instructions",
                WARN,
                f"{said} differ in case, blanks or signs only",
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
                "check it; the model cannot learn it, its normalisation uses a floor",
            )


def _gripper(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    openings = [
        measure.motion.opening
        for measure in measures
        if measure.motion is not None and len(measure.motion.opening)
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
    """How far each of (E, …) values is from their median, in robust standard deviations of at least
    ``least``; and the median.
    """
    middle = np.median(values, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(values - middle), axis=0), least)
    return (values - middle) / spread, middle


def _durations(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    if len(measures) < _ENOUGH:
        return
    scores, middle = _robust_z(
        np.log([max(measure.duration_s, 1e-3) for measure in measures]), 0.05
    )  # 5 %: of one length is not strict
    for measure, score in zip(measures, np.abs(scores).tolist(), strict=True):
        if score > limits.duration_z:
            text = f"lasts {measure.duration_s:.1f} s, the middle one {np.exp(middle):.1f} s"
            yield Finding(
                "duration",
                "",
                WARN,
                text,
                "look at it: cut off, or a pause in it?",
                (measure.name,),
                score,
            )


def _end_poses(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    """Where a success ends tells whether it was one; episodes of another instruction may end
    elsewhere.
    """
    groups: dict[tuple, list[EpisodeMeasure]] = defaultdict(list)
    for measure in measures:
        if measure.motion is not None and measure.outcome == "success":
            groups[measure.instruction, tuple(measure.motion.names)].append(measure)
    for (_, names), group in groups.items():
        if len(group) < _ENOUGH:
            continue
        scores, middle = _robust_z(
            np.stack([measure.motion.end for measure in group]), limits.commanded_range
        )
        for measure, row in zip(group, np.abs(scores), strict=True):
            for name, score, value, usual in zip(
                names, row.tolist(), measure.motion.end, middle, strict=True
            ):
                if score > limits.end_pose_z:
                    text = (
                        f"ends at {value:.3f}, successes of this instruction usually at {usual:.3f}"
                    )
                    cure = "look at its end: a failure labelled as success, or cut off?"
                    yield Finding("end pose", name, WARN, text, cure, (measure.name,), score)


def _jerks(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    moving = [
        measure for measure in measures if measure.motion is not None and measure.motion.jerk > 0
    ]  # NaN: too short
    if len(moving) < _ENOUGH:
        return
    scores, middle = _robust_z(np.log([measure.motion.jerk for measure in moving]), _JERK_SPREAD)
    for measure, score in zip(moving, scores.tolist(), strict=True):
        if score > limits.jerk_z:
            text = (
                f"{measure.motion.jerk / np.exp(middle):.1f} times the jerk of the middle episode"
            )
            cure = "look at it: a shaking arm, a loose leader, dropped commands?"
            yield Finding("jerk", "", WARN, text, cure, (measure.name,), score)


def _outliers(measures: list[EpisodeMeasure], limits: Thresholds) -> Iterator[Finding]:
    moving = [measure for measure in measures if measure.motion is not None]
    if len(moving) < _ENOUGH or len({tuple(measure.motion.names) for measure in moving}) > 1:
        return
    lowest, highest = (
        np.array([getattr(measure.motion, end) for measure in moving]) for end in ("lower", "upper")
    )
    fence_low, fence_high = _fence(-lowest, limits), _fence(highest, limits)
    for measure, low, high in zip(moving, lowest, highest, strict=True):
        for name, value, beyond, usual in (
            *zip(
                measure.motion.names,
                low,
                -low - fence_low,
                -np.median(-lowest, axis=0),
                strict=True,
            ),
            *zip(
                measure.motion.names,
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
                    "look at it: glitch, or a motion that no other shows?",
                    (measure.name,),
                    beyond,
                )


def _fence(ends: np.ndarray, limits: Thresholds) -> np.ndarray:
    """(J,) from the furthest positions of all episodes (E, J): the upper quartile and some
    interquartile ranges more (Tukey).
    """
    lower, upper = np.quantile(ends, [0.25, 0.75], axis=0)
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
                    f"{share:.0%} of frames have less than {limits.blur_ratio:.0%} of the sharpness"
                    " that this camera usually has"
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
