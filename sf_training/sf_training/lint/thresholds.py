"""Define the thresholds of all checks. Every one is a flag of ``sf_training lint``
(``--limits.NAME``) and is listed in the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Verdict(IntEnum):
    """Level of a finding; the worst one is the verdict on an episode or a data set."""

    PASS = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of two levels: check ``*_warn`` before training, do not train on ``*_fail``.
    Shares are from 0 to 1.
    """

    rate_warn: float = 0.9
    """Measured rate of a camera below this share of the contract's rate_hz."""
    rate_fail: float = 0.9
    """Measured rate of a camera below this share of the policy's rate, 1 / action.step_s."""
    gap_warn: float = 2.5
    """Longest gap in a stream, in median periods of that stream."""
    gap_fail_s: float = 1.0
    """Longest gap in a stream [s]."""
    skew_warn: float = 0.01
    """Share of images whose nearest image of another camera is further than camera_skew_s."""
    skew_fail: float = 0.2
    unusable_warn: float = 0.02
    """Share of policy steps without a usable observation (the live policy would have refused
    them).
    """
    unusable_fail: float = 0.2
    stamps_fail: float = 0.05
    """Share of messages whose stamp repeats or goes back; any is a warning."""
    future_s: float = 0.05
    """A stamp this much later than its receipt means that clocks differ [s]."""
    drops_fail: float = 0.01
    """Share of messages that the recorder knows were lost; any is a warning."""
    idle_warn: float = 0.3
    """Share of steps in which nothing moves."""
    idle_fail: float = 0.8
    idle_rad_s: float = 0.02
    """Slower than this is not moving, for joints in rad [rad/s]."""
    idle_m_s: float = 0.002
    """The same for joints in m [m/s]."""
    dead_range: float = 1e-3
    """A joint whose positions span less never moved [rad, m]."""
    commanded_range: float = 0.02
    """A dead joint whose commands span more is not connected [rad, m]."""
    gripper_share: float = 0.98
    """Share of all steps with the gripper at one end: it will be learned as a constant."""
    gripper_margin: float = 0.1
    """Opening of the gripper below 0 or above 1 by more than this."""
    jump_factor: float = 2.0
    """Speed between two joint samples over the contract's velocity limit: an encoder glitch or a
    wrong limit.
    """
    jump_fail: float = 0.01
    """Share of joint samples with such a jump; any is a warning."""
    limit_margin: float = 0.02
    """Positions outside the contract's limits by more than this share of their range."""
    outlier_spread: float = 4.0
    """An episode's furthest position beyond the quartile of all episodes by more than this many
    interquartile ranges.
    """
    duration_z: float = 6.0
    """Robust z-score of the logarithm of an episode's duration."""
    end_pose_z: float = 6.0
    """Robust z-score of a joint's last position among the successes of one instruction."""
    jerk_z: float = 6.0
    """Robust z-score of the logarithm of an episode's jerk, above the median."""
    balance_warn: float = 0.1
    """Episodes of the rarest instruction over those of the most frequent one."""
    black_level: float = 10.0
    """Mean brightness (0 to 255) below which a frame is black."""
    white_level: float = 247.0
    """And above which it is overexposed."""
    exposure_fail: float = 0.2
    """Share of black or overexposed frames; any is a warning."""
    broken_fail: float = 0.05
    """Share of images that cannot be decoded; any is a warning."""
    blur_ratio: float = 0.15
    """A frame is blurred when its sharpness is below this share of the median of its camera."""
    blur_warn: float = 0.2
    """Share of blurred frames."""
    frozen_warn: float = 0.1
    """Share of frames that equal the previous one although the arm moved."""
    frozen_fail: float = 0.5
    duplicate_joints: float = 1e-3
    """Two episodes whose joints never differ by more are the same [rad, m]."""
    duplicate_pixels: float = 2.0
    """And whose first images differ by less on average (0 to 255)."""
