"""Prepare the motion of an episode for replay: time scaling, approach from the current pose, and
tracking error. No ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import LEAVES_BOX, TOLERANCE, Workspace
from sf_training.teleoperation.recorded_motion import SAMPLE_S, RecordedMotion, ReplayError

SPEEDS = (0.1, 2.0)
_AT_LIMIT = 1.02  # tolerance: a recorded motion may be at the limits, and samples are rounded
# Samples up to this factor above a limit are slowed down; beyond it the replay is refused. Recorded
# commands may exceed what the guard let through.
_SLOWED = 1.25
_SMOOTH = 5  # samples over which a velocity is computed, to average the noise of measured joints
_EASE_S = 0.4  # time in which the replay accelerates, and in which the gripper settles before it
_SHORTEST_S = 0.5  # duration of an approach
_LATE_S = 1.0  # delay of the arm up to which its distance is no error
_DELAYS_S = np.arange(0.0, 0.6, 0.02)  # candidates for the delay in the report


@dataclass(frozen=True)
class Timed:
    """A motion over time.

    Attributes:
        times: (N,) [s], from 0 on.
        positions, velocities: (N, J) [rad, m, per s].
        slowed: extra duration because of limits [s].
    """

    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    slowed: float = 0.0

    @property
    def duration(self) -> float:
        """Duration [s]."""
        return float(self.times[-1])

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities (J,) at a time; the last positions at rest after the
        end.
        """
        position = np.array([np.interp(time, self.times, column) for column in self.positions.T])
        if time >= self.duration:
            return position, np.zeros_like(position)
        return position, np.array(
            [np.interp(time, self.times, column) for column in self.velocities.T]
        )


def at_speed(motion: RecordedMotion, contract: Contract, speed: float) -> Timed:
    """Scale the motion to ``speed`` times its recorded speed, slower where that is slightly above a
    limit of the contract.

    Raises:
        ReplayError: it would be far above a limit; the message names the speed that fits.
    """
    low, high = SPEEDS
    if not low <= speed <= high:
        raise ReplayError(f"speed: {speed:g} is not between {low:g} and {high:g}; correct it")
    limits, arm = JointLimits.of(contract), _arm_joints(contract)
    workspace = Workspace.of(contract, kinematics_of(contract))
    outside = np.maximum(limits.lower - motion.positions, motion.positions - limits.upper).max(
        axis=0
    )
    if (
        outside > 0.1 * np.where(np.isfinite(limits.tracking_error), limits.tracking_error, np.inf)
    ).any():
        worst = limits.names[int(outside.argmax())]
        raise ReplayError(
            f"the episode has {worst} {outside.max():.3f} outside its limits in the contract;"
            " replay another episode"
        )
    positions = np.clip(motion.positions, limits.lower, limits.upper)
    leaves, why = workspace.explain_violation(positions[0], positions[1:])
    if leaves is not None and why != LEAVES_BOX:
        when = SAMPLE_S * (1 + leaves)
        raise ReplayError(
            f"after {when:.1f} s of the episode {why}; correct collision in the contract, or replay"
            " another episode"
        )
    if leaves is not None or workspace.outside(positions[0]) > TOLERANCE:
        when = SAMPLE_S * (1 + (leaves if leaves is not None else -1))
        raise ReplayError(
            f"the episode has the tool outside workspace after {when:.1f} s; widen workspace, or"
            " replay another episode"
        )
    shares = _shares(positions, arm, limits, workspace)
    share = float(shares.max())
    if speed * share > _SLOWED:
        fits = np.floor(100 * min(high, _AT_LIMIT / share)) / 100
        cure = (
            f"give {fits:g} or less"
            if fits >= low
            else "raise the limits in the contract, or replay another episode"
        )
        raise ReplayError(
            f"speed: at {speed:g} the arm would have to move at {speed * share:.0%} of a limit of"
            f" the contract; {cure}"
        )
    rates = np.minimum(speed, _AT_LIMIT / np.maximum(shares, 1e-9))
    times, positions = _eased(positions, rates)
    return Timed(
        times,
        positions,
        np.gradient(positions, times, axis=0),
        SAMPLE_S * float((1.0 / rates - 1.0 / speed).sum()),
    )


