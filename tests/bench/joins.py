"""The same recorded chunks with the same delays, joined in each way: how far and how hard the arm
is thrown at a border.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.figures import Figures
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
from bench.ways import FLOW, OURS, PEERS, flow_policy, make_motion

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim

DELAYS = (0.05, 0.1, 0.2)  # s, in turn
RECORDED_WITH = ("blend", "one_point")  # in turn, so that no way is favoured by having led the arm
BASE = "one_point"
ONE_POINT = ("one_point", "one_point_when_due")
_OWN = "with the chunks of its own closed loop"


def bench_joins(figures: Figures, rollouts: int, folder: Path) -> None:
    """Record ``rollouts`` rollouts, execute them in each way, and compare with one point at a
    time.
    """
    contract = load_contract(find_robot("sim_arm"))
    sim, policy = ArmSim(contract), Policy.load(find_policy("nano"), device="cpu")
    recordings = [_record(sim, policy, contract, number) for number in range(rollouts)]
    ways = (*OURS, *PEERS)
    motions = {
        way: [replay(recording, make_motion(way, contract), sim) for recording in recordings]
        for way in ways
    }
    own = {way: _own_loops(sim, policy, contract, way, rollouts) for way in ways}
    if (
        flow := flow_policy()
    ):  # its chunks depend on how the arm was led: it has no part in the others' recordings
        continuing = Policy.load(flow, device="cpu")
        own |= {way: _own_loops(sim, continuing, contract, way, rollouts) for way in FLOW}
    sim.close()
    compared = {way: _at_common_borders(motions, way) for way in ways}
    borders = sum(len(each.borders) for each in compared[BASE])
    delays = ", ".join(f"{1e3 * delay:g}" for delay in DELAYS)
    note = (
        f"all joints, {AFTER_BORDER_S:g} s after borders that every way followed, {rollouts}"
        f" rollouts, delays {delays} ms"
    )
    figures_of = {way: _measure(compared[way]) if way in compared else {} for way in own}
    for way, loops in own.items():
        figures_of[way]["own_border_jerk_rms_true"] = _jerk_rms(loops)
    counts = {way: sum(len(each.borders) for each in loops) for way, loops in own.items()}
    for way in own:
        for name, value in figures_of[way].items():
            n, how = (counts[way], _OWN) if name.startswith("own_") else (borders, note)
            figures.add(
                f"joins_{name}_{way}", value, "rad" if "jump" in name else "rad/s^3", n, how
            )
    chunks = sum(len(each.chunks) for each in recordings)
    for way in ways:
        refused = sum(each.refused for each in motions[way])
        figures.add(
            f"joins_refused_{way}",
            refused,
            "chunks",
            chunks,
            "what another way has led may start where this way's arm is not",
        )
    for way in own:
        for name, value in figures_of[way].items():
            if way not in ONE_POINT and name != "border_jump_p99":
                n = min(counts[way], counts[BASE]) if name.startswith("own_") else borders
                figures.add(
                    f"joins_{name}_{way}_over_{BASE}",
                    value / figures_of[BASE][name],
                    "ratio",
                    n,
                    _ratio_note(name),
                )
    plot_joins(folder / "joins.png", {way: figures_of[way] for way in ways}, borders)
    example = next(
        number
        for number, each in enumerate(compared[BASE])
        if number % len(DELAYS) == 1 and len(each.borders) > 1
    )
    plot_example(
        folder / "joins_example.png",
        {way: motions[way][example] for way in ways},
        contract.arm_joints,
    )


def _record(
    sim: ArmSim, policy: Policy, contract: Contract, number: int, way: str | None = None
) -> Recording:
    led_by = way or RECORDED_WITH[number // len(DELAYS) % len(RECORDED_WITH)]
    return record(
        sim,
        policy,
        make_motion(led_by, contract),
        number,
        DELAYS[number % len(DELAYS)],
        continued=led_by == "rtc",
    )


def _own_loops(
    sim: ArmSim, policy: Policy, contract: Contract, way: str, rollouts: int
) -> list[Motions]:
    """What a way does with the chunks of a closed loop that it leads itself."""
    recordings = [_record(sim, policy, contract, number, way) for number in range(rollouts)]
    return [replay(recording, make_motion(way, contract), sim) for recording in recordings]


def _at_common_borders(motions: dict[str, list[Motions]], way: str) -> list[Motions]:
    """A chunk that one way refuses is no border to compare: that way only goes on as before."""
    common = [
        set.intersection(*(set(each.borders) for each in same))
        for same in zip(*motions.values(), strict=True)
    ]
    return [
        dataclasses.replace(each, borders=tuple(sorted(borders)))
        for each, borders in zip(motions[way], common, strict=True)
    ]


def _measure(motions: Sequence[Motions]) -> dict[str, float]:
    """Over all joints and all borders; ``true`` is what the simulated arm did, ``commanded`` what
    its controller was told.
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
