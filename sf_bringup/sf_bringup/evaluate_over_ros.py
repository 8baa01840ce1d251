"""Run the second half of ``make eval``: seeded episodes through all nodes in real time, with the
result merged into ``out/eval/summary.json``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sf_bringup.arguments import SIM_ROBOT, GraphError
from sf_bringup.arm_client import ArmClientError
from sf_bringup.episodes import Order, Outcome, carry_out, seeds_of, summarise
from sf_bringup.running_graph import ros_words, running_graph
from sf_training.simulation.evaluate import merge_summary, wilson
from sf_training.simulation.instructions import canonical


@dataclass(frozen=True)
class Arguments:
    """Evaluate a policy over ROS, in real time, with the camera moved anew in every episode."""

    robot: str = SIM_ROBOT
    """sim_arm, piper_pair, or another robot with a policy; also written robot:=piper_pair."""
    policy: str = ""
    """A policy of config/policies, or the path of a checkpoint directory; none given: the one that
    is shipped for the robot.
    """
    episodes: int = 20
    """2 cubes and 3 cubes in turn."""
    seed: int = 970_000
    """First seed; demonstrations and the evaluation without ROS use others."""
    out: Path = Path("out/eval/summary.json")
    """The entry over_ros is put here; other entries are kept."""


def main() -> int:
    """Parse the command line and run; return 0 if all episodes ran, whatever their success."""
    arguments, console = (
        tyro.cli(
            Arguments,
            prog="python3 -m sf_bringup.evaluate_over_ros",
            args=ros_words(sys.argv[1:]),
            description=Arguments.__doc__,
        ),
        Console(highlight=False),
    )
    try:
        outcomes = run(arguments, console)
    except (ArmClientError, GraphError, OSError) as error:
        print(f"evaluate_over_ros: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate_over_ros: stopped; nothing was written", file=sys.stderr)
        return 130
    summary = summarise(outcomes)
    key = "over_ros" if arguments.robot == SIM_ROBOT else f"over_ros_{arguments.robot}"
    interval = [round(bound, 3) for bound in wilson(summary["successes"], summary["n"])]
    merge_summary(
        arguments.out,
        {key: {**summary, "interval_95": interval, "seeds": seeds_of(outcomes)}},
    )
    console.print(
        f"over ROS: {summary['successes']} of {summary['n']} picked (95 % interval"
        f" {interval[0]:.0%} to {interval[1]:.0%}), {summary['wrong_object']} touched another"
        f" cube\nfigures: {arguments.out}"
    )
    return 0


def run(arguments: Arguments, console: Console) -> list[Outcome]:
    """Start the graph and run all episodes, with 2 and 3 cubes in turn.

    Raises:
        ArmClientError, GraphError, OSError: the graph or its log file fails.
    """
    outcomes = []
    columns = (
        TextColumn("episodes over ROS"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with (
        running_graph(
            arguments.policy,
            arguments.out.parent / "graph.log",
            console,
            robot=arguments.robot,
        ) as client,
        Progress(*columns, console=console) as bar,
    ):
        for index in bar.track(range(arguments.episodes)):
            seed, cubes = arguments.seed + index, 2 + index % 2
            target = client.reset(seed, cubes).target
            outcome = carry_out(client, Order(seed, canonical(*target.split("+")), target, cubes))
            outcomes.append(outcome)
            if not outcome.success or outcome.wrong_object:
                wrong = ", touched another cube" if outcome.wrong_object else ""
                bar.console.print(f"seed {seed}, “{outcome.instruction}”: {outcome.reason}{wrong}")
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
