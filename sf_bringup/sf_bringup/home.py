"""Move the arms of a running graph to their home pose: ``python3 -m sf_bringup.home``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from sf_bringup.arguments import SIM_ROBOT, GraphError
from sf_bringup.arm_client import ArmClient, ArmClientError, client_of
from sf_bringup.running_graph import ros_words
from sf_policy_node.contract import ContractError

_FIND_S = 10.0


@dataclass(frozen=True)
class Arguments:
    """Move arms to the home pose of their contract, slowly and inside its limits. This ends the
    policy's instruction. Ctrl-C cancels the motion.
    """

    arms: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of the arms in the contract; empty: all."""
    robot: str = SIM_ROBOT
    """The robot of the running graph: its name or the path of its contract."""
    namespace: str = ""
    """Namespace of the arm's nodes; empty: the variable ROS_NAMESPACE."""


def main() -> int:
    """Parse the command line and run; return 0 if the arms are at home."""
    arguments = tyro.cli(
        Arguments, args=ros_words(sys.argv[1:]), description=Arguments.__doc__, prog="home"
    )
    try:
        client = client_of(arguments.robot, arguments.namespace)
    except (GraphError, ContractError) as error:
        print(f"home: {error}", file=sys.stderr)
        return 1
    try:
        return run(client, arguments, Console(highlight=False))
    except KeyboardInterrupt:
        print("home: ended before the executor answered; see that the arm stops", file=sys.stderr)
        return 1
    finally:
        client.close()


def run(client: ArmClient, arguments: Arguments, console: Console) -> int:
    """Send the goal, show the distance and print how it ended; return the exit code."""
    try:
        client.wait_for_executor(_FIND_S)
    except ArmClientError as error:
        print(f"home: {error}; start the graph: python3 -m sf_bringup.up", file=sys.stderr)
        return 1
    try:
        with console.status("sent") as status:
            ended = client.go_home(
                arguments.arms,
                lambda distance: status.update(f"{distance:.2f} rad or m from home"),
            )
    except ArmClientError as error:
        print(f"home: {error}; read the output of the graph", file=sys.stderr)
        return 1
    if not ended.success:
        print(f"home: {ended.message}", file=sys.stderr)
        return 1
    console.print(f"{ended.message} ({ended.duration_s:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
