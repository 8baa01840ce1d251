"""Start a graph with a simulated robot and connect a client, for demo and evaluation."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from sf_bringup.arguments import SIM_ROBOT, GraphError, resolve_namespace
from sf_bringup.arm_client import ArmClient, ArmClientError
from sf_bringup.graph import arm_graph, find_robot
from sf_bringup.graph_process import GraphProcess
from sf_policy_node.contract import Contract, load_contract

START_S = 180.0  # until the checkpoint is loaded, on a busy machine
_LOOK_AROUND_S = 3.0  # until a simulated arm that already runs has been heard
_SHIPPED = {SIM_ROBOT: "nano", "piper_pair": "nano_pair"}  # robot: policy of config/policies


@contextmanager
def running_graph(
    policy: str, log: Path, console: Console, *, images: bool = False, robot: str = SIM_ROBOT
) -> Iterator[ArmClient]:
    """Start a simulated robot with a policy, wait until both are ready, and stop everything at the
    end.

    Args:
        policy: name or path; empty takes :func:`shipped_policy`.

    Raises:
        GraphError: unknown policy.
        ArmClientError: another simulated arm runs in this ROS domain, or the graph does not start.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # An exception, so that the context managers stop all nodes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    policy, sim = policy or shipped_policy(robot), robot != SIM_ROBOT
    arm_graph(robot=robot, policy=policy, sim=sim)  # raises errors before anything starts
    contract = load_contract(find_robot(robot), namespace=resolve_namespace(""))
    _refuse_second_arm(contract)
    words = [f"robot:={robot}", f"policy:={policy}", *(["sim:=true"] if sim else [])]
    with GraphProcess(words, log) as graph:
        client = ArmClient(contract, images=images, alive=graph.check, hint=f"; read {log}")
        try:
            begin = time.monotonic()
            with console.status("starting the simulated arm"):
                client.wait_for_arm(START_S)
            with console.status("loading the policy"):
                client.wait_for_policy(START_S)
            policy_status = client.policy
            assert policy_status is not None  # received by wait_for_policy
            console.print(
                f"ready after {time.monotonic() - begin:.1f} s: {policy_status.policy_id} on"
                f" {policy_status.device}"
            )
            yield client
        finally:
            client.close()


def shipped_policy(robot: str) -> str:
    """Return the name of the policy that is shipped for a simulated robot.

    Raises:
        GraphError: there is no policy for this robot.
    """
    if robot not in _SHIPPED:
        raise GraphError(
            f"--policy: none is shipped for {robot}; give the directory of a checkpoint"
        )
    return _SHIPPED[robot]


def ros_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with ``key:=value``, as in launch, as ``--key value``."""
    found = []
    for word in words:
        key, given, value = word.partition(":=")
        found += [f"--{key}", value] if given and key.isidentifier() else [word]
    return found


def _refuse_second_arm(contract: Contract) -> None:
    client = ArmClient(contract)
    try:
        client.wait_until(lambda: client.task is not None, _LOOK_AROUND_S, "nobody")
    except ArmClientError:
        return
    finally:
        client.close()
    raise ArmClientError(
        f"a simulated arm already runs in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}; stop"
        " it, or set another ROS_DOMAIN_ID"
    )
