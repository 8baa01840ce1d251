"""Execute the same recorded chunks by each method with the rules of joint_trajectory_controller.

Measured are the velocities and accelerations that the hardware is commanded, relative to the
limits, and their jerk. The controller is the model of ``sf_policy_node.controller``, in a loop of
250 Hz without a limiter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from bench.figures import Figures
from bench.joins import DELAYS
from bench.methods import make_motion
from bench.peers import LatestChunk, OnePoint
from bench.recording import Recording, record_rollouts

from sf_bringup.graph import find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.controller.control_loop import Commands, ControlLoop
from sf_policy_node.controller.parameters import ControllerParameters, Replacement
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.refusals import ChunkRefused
from sf_training.simulation.rollout import Motion

RATE_HZ = 250.0
RECORDINGS = 6
JERK_S = 0.008
MEAN_S = 0.02
TICK_S = 0.01
BEGIN_S = 11.0  # start of the recording, on the clock of the commands
_START_S, _TAIL_S = 10.0, 1.0

_DESIRED = ControllerParameters(interpolate_from_desired_state=True)
_RETIMED = dataclasses.replace(_DESIRED, replacement=Replacement.RETIME)
_UPSAMPLED = dataclasses.replace(_RETIMED, positions_upsampling=True)


@dataclass(frozen=True)
class Method:
    """An executor that makes trajectories of chunks, and the controller behind it."""

    description: str
    make: object
    parameters: ControllerParameters = _DESIRED
    loop: dict[str, float] = field(default_factory=dict)


def _ours(contract: Contract) -> Motion:
    return make_motion("blend", contract)


METHODS = {
    "ours": Method("our executor, blending", _ours),
    "ours_defaults": Method(
        "our executor, controller defaults, servos 50 ms behind, its clock 30 ms behind",
        _ours,
        ControllerParameters(),
        {"servo_lag_s": 0.05, "clock_offset_s": -0.03},
    ),
    "ours_retimed": Method("our executor, master with its default replacement", _ours, _RETIMED),
    "one_point": Method("one point per step, t = 0", OnePoint),
    "one_point_ahead": Method(
        "one point per step, t = 0.1 s", lambda contract: OnePoint(contract, reach_s=0.1)
    ),
    "latest_chunk_from_now": Method(
        "newest chunk, all points from now",
        lambda contract: LatestChunk(contract, skip_passed=False),
    ),
    "latest_chunk": Method(
        "newest chunk, stamped", lambda contract: LatestChunk(contract, stamped=True)
    ),
    "latest_chunk_retimed": Method(
        "newest chunk, stamped, master with its default replacement",
        lambda contract: LatestChunk(contract, stamped=True),
        _RETIMED,
    ),
    "latest_chunk_upsampled": Method(
        "the same with positions_upsampling",
        lambda contract: LatestChunk(contract, stamped=True),
        _UPSAMPLED,
    ),
}


def bench_controller(figures: Figures, rollouts: int) -> None:
    """Record ``rollouts`` rollouts and execute their chunks by each method."""
    contract = load_contract(find_robot("sim_arm"))
    recordings = record_rollouts(contract, _ours, DELAYS, rollouts=rollouts)
    limits, chunks = JointLimits.of(contract), sum(len(each.chunks) for each in recordings)
    for name, method in METHODS.items():
        followed = [drive(recording, method, contract) for recording in recordings]
        for what, (value, unit) in judge(followed, limits).items():
            figures.add(f"controller_{what}_{name}", value, unit, chunks, method.description)


def drive(
    recording: Recording, method: Method, contract: Contract, stop_at: float = math.inf
) -> Commands:
    """Return what the hardware is commanded when chunks arrive at their recorded times.

    Args:
        stop_at: time of an emergency stop, on the clock of the commands [s]; chunks after it are
            left out. The recording starts at :data:`BEGIN_S`.
    """
    motion: Motion = method.make(contract)
    joints = np.asarray(recording.joints[0][1], dtype=float)
    loop = ControlLoop(
        contract.command_joints,
        joints,
        _START_S,
        parameters=method.parameters,
        update_rate_hz=RATE_HZ,
        **method.loop,
    )
    arrivals = [BEGIN_S + arrival for arrival, _ in recording.chunks]
    coming, is_active = 0, False

    def send(trajectory, now: float) -> None:
        if trajectory is not None:
            loop.receive(trajectory, now)

    for tick in range(round((arrivals[-1] + _TAIL_S - _START_S) / TICK_S)):
        now = _START_S + tick * TICK_S
        loop.advance(now)
        motion.on_joint_state(now, loop.position, loop.velocity)
        if not is_active and now >= BEGIN_S - 1e-9:
            motion.activate(now)
            is_active = True
        if not is_active:
            continue
        send(motion.tick(now), now)
        if now >= stop_at - 1e-9:
            coming, stop_at = len(arrivals), math.inf
            send(motion.emergency_stop(now), now)
        while coming < len(arrivals) and arrivals[coming] <= now + 1e-9:
            chunk = recording.chunks[coming][1]
            coming += 1
            with contextlib.suppress(ChunkRefused):
                chunk = dataclasses.replace(chunk, stamp=BEGIN_S + chunk.stamp)
                send(motion.on_chunk(chunk, now), now)
    return loop.take()


def judge(followed: list[Commands], limits: JointLimits) -> dict[str, tuple[float, str]]:
    """Return peak velocity and acceleration relative to the limits, and the jerk, of the arm.

    The gripper is left out: all methods but ours command a step to a binary gripper.
    """
    arm, steps = slice(0, -1), round(MEAN_S * RATE_HZ)
    velocities = [each.velocities[:, arm] for each in followed]
    accelerations = [each.accelerations[:, arm] for each in followed]
    means = [(each[steps:] - each[:-steps]) / MEAN_S for each in velocities]

    def share(parts: list[np.ndarray], limit: np.ndarray) -> float:
        return max(float((np.abs(each) / limit[arm]).max()) for each in parts)

    jerks = [_jerk(each.positions[:, :-1]) for each in followed]
    return {
        "velocity": (share(velocities, limits.velocity), "of the limit"),
        "acceleration": (share(accelerations, limits.acceleration), "of the limit"),
        "acceleration_20ms": (share(means, limits.acceleration), "of the limit"),
        "jerk_rms": (np.sqrt(np.mean(np.concatenate(jerks) ** 2)), "rad/s^3"),
    }


def _jerk(positions: np.ndarray) -> np.ndarray:
    """Return third differences (N, J) [rad/s^3] over :data:`JERK_S` while the arm moves."""
    step = round(JERK_S * RATE_HZ)
    at = [positions[n * step : len(positions) - (3 - n) * step] for n in range(4)]
    jerk = (at[3] - 3 * at[2] + 3 * at[1] - at[0]) / JERK_S**3
    return jerk[np.abs(at[3] - at[0]).max(axis=1) > 1e-6]