def _arm_joints(contract: Contract) -> np.ndarray:
    """Return which of ``contract.command_joints`` are joints of arms, not of grippers (J,)."""
    return contract.columns.commands.mask(ColumnKind.JOINT)


def _shares(
    positions: np.ndarray, arm: np.ndarray, limits: JointLimits, workspace: Workspace
) -> np.ndarray:
    """Return the share (N,) of the tightest speed limit that each sample needs at the recorded
    speed; the maximum over neighbouring samples.
    """
    velocities = _velocities(positions)
    shares = (np.abs(velocities[:, arm]) / limits.velocity[arm]).max(axis=1)
    for box in workspace.boxes.values():
        tool = np.linalg.norm(box.motion(positions, velocities)[1], axis=1)
        shares = np.maximum(shares, tool / box.tool_speed)
    return np.lib.stride_tricks.sliding_window_view(
        np.pad(shares, _SMOOTH, mode="edge"), 2 * _SMOOTH + 1
    ).max(axis=1)


def approach(contract: Contract, start: np.ndarray, goal: np.ndarray, share: float) -> Timed:
    """Return a straight joint motion from ``start`` (J,) to ``goal`` (J,); grippers move last.

    With t in [0, 1]: q = start + s (goal - start), s = 10 t^3 - 15 t^4 + 6 t^5 (minimum jerk),
    whose velocity and acceleration are zero at both ends. Its peak velocity is 1.875 (goal - start)
    / T. Source: Flash and Hogan, J. Neuroscience 5 (1985).

    Args:
        share: maximum share of the speed limits of joints and tool.

    Raises:
        ReplayError: the tool would leave the workspace box, or the arm would collide.
    """
    limits, arm = JointLimits.of(contract), _arm_joints(contract)
    change = goal - start
    seconds = 1.875 * float((np.abs(change[arm]) / (share * limits.velocity[arm])).max())
    seconds = max(_SHORTEST_S, seconds)
    workspace = Workspace.of(contract, kinematics_of(contract))
    for box in workspace.boxes.values():
        tool = box.tool_positions(start + np.linspace(0.0, 1.0, 50)[:, None] * change)
        path = float(np.linalg.norm(np.diff(tool, axis=0), axis=1).sum())
        seconds = max(seconds, 1.875 * path / (share * box.tool_speed))
    times = np.arange(0.0, seconds + SAMPLE_S, SAMPLE_S)
    t = np.minimum(times / seconds, 1.0)[:, None]
    s = t**3 * (10.0 - 15.0 * t + 6.0 * t**2)
    positions = start + s * change
    if not arm.all():
        positions[:, ~arm] = start[~arm]
        slowest = float((np.abs(change[~arm]) / limits.velocity[~arm]).max())
        settle = max(_EASE_S, 1.5 * slowest)
        times = np.append(times, times[-1] + SAMPLE_S * np.arange(1, 1 + int(settle / SAMPLE_S)))
        positions = np.vstack([positions, np.tile(goal, (len(times) - len(positions), 1))])
    leaves, why = workspace.explain_violation(positions[0], positions[1:])
    if leaves is not None and why != LEAVES_BOX:
        raise ReplayError(
            f"on the straight path to the start of the episode {why}; move the arm closer by hand"
        )
    if leaves is not None:
        raise ReplayError(
            "the straight path to the start of the episode leaves workspace; move the arm closer by"
            " hand"
        )
    velocities = np.gradient(positions, times, axis=0)
    velocities[:, ~arm] = 0.0
    return Timed(times, positions, velocities)


