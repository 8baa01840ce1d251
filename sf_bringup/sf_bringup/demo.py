"""Run ``make demo``: give the simulated arm five differently worded instructions over ROS, and
write results and images.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from sf_bringup.arguments import SIM_ROBOT, GraphError
from sf_bringup.arm_client import ArmClient, ArmClientError
from sf_bringup.contact_sheet import ContactSheet
from sf_bringup.episodes import LATENCY_NOTE, Order, Outcome, carry_out, summarise
from sf_bringup.running_graph import ros_words, running_graph
from sf_training.simulation.instructions import Phrasing

SUCCESSES_WANTED = 4
_FRAME_SECONDS = 0.3  # simulated time between two images for the contact sheet
_PHRASINGS = (
    Phrasing("{verb} {things}", "pick", "cube"),
    Phrasing("{verb} {things}", "grab", "block"),
    Phrasing("please {verb} {things}", "lift", "one"),
    Phrasing("now {verb} {things}", "take", "box"),
    Phrasing("please {verb} {things}", "fetch", "cube"),
)
_TAUGHT = (  # words of the demonstrations: nano_pair understands few others
    Phrasing("{verb} {things}", "pick", "cube"),
    Phrasing("{verb} {things}", "grab", "block"),
    Phrasing("please {verb} {things}", "take", "cube"),
    Phrasing("{verb} {things}", "pick up", "block"),
    Phrasing("please {verb} {things}", "grab", "cube"),
)


@dataclass(frozen=True)
class Arguments:
    """Five instructions to the simulated arm over ROS."""

    robot: str = SIM_ROBOT
    """sim_arm, piper_pair, or another robot with a policy; also written robot:=piper_pair."""
    policy: str = ""
    """A policy of config/policies, or the path of a checkpoint directory; none given: the one that
    is shipped for the robot.
    """
    seed: int = 980_000
    """Scene of the first instruction; the others follow. Demonstrations and evaluations use other
    seeds.
    """
    out: Path = Path("out/demo")
    """Directory for summary.json, contact_sheet.png and graph.log."""


def main() -> int:
    """Parse the command line and run; return 0 if at least four instructions succeeded, else 1."""
    arguments, console = (
        tyro.cli(
            Arguments,
            prog="python3 -m sf_bringup.demo",
            args=ros_words(sys.argv[1:]),
            description=Arguments.__doc__,
        ),
        Console(highlight=False),
    )
    try:
        outcomes = run(arguments, console)
    except (ArmClientError, GraphError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
    return 0 if sum(outcome.success for outcome in outcomes) >= SUCCESSES_WANTED else 1


def run(arguments: Arguments, console: Console) -> list[Outcome]:
    """Start the graph, give the instructions and write the files to ``arguments.out``.

    Raises:
        ArmClientError, GraphError, OSError: the graph or a file fails.
    """
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet, outcomes = ContactSheet(), []
    with running_graph(
        arguments.policy,
        arguments.out / "graph.log",
        console,
        images=True,
        robot=arguments.robot,
    ) as client:
        phrasings = _PHRASINGS if arguments.robot == SIM_ROBOT else _TAUGHT
        for index, phrasing in enumerate(phrasings):
            outcome = _episode(client, phrasing, arguments.seed + index, sheet, console)
            outcomes.append(outcome)
            console.print(_line(outcome), soft_wrap=True)
    summary, image = arguments.out / "summary.json", arguments.out / "contact_sheet.png"
    summary.write_text(json.dumps(summarise(outcomes), indent=1) + "\n")
    sheet.write(image)
    console.print(_table(outcomes))
    console.print(
        f"figures: {summary}\nimages: {image}\nlog of the nodes: {arguments.out / 'graph.log'}",
        soft_wrap=True,
    )
    return outcomes


def _episode(
    client: ArmClient, phrasing: Phrasing, seed: int, sheet: ContactSheet, console: Console
) -> Outcome:
    target = client.reset(seed).target
    order = Order(seed, phrasing.say(target.split("+"), np.random.default_rng(seed)), target)
    last_added = -_FRAME_SECONDS
    with console.status(f"“{order.instruction}”") as status:

        def on_frame(seconds: float) -> None:
            nonlocal last_added
            status.update(f"“{order.instruction}” {seconds:.1f} s")
            if seconds - last_added >= _FRAME_SECONDS:
                last_added = seconds
                sheet.add(seconds, client.newest_images())

        outcome = carry_out(client, order, on_frame)
    sheet.add(outcome.seconds, client.newest_images())
    verdict = "picked" if outcome.success else f"not picked: {outcome.reason}"
    sheet.finish_row(
        f'"{outcome.instruction}"  ({", ".join(outcome.colours)})  {verdict}', outcome.success
    )
    return outcome


def _line(outcome: Outcome) -> str:
    verdict = "[green]picked[/]" if outcome.success else f"[red]not picked[/] ({outcome.reason})"
    wrong = ", [red]touched another cube[/]" if outcome.wrong_object else ""
    latency = outcome.chunk_latency_ms
    return (
        f"“{outcome.instruction}” ({', '.join(outcome.colours)}): {verdict} in"
        f" {outcome.seconds:.1f} s{wrong}, camera to chunk p50 {latency['p50']:.0f} ms, p95"
        f" {latency['p95']:.0f} ms"
    )


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title="five instructions over ROS, in real time")
    for column in ("instruction", "picked", "other touched", "time", "p50 / p95"):
        table.add_column(column, no_wrap=True)
    for outcome in outcomes:
        latency = outcome.chunk_latency_ms
        table.add_row(
            outcome.instruction,
            "yes" if outcome.success else "no",
            "yes" if outcome.wrong_object else "no",
            f"{outcome.seconds:.1f} s",
            f"{latency['p50']:.0f} / {latency['p95']:.0f} ms",
        )
    summary = summarise(outcomes)
    table.caption = (
        f"{summary['successes']} of {summary['n']} picked, {summary['wrong_object']} touched"
        f" another cube\n{LATENCY_NOTE}"
    )
    return table


if __name__ == "__main__":
    sys.exit(main())
