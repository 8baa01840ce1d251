"""Task success under delays, for each way of executing chunks: closed loop in the simulator,
without ROS, in simulated time.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.figures import Figures
from bench.plots import plot_success
from bench.ways import FLOW, OURS, PEERS, SAID, flow_policy, make_motion
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
)  # s, from the observation to the use of its chunk; the next observation waits for it
FIRST_SEED = 980_000
BUDGET_S = 1.0  # for chunk_age_s: the comparison is of ways, not of how old a chunk is let in


@dataclass(frozen=True)
class _Job:
    way: str
    delay_s: float
    number: int


def bench_delays(figures: Figures, episodes: int, folder: Path, console: Console) -> None:
    """``episodes`` seeds, the same for every way and delay."""
    ways = (*OURS, *PEERS, *(FLOW if flow_policy() else ()))
    jobs = [
        _Job(way, delay, number) for number in range(episodes) for way in ways for delay in DELAYS
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
            results[job.way, job.delay_s].append(result)
    shares: dict[str, dict[float, tuple[float, float, float]]] = defaultdict(dict)
    for (way, delay), part in results.items():
        successes, seconds = (
            sum(each.success for each in part),
            [each.seconds for each in part if each.success],
        )
        name = f"success_{way}_{1e3 * delay:g}ms"
        wrong, refused = sum(each.wrong_object for each in part), sum(each.refused for each in part)
        took = f"median {np.median(seconds):.1f} s" if seconds else "none"
        note = (
            f"{took}, {wrong} touched a wrong cube, {refused} of"
            f" {sum(each.chunks for each in part)} chunks refused; {SAID[way]}"
        )
        figures.rate(name, successes, len(part), note)
        shares[way][delay] = (successes / len(part), *figures.entries[name]["interval_95"])
    for way in ways:
        lost = shares[way][0.0][0] - shares[way][0.2][0]
        figures.add(
            f"success_lost_at_200ms_{way}",
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
        flow if job.way in FLOW else policy,
        FIRST_SEED + job.number,
        cubes=2 + job.number % 2,
        latency_s=job.delay_s,
        motion=make_motion(job.way, contract),
        continued=job.way == "rtc",
    )
