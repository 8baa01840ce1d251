"""Press or reset the emergency stop of a running graph from a shell:
``python3 -m sf_bringup.emergency_stop``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from sf_bringup.arguments import SIM_ROBOT, GraphError
from sf_bringup.arm_client import ArmClient, ArmClientError, client_of
from sf_bringup.running_graph import ros_words
from sf_msgs.msg import ExecutorStatus
from sf_policy_node.contract import ContractError

_FIND_S = 10.0
_RELEASED_S = 2.0  # the service may overtake the message that releases


@dataclass(frozen=True)
class Arguments:
    """Stop the arms of a running graph and latch that, or allow motion again with `reset`.

    This starts within a second or two: it does not replace the hardware emergency stop.
    """

    action: Annotated[Literal["press", "reset"], tyro.conf.Positional] = "press"
    """reset: also releases and names buttons whose program ended while they were pressed, but none
    that is still pressed."""
    robot: str = SIM_ROBOT
    """The robot of the running graph: its name or the path of its contract."""
    namespace: str = ""
    """Namespace of the arm's nodes; empty: the variable ROS_NAMESPACE."""


def main() -> int:
    """Parse the command line and run; return 0 if the executor did what was asked."""
    arguments = tyro.cli(
        Arguments,
        args=ros_words(sys.argv[1:]),
        description=Arguments.__doc__,
        prog="emergency_stop",
    )
    try:
        client = client_of(arguments.robot, arguments.namespace)
    except (GraphError, ContractError) as error:
        print(f"emergency_stop: {error}", file=sys.stderr)
        return 1
    try:
        print(press(client) if arguments.action == "press" else reset(client))
    except ArmClientError as error:
        print(f"emergency_stop: {error}", file=sys.stderr)
        return 1
    finally:
        client.close()
    return 0


def press(client: ArmClient) -> str:
    """Press until the executor reports that it is stopped; return a sentence.

    Raises:
        ArmClientError: it does not.
    """
    try:
        client.press(True)
        client.wait_until(
            lambda: client.executor and client.executor.state == ExecutorStatus.STOPPED,
            _FIND_S,
            "chunk_executor did not report that it stopped",
        )
    except ArmClientError as error:
        cure = "use the hardware emergency stop, then check robot:= and namespace:="
        raise ArmClientError(f"{error}; {cure}") from None
    return "stopped and latched; to allow motion again: emergency_stop reset"


def reset(client: ArmClient) -> str:
    """Reset the latch; return the executor's answer.

    Raises:
        ArmClientError: there is no executor, or a button is pressed.
    """
    client.wait_for_executor(_FIND_S)
    if client.contract.budgets.emergency_stop_age_s is None:
        # Before Kilted rclpy does not report publishers: this release counts for one that is gone.
        client.press(False)
    # With a heartbeat this program would be a button that falls silent.
    end = time.monotonic() + _RELEASED_S
    while True:
        try:
            return client.reset_emergency_stop()
        except ArmClientError:
            if time.monotonic() > end:
                raise


if __name__ == "__main__":
    sys.exit(main())
