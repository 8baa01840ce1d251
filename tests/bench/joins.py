"""Execute the same recorded chunks with the same delays by each blending mode and method of others,
and measure the jump and the jerk of the arm after a border between two chunks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.figures import Figures
from bench.methods import FLOW, OURS, PEERS, flow_policy, make_motion
from bench.plots import plot_example, plot_joins
from bench.recording import Recording, record
from bench.replay import (
    AFTER_BORDER_S,
    COMMAND_S,
    JERK_S,
    Motions,
    border_jerk,
    border_jump,
    replay,
)

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim

DELAYS = (0.05, 0.1, 0.2)  # s, in turn
# They alternate, so that no method is favored by having moved the arm.
RECORDED_WITH = ("blend", "one_point")
BASE = "one_point"
ONE_POINT = ("one_point", "one_point_when_due")
_OWN = "with the chunks of its own closed loop"


def bench_joins(figures: Figures, rollouts: int, folder: Path) -> None:
    """Record ``rollouts`` rollouts, execute them by each method, and compare with ``one_point``."""
    contract = load_contract(find_robot("sim_arm"))
    sim, policy = ArmSim(contract), Policy.load(find_policy("nano"), device="cpu")
    recordings = [_record(sim, policy, contract, number) for number in range(rollouts)]
    methods = (*OURS, *PEERS)
    motions = {
        method: [replay(recording, make_motion(method, contract), sim) for recording in recordings]
        for method in methods
    }
    own = {method: _own_loops(sim, policy, contract, method, rollouts) for method in methods}
    # Chunks of a flow policy depend on how the arm moved, so it has recordings of its own.
    if flow := flow_policy():
        continuing = Policy.load(flow, device="cpu")
        own |= {method: _own_loops(sim, continuing, contract, method, rollouts) for method in FLOW}
    sim.close()
    compared = {method: _at_common_borders(motions, method) for method in methods}
    borders = sum(len(each.borders) for each in compared[BASE])
    delays = ", ".join(f"{1e3 * delay:g}" for delay in DELAYS)
    note = (
        f"all joints, {AFTER_BORDER_S:g} s after borders that every method followed, {rollouts}"
        f" rollouts, delays {delays} ms"
    )
    figures_of = {
        method: _measure(compared[method]) if method in compared else {} for method in own
    }
    for method, loops in own.items():
        figures_of[method]["own_border_jerk_rms_true"] = _jerk_rms(loops)
    counts = {method: sum(len(each.borders) for each in loops) for method, loops in own.items()}
    for method in own:
        for name, value in figures_of[method].items():
            n, how = (counts[method], _OWN) if name.startswith("own_") else (borders, note)
            figures.add(
                f"joins_{name}_{method}", value, "rad" if "jump" in name else "rad/s^3", n, how
            )
    chunks = sum(len(each.chunks) for each in recordings)
    for method in methods:
        refused = sum(each.refused for each in motions[method])
        figures.add(
            f"joins_refused_{method}",
            refused,
            "chunks",
            chunks,
            "a recording by another method may start where the arm of this method is not",
        )
    for method in own:
        for name, value in figures_of[method].items():
            if method not in ONE_POINT and name != "border_jump_p99":
                n = min(counts[method], counts[BASE]) if name.startswith("own_") else borders
                figures.add(
                    f"joins_{name}_{method}_over_{BASE}",
                    value / figures_of[BASE][name],
                    "ratio",
                    n,
                    _ratio_note(name),
                )
    plot_joins(folder / "joins.png", {method: figures_of[method] for method in methods}, borders)
    example = next(
        number
        for number, each in enumerate(compared[BASE])
        if number % len(DELAYS) == 1 and len(each.borders) > 1
    )
    plot_example(
        folder / "joins_example.png",
        {method: motions[method][example] for method in methods},
        contract.arm_joints,
    )


def _record(
    sim: ArmSim, policy: Policy, contract: Contract, number: int, method: str | None = None
) -> Recording:
    recorded_with = method or RECORDED_WITH[number // len(DELAYS) % len(RECORDED_WITH)]
    return record(
        sim,
        policy,
        make_motion(recorded_with, contract),
        number,
        DELAYS[number % len(DELAYS)],
        continued=recorded_with == "rtc",
    )


def _own_loops(
    sim: ArmSim, policy: Policy, contract: Contract, method: str, rollouts: int
) -> list[Motions]:
    """Return the motion of a method in a closed loop that it controls itself."""
    recordings = [_record(sim, policy, contract, number, method) for number in range(rollouts)]
    return [replay(recording, make_motion(method, contract), sim) for recording in recordings]


def _at_common_borders(motions: dict[str, list[Motions]], method: str) -> list[Motions]:
    """Keep only the borders of chunks that no method refused.

    Where a method refuses a chunk, it only continues the motion before.
    """
    common = [
        set.intersection(*(set(each.borders) for each in same))
        for same in zip(*motions.values(), strict=True)
    ]
    return [
        dataclasses.replace(each, borders=tuple(sorted(borders)))
        for each, borders in zip(motions[method], common, strict=True)
    ]


def _measure(motions: Sequence[Motions]) -> dict[str, float]:
    """Return the figures over all joints and borders.

    ``true`` is the motion of the simulated arm, ``commanded`` what its controller was commanded.
    """
    commanded = [
        border_jerk(each.commanded, COMMAND_S, each.borders) for each in motions if each.borders
    ]
    finest = [
        border_jerk(each.commanded, COMMAND_S, each.borders, COMMAND_S)
        for each in motions
        if each.borders
    ]
    true = [border_jerk(each.true, each.true_s, each.borders) for each in motions if each.borders]
    jump = np.concatenate(
        [border_jump(each.commanded, COMMAND_S, each.borders) for each in motions if each.borders]
    )
    return {
        "border_jump_p50": np.median(jump),
        "border_jump_p99": np.percentile(jump, 99),
        "border_jerk_rms_commanded": _rms(commanded),
        "border_jerk_p99_commanded": np.percentile(np.abs(np.concatenate(commanded)), 99),
        "border_jerk_rms_commanded_1ms": _rms(finest),
        "border_jerk_rms_true": _rms(true),
        "border_jerk_p99_true": np.percentile(np.abs(np.concatenate(true)), 99),
    }


def _jerk_rms(motions: Sequence[Motions]) -> float:
    return _rms(
        [border_jerk(each.true, each.true_s, each.borders) for each in motions if each.borders]
    )


def _rms(parts: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))


def _ratio_note(name: str) -> str:
    if name.startswith("own_"):
        return f"same scenes and delays, each {_OWN}"
    step_s = COMMAND_S if name.endswith("1ms") else JERK_S
    return "same chunks, same delays" + (
        "" if "jump" in name else f"; third differences over {1e3 * step_s:g} ms"
    )
