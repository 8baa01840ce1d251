"""Run the doctor from the command line or as a node of a journey."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from sf_bringup.arguments import (
    BOOLEANS,
    NAMESPACE_VARIABLE,
    SIM_ROBOT,
    Argument,
    GraphError,
    parse_arguments,
    resolve_namespace,
)
from sf_bringup.doctor.findings import Finding, as_json, exit_code, print_table
from sf_bringup.doctor.listen import Listener, look_at_machine
from sf_bringup.doctor.machine_checks import check_contract, check_machine
from sf_bringup.doctor.output_checks import check_commands, check_controller, check_nodes
from sf_bringup.doctor.seen import Seen
from sf_bringup.doctor.stream_checks import check_cameras, check_joint_states
from sf_bringup.graph import find_robot
from sf_bringup.journeys import remap_global_topics
from sf_bringup.simulated_contract import for_simulation, is_simulated
from sf_bringup.up import remap, usage
from sf_policy_node.contract import Contract, ContractError, load_contract

_ROS = "--ros-args"

ARGUMENTS = (
    Argument("robot", SIM_ROBOT, "a robot of config/robots, or the path of a contract YAML"),
    Argument("sim", False, "the robot is simulated: it was started with sim:=true", BOOLEANS),
    Argument("patience", 5.0, "how many seconds to wait for drivers that are still starting"),
    Argument(
        "namespace",
        "",
        "namespace of the graph; relative topics of the contract resolve in it; empty: the variable"
        f" {NAMESPACE_VARIABLE}",
    ),
    Argument("seconds", 3.0, "how long to listen"),
    Argument(
        "json", "", "a file for the findings, or - for the standard output instead of a table"
    ),
)


def examine(contract: Contract, seen: Seen) -> list[Finding]:
    """Return the findings of all checks except those of the machine."""
    checks = (check_joint_states, check_cameras, check_commands, check_controller, check_nodes)
    findings = list(check_contract(contract))
    return findings + [finding for check in checks for finding in check(contract, seen)]


def main(words: Sequence[str] | None = None) -> int:
    """Compare a contract with the running graph and return the exit code: 0, 1 if a check failed, 2
    if the arguments are wrong.

    With ``--ros-args``, as a node of a journey, the parameter ``contract`` names the contract.
    """
    words = sys.argv[1:] if words is None else list(words)
    if {"--help", "-h"} & set(words):
        print(usage("python3 -m sf_bringup.doctor", ARGUMENTS))
        return 0
    try:
        values = parse_arguments([] if _ROS in words else words, ARGUMENTS)
        if not 0.5 <= values["seconds"] <= 120.0:
            raise GraphError(f"seconds: {values['seconds']:g} is not between 0.5 and 120")
        # With --ros-args the journey gives namespace and remappings.
        namespace = "" if _ROS in words else resolve_namespace(values["namespace"])
        rclpy.init(
            args=words if _ROS in words else [], signal_handler_options=SignalHandlerOptions.NO
        )
        node = rclpy.create_node(
            "doctor",
            namespace=namespace,
            cli_args=["--ros-args", *remap(remap_global_topics(namespace).items())],
        )
        return _examine_graph(node, values)
    except (GraphError, ContractError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()


def _examine_graph(node: Node, values: dict[str, Any]) -> int:
    robot: str = node.declare_parameter("contract", str(values["robot"])).value
    patience: float = node.declare_parameter("patience_s", float(values["patience"])).value
    path = find_robot(robot)
    namespace = node.get_namespace()
    contract = load_contract(path, namespace=namespace)
    if values["sim"]:
        contract = load_contract(for_simulation(path, contract), namespace=namespace)
    simulated = bool(
        is_simulated(contract, bool(values["sim"])) or node.get_parameter("use_sim_time").value
    )
    print(
        f"doctor: listening for {values['seconds']:g} s, after at most {patience:g} s of waiting"
        " for publishers",
        file=sys.stderr,
        flush=True,
    )
    try:
        seen = Listener(node, contract, namespace).listen(values["seconds"], patience)
    finally:
        node.destroy_node()
    seen.is_simulated = simulated
    look_at_machine(seen, Path.cwd())
    findings = examine(contract, seen) + list(check_machine(contract, seen))
    if values["json"] == "-":
        print(as_json(contract.robot, findings))
        return exit_code(findings)
    print_table(contract.robot, findings)
    if values["json"]:
        try:
            Path(values["json"]).write_text(as_json(contract.robot, findings), encoding="utf-8")
        except OSError as error:
            raise GraphError(
                f"json: {values['json']} cannot be written ({error.strerror})"
            ) from None
    return exit_code(findings)
