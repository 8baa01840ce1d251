"""Measure the motion of the joints in one episode: range, jumps, pauses and jerk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.data.commands import command_topic
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.data.synchronisation import JointStream, Observations
from sf_training.lint.smoothness import relative_jerk
from sf_training.lint.thresholds import Thresholds
from sf_training.recording.topics import absolute

TRACE_POINTS = 240


@dataclass(frozen=True)
class Motion:
    """Motion of the J joints of ``contract.command_joints``.

    Attributes:
        times, positions: (T,) [s after the first image] and (T, J) [rad, m] at usable policy steps,
            thinned to at most 240 points.
        lower, upper: (J,) extremes over all samples [rad, m].
        commanded: (J,) range of the operator's commands [rad, m]; NaN without commands.
        samples: number of joint samples.
        jumps, jump_text: number of samples that were reached too fast, and the worst in words.
        not_finite: number of joint states with NaN or Inf for a joint of the contract.
        idle_share: share of policy steps without motion.
        idle_start_s, idle_end_s: time without motion at the start and at the end [s].
        opening: (G * N,) opening of G grippers in turn, 0 closed to 1 open, at the N usable steps;
            empty without a gripper column.
        end: (J,) at the last usable step [rad, m].
        jerk: see :func:`relative_jerk`; NaN if the episode is too short.
    """

    names: list[str]
    times: np.ndarray
    positions: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    commanded: np.ndarray
    samples: int
    jumps: int
    jump_text: str
    not_finite: int
    idle_share: float
    idle_start_s: float
    idle_end_s: float
    opening: np.ndarray
    end: np.ndarray
    jerk: float


def measure_motion(
    reader: EpisodeReader,
    read: dict[str, Stream],
    observations: Observations,
    start: int,
    limits: Thresholds,
    given: JointStream | None,
) -> tuple[Motion, int]:
    """Return the motion of an episode and the number of usable policy steps.

    Args:
        read: topic to messages, on one clock.
        observations: observations of the live policy.
        start: first image of the episode [ns].
        given: the operator's commands; None if there are none.

    Raises:
        ValueError: there is no usable step.
    """
    contract = reader.contract
    stream = read[absolute(contract.topics.joint_states)]
    joints = JointStream(stream.stamps, stream.messages, contract.command_joints)
    at = joints.measured(
        observations.stamps,
        observations.complete,
        [round(age * 1e9) for age in contract.joint_ages_s],
    )
    known = np.isfinite(at).all(axis=1)
    stamps, positions = observations.stamps[known], at[known]
    if not len(stamps):
        raise ValueError(
            "there is no time at which all cameras and the joints were fresh; check their stamps"
        )
    moments = np.unique(stream.stamps)
    samples = joints.held(moments)
    finite = samples[np.isfinite(samples).all(axis=1)]
    if not len(finite):
        raise ValueError("no joint state holds finite positions of all joints; check the driver")
    jumps, text = _jumps(contract, moments, samples, start, limits.jump_factor)
    commanded = np.full(len(contract.command_joints), np.nan)
    if given is not None:
        held = given.held(np.unique(read[command_topic(reader)].stamps))
        if np.isfinite(held).any(axis=0).all():
            commanded = np.nanmax(held, axis=0) - np.nanmin(held, axis=0)
    idle = _idle(contract, stamps, positions, limits)
    thin = slice(None, None, -(-len(stamps) // TRACE_POINTS))
    return Motion(
        names=contract.command_joints,
        times=(stamps[thin] - start) * 1e-9,
        positions=positions[thin].astype(np.float32),
        lower=finite.min(axis=0),
        upper=finite.max(axis=0),
        commanded=commanded,
        samples=len(samples),
        jumps=jumps,
        jump_text=text,
        not_finite=_not_finite(stream, contract.command_joints),
        idle_share=float(idle.mean()) if len(idle) else 0.0,
        idle_start_s=_run(idle) * contract.action.step_s,
        idle_end_s=_run(idle[::-1]) * contract.action.step_s,
        opening=_opening(contract, positions),
        end=positions[-1],
        jerk=relative_jerk(moments, samples, _velocities(contract)),
    ), len(stamps)


def _not_finite(stream: Stream, names: Sequence[str]) -> int:
    """Return how many joint states hold NaN or Inf for one of the joints ``names``."""
    columns = [stream.joint_messages.column(name) for name in names]
    rows = [found[~np.isfinite(values)] for found, values in columns]
    return len(np.unique(np.concatenate(rows)))


def _units(contract: Contract) -> list[str]:
    return list(contract.columns.commands.units)


def _opening(contract: Contract, positions: np.ndarray) -> np.ndarray:
    """Return the openings (G * N,) of the G grippers that chunks command, one after the other. A
    mean over grippers would hide one that is in another unit.
    """
    named = {column.arm for column in contract.columns.action if column.kind is ColumnKind.GRIPPER}
    commands = contract.columns.commands
    openings = [
        [contract.arms[name].fitted_gripper.mean_opening(row) for row in positions[:, fingers]]
        for name in named
        if len(fingers := commands.indices(ColumnKind.GRIPPER, arm=name))
    ]
    return np.concatenate(openings) if openings else np.empty(0)


def _velocities(contract: Contract) -> np.ndarray:
    """Return the velocity limits (J,) of the command joints [rad/s, m/s]."""
    return JointLimits.of(contract).velocity


def _idle(
    contract: Contract, stamps: np.ndarray, positions: np.ndarray, limits: Thresholds
) -> np.ndarray:
    """Return (N - 1,) whether no joint was faster than its threshold from one step to the next."""
    thresholds = np.array(
        [limits.idle_rad_s if unit == "rad" else limits.idle_m_s for unit in _units(contract)]
    )
    seconds = np.maximum(np.diff(stamps) * 1e-9, 1e-6)
    return np.all(np.abs(np.diff(positions, axis=0)) / seconds[:, None] <= thresholds, axis=1)


def _run(flags: np.ndarray) -> int:
    """Return the number of set flags before the first one that is not set."""
    return int(np.argmin(np.append(flags, False)))


def _jumps(
    contract: Contract, moments: np.ndarray, samples: np.ndarray, start: int, factor: float
) -> tuple[int, str]:
    """Return the number of samples reached faster than ``factor`` times the velocity limit, and the
    worst one in words.
    """
    if len(moments) < 2:
        return 0, ""
    limits = _velocities(contract)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged positions
        speed = np.abs(np.diff(samples, axis=0)) / (np.diff(moments) * 1e-9)[:, None]
        ratio = np.nan_to_num(speed / limits)
    row, column = np.unravel_index(np.argmax(ratio), ratio.shape)
    unit = _units(contract)[column]
    seconds = (moments[row + 1] - start) * 1e-9
    text = (
        f"{contract.command_joints[column]} at {seconds:.2f} s: {speed[row, column]:.2g} {unit}/s,"
        f" its limit is {limits[column]:g}"
    )
    return int((ratio > factor).any(axis=1).sum()), text
