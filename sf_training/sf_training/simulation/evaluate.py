"""``ros2 run sf_training evaluate``: evaluate a checkpoint in seeded closed-loop episodes without
ROS, or open-loop on recorded episodes; write ``summary.json``.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sf_policy_node.contract import ContractError, load_contract
from sf_policy_node.motion.arm.limits import require_limits
from sf_policy_node.vla.checkpoint import CheckpointError
from sf_policy_node.vla.policy import Policy
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError
from sf_training.evaluation.open_loop import Part, evaluate_open_loop
from sf_training.evaluation.summary import merge_summary, wilson
from sf_training.progress import ProgressBar
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.instructions import canonical, held_out_phrase
from sf_training.simulation.rendering import RenderingError
from sf_training.simulation.rollout import EpisodeResult, run_episode


@dataclass(frozen=True)
class Arguments:
    """Evaluate a checkpoint: closed-loop in the simulator, or with --bags on recorded episodes.

    - Closed loop: success rate with Wilson intervals; the camera is moved in every episode.
    - Open loop (--bags): error of its chunks to what the operator did next, compared with holding
      position and with constant velocity.
    - A small open-loop error does not imply success: errors accumulate in closed loop.

    $ python3 -m sf_training evaluate --checkpoint out/nano
    $ python3 -m sf_training evaluate --checkpoint out/nano --bags out/demos
    """

    checkpoint: Path
    """Checkpoint directory."""
    bags: Path | None = None
    """Directory of episode bags: open loop instead of the simulator."""
    contract: Path | None = None
    """The robot's contract, with its limits; default the one in the checkpoint, if it has all
    limits.
    """
    out: Path = Path("out/eval/summary.json")
    """File for the figures, with a plot of the open loop beside it; entries of other evaluations
    are kept.
    """
    episodes: int = 100
    """Closed loop: with the instruction "pick the <colour> cube"; 2 cubes and 3 cubes in turn."""
    paraphrases: int = 40
    """Closed loop: more episodes with sentences that no demonstration holds, half with known colour
    words, half with new ones.
    """
    seed: int = 950_000
    """Closed loop: first seed; demonstrations use seeds from 0, evaluation while training from
    900000.
    """
    workers: int = 2
    """Closed loop: number of processes."""
    part: Part = "auto"
    """Open loop: auto uses the validation episodes if the checkpoint was trained on these bags,
    else all episodes.
    """
    outcomes: tuple[str, ...] = ("success",)
    """Open loop: episodes with another outcome are left out."""
    strict: bool = False
    """Open loop: stop at the first unusable episode or anomaly; otherwise list and exclude such
    episodes.
    """
    batch: int = 32
    """Open loop: batch size."""
    device: str = "auto"
    """Open loop: cpu, cuda or cuda:N; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 0), ("paraphrases", 0), ("workers", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}: must be at least {least}, got {getattr(self, name)}")
        if not self.episodes + self.paraphrases:
            raise ValueError("--episodes, --paraphrases: both are 0; give one above 0")


@dataclass(frozen=True)
class _Job:
    seed: int
    cubes: int
    wording: str  # canonical, known or new


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "evaluate")
    console = Console()
    print_settings(arguments, console)
    try:
        if arguments.bags is None:
            evaluate(arguments, console)
        else:
            _open_loop(arguments, console)
    except (BagError, CheckpointError, ContractError, RenderingError, OSError) as error:
        sys.exit(f"evaluate: {error}")
    return 0


def _open_loop(arguments: Arguments, console: Console) -> None:
    policy = _load(arguments.checkpoint, arguments.contract, arguments.device)
    assert arguments.bags is not None
    chosen = {name: getattr(arguments, name) for name in ("part", "outcomes", "batch", "strict")}
    picture = arguments.out.with_name("open_loop.png")
    summary = evaluate_open_loop(
        policy, arguments.checkpoint, arguments.bags, **chosen, plot=picture, console=console
    )
    merge_summary(arguments.out, {"open_loop": summary | {"settings": _plain(arguments)}})
    console.print(f"figures: {arguments.out}   plot: {picture}", soft_wrap=True, highlight=False)


