"""The same recorded chunks with the same delays, joined in each way: how far and how hard the arm is thrown at a border."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.figures import Figures
from bench.plots import plot_example, plot_joins
from bench.recording import Recording, record
from bench.replay import AFTER_BORDER_S, COMMAND_S, JERK_S, Motions, border_jerk, border_jump, replay
from bench.ways import OURS, PEERS, make_motion

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim

DELAYS = (0.05, 0.1, 0.2)  # s, in turn
RECORDED_WITH = ("blend", "one_point")  # in turn, so that no way is favoured by having led the arm
BASE = "one_point"


def bench_joins(figures: Figures, rollouts: int, folder: Path) -> None:
    """Record ``rollouts`` rollouts, execute them in each way, and compare with one point at a time."""
    contract = load_contract(find_robot("sim_arm"))
    sim, policy = ArmSim(contract), Policy.load(find_policy("nano"), device="cpu")
    recordings = [_record(sim, policy, contract, number) for number in range(rollouts)]
    figures_of: dict[str, dict[str, float]] = {}
    examples = {}
    for way in (*OURS, *PEERS):
        motions = [replay(recording, make_motion(way, contract), sim) for recording in recordings]
        examples[way] = motions[_example(recordings)]
        own = [_record(sim, policy, contract, number, way) for number in range(rollouts)]
        own_motions = [replay(recording, make_motion(way, contract), sim) for recording in own]
        figures_of[way] = {**_measure(motions), "own_border_jerk_rms_true": _jerk_rms(own_motions)}
        borders, refused = sum(len(each.borders) for each in motions), sum(each.refused for each in motions)
        delays = ", ".join(f"{1e3 * delay:g}" for delay in DELAYS)
        note = f"all joints, {AFTER_BORDER_S:g} s after {borders} borders of {rollouts} rollouts, delays {delays} ms; {refused} refused"
        for name, value in figures_of[way].items():
            if name.startswith("own_"):
                n = sum(len(each.borders) for each in own_motions)
                figures.add(f"joins_{name}_{way}", value, _unit(name), n, f"the chunks of its own closed loop, {rollouts} rollouts")
            else:
                figures.add(f"joins_{name}_{way}", value, _unit(name), borders, note)
    sim.close()
    for way in (*OURS, *(peer for peer in PEERS if peer != BASE)):
        for name, value in figures_of[way].items():
            figures.add(f"joins_{name}_{way}_over_{BASE}", value / figures_of[BASE][name], "ratio", borders, _ratio_note(name))
    plot_joins(folder / "joins.png", figures_of, borders)
    plot_example(folder / "joins_example.png", examples, contract.arm_joints)


def _record(sim: ArmSim, policy: Policy, contract: Contract, number: int, way: str | None = None) -> Recording:
    led_by = way or RECORDED_WITH[number // len(DELAYS) % len(RECORDED_WITH)]
    return record(sim, policy, make_motion(led_by, contract), number, DELAYS[number % len(DELAYS)])


def _example(recordings: list[Recording]) -> int:
    """The first one with 100 ms."""
    return next(number for number, each in enumerate(recordings) if number % len(DELAYS) == 1 and len(each.chunks) > 2)


def _measure(motions: Sequence[Motions]) -> dict[str, float]:
    """Over all joints and all borders; ``true`` is what the simulated arm did, ``commanded`` what its controller was told."""
    commanded = [border_jerk(each.commanded, COMMAND_S, each.borders) for each in motions if each.borders]
    finest = [border_jerk(each.commanded, COMMAND_S, each.borders, COMMAND_S) for each in motions if each.borders]
    true = [border_jerk(each.true, each.true_s, each.borders) for each in motions if each.borders]
    jump = np.concatenate([border_jump(each.commanded, COMMAND_S, each.borders) for each in motions if each.borders])
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
    return _rms([border_jerk(each.true, each.true_s, each.borders) for each in motions if each.borders])


def _rms(parts: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))


def _unit(name: str) -> str:
    return "rad" if "jump" in name else "rad/s^3"


def _ratio_note(name: str) -> str:
    if name.startswith("own_"):
        return "same scenes and delays, each with the chunks of its own closed loop"
    step_s = COMMAND_S if name.endswith("1ms") else JERK_S
    return "same chunks, same delays" + ("" if "jump" in name else f"; third differences over {1e3 * step_s:g} ms")