class Following:
    """Check that the arm follows its commands, and report the tracking error.

    Args:
        furthest: allowed distance of a joint from its commands of the last second, in multiples of
            ``joints[].tracking_error``.
    """

    def __init__(self, contract: Contract, furthest: float = 1.0) -> None:
        self._contract = contract
        self._limits, self._arm = JointLimits.of(contract), np.flatnonzero(_arm_joints(contract))
        self._furthest = furthest
        self._commanded: list[tuple[float, np.ndarray]] = []
        self._measured: list[tuple[float, np.ndarray]] = []

    def send(self, now: float, commanded: np.ndarray) -> None:
        """Record a command (J,)."""
        self._commanded.append((now, commanded))

    def measure(self, stamp: float, positions: np.ndarray) -> str:
        """Compare measured joints (J,) with the commands; return why the replay must end, or an
        empty text.
        """
        if (
            not self._commanded
            or stamp < self._commanded[0][0]
            or (self._measured and stamp <= self._measured[-1][0])
        ):
            return ""
        self._measured.append((stamp, positions))
        recent = []
        for sent, commanded in reversed(self._commanded):
            if sent < stamp - _LATE_S:
                break
            recent.append(commanded[self._arm])
        if not recent:
            return ""
        # A joint between its commands of the last second is late, but follows.
        lowest, highest = np.min(recent, axis=0), np.max(recent, axis=0)
        measured = positions[self._arm]
        away = np.maximum(np.maximum(lowest - measured, measured - highest), 0.0)
        share = away / (self._furthest * self._limits.tracking_error[self._arm])
        worst = int(share.argmax())
        return (
            f"{self._limits.names[self._arm[worst]]} is {away[worst]:.2f} from its command"
            if share[worst] > 1.0
            else ""
        )

    def report(self) -> dict:
        """Return the delay of the arm behind its commands [s], and the tracking error after
        compensating it, per joint [rad, m] and of each tool [m]; empty with too few samples.

        With measured q(t), commanded c(t) and velocity limits v, the delay d minimises the mean of
        ((q(t) - c(t - d)) / v)^2.
        """
        if len(self._measured) < 10 or len(self._commanded) < 2:
            return {}
        stamps = np.array([stamp for stamp, _ in self._measured])
        measured = np.array([positions for _, positions in self._measured])
        sent = np.array([stamp for stamp, _ in self._commanded])
        commanded = np.array([positions for _, positions in self._commanded])

        def commanded_at(times: np.ndarray) -> np.ndarray:
            return np.stack([np.interp(times, sent, column) for column in commanded.T], axis=-1)

        arm = self._arm
        scale = self._limits.velocity[arm]
        spread = [
            float((((measured - commanded_at(stamps - delay))[:, arm] / scale) ** 2).mean())
            for delay in _DELAYS_S
        ]
        delay = float(_DELAYS_S[int(np.argmin(spread))])
        goal = commanded_at(stamps - delay)
        error = np.abs(measured - goal)
        workspace = Workspace(self._contract, kinematics_of(self._contract))
        tools = {
            name: np.linalg.norm(box.tool_positions(measured) - box.tool_positions(goal), axis=1)
            for name, box in workspace.boxes.items()
        }
        return {
            "delay_s": round(delay, 3),
            "joints": {
                name: {
                    "rms": float(np.sqrt((error[:, column] ** 2).mean())),
                    "max": float(error[:, column].max()),
                }
                for column, name in enumerate(self._limits.names)
            },
            "tools": {
                name: {"rms": float(np.sqrt((tool**2).mean())), "max": float(tool.max())}
                for name, tool in tools.items()
            },
            "samples": len(stamps),
        }


def _velocities(positions: np.ndarray) -> np.ndarray:
    """Return velocities (N, J) as differences over :data:`_SMOOTH` samples."""
    if len(positions) <= _SMOOTH:
        return np.gradient(positions, SAMPLE_S, axis=0)
    speeds = (positions[_SMOOTH:] - positions[:-_SMOOTH]) / (_SMOOTH * SAMPLE_S)
    before = _SMOOTH // 2
    return np.vstack(
        [np.tile(speeds[:1], (before, 1)), speeds, np.tile(speeds[-1:], (_SMOOTH - before, 1))]
    )


def _eased(positions: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample at ``rates`` (N,) times the recorded speed, starting from rest within
    :data:`_EASE_S`.
    """
    grid = SAMPLE_S * np.arange(len(positions))
    passed = np.append(0.0, np.cumsum(SAMPLE_S / np.minimum(rates[:-1], rates[1:])))
    until = min(_EASE_S, passed[-1])
    times = np.arange(0.0, passed[-1] + 0.5 * until + SAMPLE_S, SAMPLE_S)
    # Constant acceleration of the playback speed from 0 to 1 within `until`.
    eased = np.where(times < until, 0.5 * times**2 / until, times - 0.5 * until)
    recorded = np.interp(eased, passed, grid)
    return times, np.stack([np.interp(recorded, grid, column) for column in positions.T], axis=-1)
