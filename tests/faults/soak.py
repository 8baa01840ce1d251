"""Inject random faults into one running graph for a long time, for ``make soak``.

The program writes ``out/soak.json`` and a plot of the memory. Processes are killed in the first two
minutes only, so that the memory of each can be followed from then on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from faults.faulty_arm import faulty_arm
from faults.memory import BASELINE_S, MemoryWatch
from faults.run import cases_of_the_robot, own_domain
from faults.trial import Outcome, carry_out
from rich.console import Console

from sf_bringup.arm_client import ArmClientError

GROWTH_PERCENT = 5.0
_FIRST_SEED = 981_000


@dataclass(frozen=True)
class Arguments:
    """Inject random faults one after the other into one running graph."""

    minutes: float = 60.0
    """How long."""
    seed: int = 0
    """Of the order of the faults."""
    without: str = ""
    """Leave out the faults whose names hold this."""
    niceness: int = 0
    """Of all processes; below 0, where that is allowed, they keep their pace on a machine that is
    busy with other things.
    """
    out: Path = Path("out/soak.json")
    """Where the report goes; the plot and the processes' logs go beside it."""


def main() -> int:
    """Run the soak test from the command line; return the exit code."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.setpriority(os.PRIO_PROCESS, 0, arguments.niceness)
    console, outcomes, crashes = Console(), [], []
    memory = None
    begin = time.monotonic()
    try:
        with own_domain(), faulty_arm(arguments.out.with_suffix("")) as arm:
            begin = time.monotonic()
            memory = MemoryWatch(lambda: arm.processes.pids)
            try:
                for outcome in _trials(arm, arguments, begin):
                    outcomes.append(outcome)
                    _print_outcome(console, begin, outcome)
                    _write(arguments, begin, outcomes, arm.processes.crashes, memory)
                    arm.processes.check()
            finally:
                crashes = arm.processes.crashes
                memory.close()
    except ArmClientError as error:
        console.print(f"soak: {error}", style="red", markup=False)
        crashes = crashes or [str(error)]
    except KeyboardInterrupt:
        console.print("stopped early; the report says how long it ran")
    report = _write(arguments, begin, outcomes, crashes, memory)
    console.print_json(
        json.dumps(
            {key: len(value) if isinstance(value, list) else value for key, value in report.items()}
        )
    )
    console.print(f"report: {arguments.out}, {arguments.out.with_suffix('.png')}")
    return 0 if report["ok"] else 1


def _trials(arm, arguments: Arguments, begin: float):
    dice = random.Random(arguments.seed)
    cases = [
        case
        for case in cases_of_the_robot()
        if not case.cannot_hold and (not arguments.without or arguments.without not in case.name)
    ]
    gentle = [case for case in cases if not case.restarts]
    number, left = 0, [case for case in cases if case.restarts]
    while time.monotonic() - begin < 60 * arguments.minutes:
        early = time.monotonic() - begin < 0.4 * BASELINE_S
        if not left or (not early and left[-1].restarts):
            left = dice.sample(
                gentle, len(gentle)
            )  # every fault occurs, in a new random order each round
        yield carry_out(arm, left.pop(), _FIRST_SEED + number)
        number += 1


def _print_outcome(console: Console, begin: float, outcome: Outcome) -> None:
    minutes = (time.monotonic() - begin) / 60
    words = "" if outcome.good else f": {outcome.problem} {outcome.broken}"
    console.print(
        f"{minutes:6.1f} min  {outcome.name}: {outcome.ended}{words}",
        style="" if outcome.good else "red",
        markup=False,
    )


def _write(
    arguments: Arguments,
    begin: float,
    outcomes: list[Outcome],
    crashes: list[str],
    memory: MemoryWatch | None,
) -> dict:
    rss = memory.growth() if memory else {}
    violations = [
        {"fault": outcome.name, **each} for outcome in outcomes for each in outcome.violations
    ]
    problems = [
        {"fault": outcome.name, "problem": outcome.problem}
        for outcome in outcomes
        if outcome.problem
    ]
    flat = all(each["growth_percent"] <= GROWTH_PERCENT for each in rss.values())
    report = {
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "faults": len(outcomes),
        "violations": violations,
        "crashes": crashes,
        "problems": problems,
        "rss": rss,
        "load": round(os.getloadavg()[2], 1),
        "ok": bool(outcomes) and bool(rss) and flat and not (violations or crashes or problems),
        "trials": [
            {
                "fault": each.name,
                "ended": each.ended,
                "hold_time_s": each.hold_time_s,
                "reason": each.reason,
            }
            for each in outcomes
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if memory and memory.samples:
        memory.draw(arguments.out.with_suffix(".png"))
    return report


if __name__ == "__main__":
    sys.exit(main())
