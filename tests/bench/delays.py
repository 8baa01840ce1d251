"""Measure task success under delays for each execution method.

Closed loop in the simulator, without ROS, in simulated time.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.figures import Figures
from bench.methods import DESCRIPTIONS, FLOW, OURS, PEERS, flow_policy, make_motion
from bench.plots import plot_success
from rich.console import Console
from rich.progress import Progress

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.rollout import EpisodeResult, run_episode

DELAYS = (
    0.0,
    0.1,
    0.2,
    0.4,
)  # s, from an observation to the use of its chunk; the next observation waits for that
FIRST_SEED = 980_000
BUDGET_S = 1.0  # for chunk_age_s: the comparison is of methods, not of the maximum age of a chunk


@dataclass(frozen=True)
class _Job:
    method: str
    delay_s: float
    number: int


def bench_delays(figures: Figures, episodes: int, folder: Path, console: Console) -> None:
    """Run ``episodes`` seeds, the same for every method and delay."""
    methods = (*OURS, *PEERS, *(FLOW if flow_policy() else ()))
    jobs = [
        _Job(method, delay, number)
        for number in range(episodes)
        for method in methods
        for delay in DELAYS
    ]
    results: dict[tuple[str, float], list[EpisodeResult]] = defaultdict(list)
    # spawn: a GL context must not be inherited
    with (
        multiprocessing.get_context("spawn").Pool(2, _start_worker) as pool,
        Progress(console=console, transient=True) as bar,
    ):
        for job, result in bar.track(
            pool.imap(_run, jobs, chunksize=4), len(jobs), description="episodes under delay"
        ):
            results[job.method, job.delay_s].append(result)
    shares: dict[str, dict[float, tuple[float, float, float]]] = defaultdict(dict)
    for (method, delay), part in results.items():
        successes, seconds = (
            sum(each.success for each in part),
            [each.seconds for each in part if each.success],
        )
        name = f"success_{method}_{1e3 * delay:g}ms"
        wrong, refused = sum(each.wrong_object for each in part), sum(each.refused for each in part)
        took = f"median {np.median(seconds):.1f} s" if seconds else "none"
        note = (
            f"{took}, {wrong} touched a wrong cube, {refused} of"
            f" {sum(each.chunks for each in part)} chunks refused; {DESCRIPTIONS[method]}"
        )
        figures.rate(name, successes, len(part), note)
        shares[method][delay] = (successes / len(part), *figures.entries[name]["interval_95"])
    for method in methods:
        lost = shares[method][0.0][0] - shares[method][0.2][0]
        figures.add(
            f"success_lost_at_200ms_{method}",
            100 * lost,
            "points",
            episodes,
            "against no delay, same seeds",
        )
    plot_success(folder / "delays.png", shares, episodes)


def _start_worker() -> None:
    import torch

    global _worker  # one simulator and each policy once per process
    torch.set_num_threads(1)
    contract = load_contract(find_robot("sim_arm"))
    contract = contract.model_copy(
        update={"budgets": contract.budgets.model_copy(update={"chunk_age_s": BUDGET_S})}
    )
    flow = flow_policy()
    _worker = (
        contract,
        ArmSim(contract),
        Policy.load(find_policy("nano"), device="cpu"),
        flow and Policy.load(flow, device="cpu"),
    )


def _run(job: _Job) -> tuple[_Job, EpisodeResult]:
    contract, sim, policy, flow = _worker
    return job, run_episode(
        sim,
        flow if job.method in FLOW else policy,
        FIRST_SEED + job.number,
        cubes=2 + job.number % 2,
        latency_s=job.delay_s,
        motion=make_motion(job.method, contract),
        continued=job.method == "rtc",
    )
