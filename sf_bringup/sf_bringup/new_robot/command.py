"""Run new_robot from the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions

from sf_bringup.arguments import BOOLEANS, Argument, GraphError, parse_arguments
from sf_bringup.new_robot.arm import guess_arms
from sf_bringup.new_robot.draft import draft_contract
from sf_bringup.new_robot.survey import Survey, survey
from sf_bringup.up import usage
from sf_policy_node.contract import ContractError, undecided_keys
from sf_policy_node.text_files import TextFileError, read_text
from sf_policy_node.urdf import RobotDescription, UrdfError

ARGUMENTS = (
    Argument("urdf", "", "file of the robot description; empty: the topic robot_description"),
    Argument("out", "my_robots", "folder for NAME.yaml and NAME.urdf"),
    Argument("robot", "", "name of the robot; empty: that of the URDF"),
    Argument("base", "", "link in which tool poses are given; empty: the root"),
    Argument(
        "tool",
        "",
        "link between the finger tips, or of each arm (tool:=left,right); empty: a guess",
    ),
    Argument(
        "live", True, "listen to running drivers: cameras, joint states, controllers", BOOLEANS
    ),
    Argument("seconds", 3.0, "how long to listen"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Draft a contract and return the exit code: 0, or 2 if something is missing."""
    words = sys.argv[1:] if words is None else list(words)
    if {"--help", "-h"} & set(words):
        print(usage("python3 -m sf_bringup.new_robot", ARGUMENTS))
        return 0
    try:
        return _draft(**parse_arguments(words, ARGUMENTS))
    except (GraphError, UrdfError, ContractError, TextFileError) as error:
        print(f"new_robot: {error}", file=sys.stderr)
        return 2


def _draft(
    urdf: str, out: str, robot: str, base: str, tool: str, live: bool, seconds: float
) -> int:
    if not live and not urdf:
        raise GraphError(
            "urdf: is empty; give a file, or live:=true to take the topic robot_description"
        )
    if live:
        print(f"new_robot: listening to running drivers for {seconds:g} s", flush=True)
    seen = _listen(seconds) if live else Survey()
    if urdf:
        try:
            text = read_text(Path(urdf).expanduser())
        except OSError as error:
            raise GraphError(
                f"urdf: {urdf} cannot be read ({error.strerror}); check the path"
            ) from None
    elif not (text := seen.description):
        raise GraphError(
            "urdf: no node publishes robot_description; start robot_state_publisher, or give a file"
        )
    description = RobotDescription(text, urdf or "robot_description")
    name = robot or _name(text)
    folder = Path(out).expanduser()
    contract = folder / f"{name}.yaml"
    if contract.exists():
        raise GraphError(
            f"out: {contract} exists; give another folder or robot:=NAME, or remove it"
        )
    draft = draft_contract(name, f"{name}.urdf", text, guess_arms(description, base, tool), seen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contract.write_text(draft, encoding="utf-8")
        contract.with_suffix(".urdf").write_text(text, encoding="utf-8")
    except OSError as error:
        raise GraphError(f"out: {folder} cannot be written ({error.strerror})") from None
    print(f"{contract} and {name}.urdf are written. Decide these keys; until then it is refused:")
    for key in undecided_keys(draft):
        print(f"  {key}")
    print(f"then: python3 -m sf_bringup.up robot:={contract} sim:=true policy:=none")
    return 0


def _listen(seconds: float) -> Survey:
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("new_robot")
    try:
        return survey(node, seconds)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _name(urdf_xml: str) -> str:
    found = re.search(r"<robot\b[^>]*\bname\s*=\s*[\"']([^\"']+)", urdf_xml)
    name = re.sub(r"[^A-Za-z0-9_]", "_", found[1]) if found else "robot"
    return name if name[0].isalpha() else f"robot_{name}"
