"""Run every fault case with real processes over DDS, for ``make faults``.

The program prints a table and writes ``out/faults.json``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from faults.cases import Case, all_cases
from faults.faulty_arm import faulty_arm
from faults.trial import Outcome, carry_out
from rich.console import Console
from rich.table import Table

from sf_bringup.arguments import SIM_ROBOT
from sf_bringup.arm_client import ArmClientError
from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import free_domain

FIRST_SEED = 980_000  # not a scene of training or evaluation


@dataclass(frozen=True)
class Arguments:
    """Inject faults over DDS with real processes."""

    out: Path = Path("out/faults.json")
    """Where the outcomes go; the processes' logs go into a folder beside it."""
    only: str = ""
    """Run the cases whose name contains this."""
    repeat: int = 1
    """Run every case this many times, each in another scene."""
    niceness: int = 0
    """Of all processes; below 0, where that is allowed, they keep their pace on a machine that is
    busy with other things.
    """


def main() -> int:
    """Run the cases from the command line; return the exit code."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # SIGTERM unwinds the context managers, so that no process is left
    os.setpriority(os.PRIO_PROCESS, 0, arguments.niceness)
    console, outcomes = Console(), []
    cases = [
        case
        for case in cases_of_the_robot()
        if arguments.only in case.name and (arguments.only or not case.cannot_hold)
    ]
    if not cases:
        print(
            f"faults: --only {arguments.only!r} names no case; there are:"
            f" {', '.join(case.name for case in cases_of_the_robot())}"
        )
        return 2
    begin = time.monotonic()
    try:
        with own_domain(), faulty_arm(arguments.out.with_suffix("")) as arm:
            for number, case in enumerate(cases * arguments.repeat):
                title = f"{number + 1} of {len(cases) * arguments.repeat}: {case.name}"
                if not console.is_terminal:  # there a status shows nothing
                    console.print(title, markup=False, highlight=False)
                with console.status(title):
                    outcomes.append(carry_out(arm, case, FIRST_SEED + number))
                arm.processes.check()  # a crash ends the run
    except ArmClientError as error:
        console.print(f"faults: {error}", style="red", markup=False)
    write(
        arguments.out,
        outcomes,
        seconds=round(time.monotonic() - begin, 1),
        load=os.getloadavg()[1],
        niceness=arguments.niceness,
    )
    console.print(table_of(outcomes))
    console.print(f"outcomes: {arguments.out}")
    return (
        0
        if len(outcomes) == len(cases) * arguments.repeat
        and all(outcome.good for outcome in outcomes)
        else 1
    )


def cases_of_the_robot() -> list[Case]:
    """Return all cases with the budgets of the simulated arm."""
    budgets = load_contract(find_robot(SIM_ROBOT)).budgets
    return all_cases(budgets.chunk_age_s, budgets.observation_age_s)


@contextmanager
def own_domain() -> Iterator[None]:
    """Set an unused ROS domain in the environment."""
    with free_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        yield


def write(path: Path, outcomes: list[Outcome], **more) -> None:
    """Write ``{cases: [{name, held, hold_time_s, violations, reason, ...}]}``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "cases": [asdict(outcome) for outcome in outcomes],
        "good": sum(outcome.good for outcome in outcomes),
        **more,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def table_of(outcomes: list[Outcome]) -> Table:
    """Return the outcomes as a table for the terminal."""
    table = Table(title="faults while the arm moves")
    for column in ("case", "ended", "rest after", "violations", "reason"):
        table.add_column(column)
    for outcome in outcomes:
        rest = "" if outcome.hold_time_s is None else f"{outcome.hold_time_s:.2f} s"
        words = outcome.problem or outcome.reason
        table.add_row(
            outcome.name,
            outcome.ended,
            rest,
            outcome.broken or "none",
            words,
            style="" if outcome.good else "red",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