def evaluate(arguments: Arguments, console: Console) -> dict:
    """Run all episodes, print a table, write and return the summary."""
    # Loaded here too, so that an error is one sentence and not the traceback of a worker.
    policy = _load(arguments.checkpoint, arguments.contract)
    require_limits(policy.contract)
    jobs = [
        _Job(arguments.seed + number, 2 + number % 2, "canonical")
        for number in range(arguments.episodes)
    ]
    jobs += [
        _Job(arguments.seed + 10_000 + number, 2 + number // 2 % 2, ("known", "new")[number % 2])
        for number in range(arguments.paraphrases)
    ]
    results: dict[str, list[EpisodeResult]] = {"canonical": [], "known": [], "new": []}
    # spawn: a GL context must not be inherited
    with (
        multiprocessing.get_context("spawn").Pool(
            max(1, min(arguments.workers, len(jobs))),
            _start_worker,
            (arguments.checkpoint, arguments.contract),
        ) as pool,
        ProgressBar("episodes", console=console) as bar,
    ):
        task = bar.add_task("", total=len(jobs))
        for wording, result in pool.imap(_run, jobs):
            results[wording].append(result)
            bar.advance(task)
    summary = _summary(results, policy.policy_id) | {"settings": _plain(arguments)}
    merge_summary(arguments.out, summary)
    _print(results, console)
    console.print(f"figures: {arguments.out}")
    return summary


def _summary(results: dict[str, list[EpisodeResult]], policy: str) -> dict:
    main_results = results["canonical"]
    summary = {
        "policy": policy,
        **_counts(main_results),
        "seeds": [result.seed for result in main_results],
    }
    for cubes in (2, 3):
        summary[f"with_{cubes}_cubes"] = _counts(
            [result for result in main_results if result.cubes == cubes]
        )
    if several := [result for result in main_results if "+" in result.target]:
        summary["two_named_cubes"] = _counts(several)
    summary["paraphrases"] = {wording: _counts(results[wording]) for wording in ("known", "new")}
    summary["episodes"] = [
        dataclasses.asdict(result) for group in results.values() for result in group
    ]
    return summary


def _counts(results: Iterable[EpisodeResult]) -> dict:
    results = list(results)
    successes = sum(result.success for result in results)
    times = [result.seconds for result in results if result.success]
    return {
        "n": len(results),
        "successes": successes,
        "interval_95": [round(bound, 3) for bound in wilson(successes, len(results))],
        "wrong_object": sum(result.wrong_object for result in results),
        "wrong_arm": sum(result.wrong_arm for result in results),
        "seconds_median": round(float(np.median(times)), 2) if times else None,
    }


def _print(results: dict[str, list[EpisodeResult]], console: Console) -> None:
    table = Table(title="closed loop in the simulator, without ROS")
    for column in ("instruction", "n", "picked", "95 % interval", "wrong cube", "median time"):
        table.add_column(column)
    names = {
        "canonical": "pick the <colour> cube",
        "known": "new sentence",
        "new": "new sentence and colour",
    }
    for wording, group in results.items():
        if group:
            counts = _counts(group)
            low, high = counts["interval_95"]
            time = "-" if counts["seconds_median"] is None else f"{counts['seconds_median']:.1f} s"
            table.add_row(
                names[wording],
                str(counts["n"]),
                str(counts["successes"]),
                f"{low:.0%} to {high:.0%}",
                str(counts["wrong_object"]),
                time,
            )
    console.print(table)


def _load(checkpoint: Path, contract: Path | None, device: str = "auto") -> Policy:
    return Policy.load(
        checkpoint, contract=load_contract(contract) if contract else None, device=device
    )


def _plain(arguments: Arguments) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(arguments), default=str))


_worker: tuple[ArmSim, Policy]  # of a process that evaluates


def _start_worker(checkpoint: Path, contract: Path | None) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    policy = _load(checkpoint, contract)
    _worker = (ArmSim(policy.contract), policy)


def _run(job: _Job) -> tuple[str, EpisodeResult]:
    sim, policy = _worker
    targets = sim.reset(job.seed, job.cubes).targets
    rng = np.random.default_rng(job.seed)
    instruction = (
        canonical(*targets)
        if job.wording == "canonical"
        else held_out_phrase(targets, rng, new_colour_word=job.wording == "new")
    )
    return job.wording, run_episode(sim, policy, job.seed, cubes=job.cubes, instruction=instruction)


if __name__ == "__main__":
    sys.exit(main())
