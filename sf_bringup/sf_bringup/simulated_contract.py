"""Adapt a contract for simulation on a machine without the package of its gripper action."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from sf_bringup.arguments import SIM_ROBOT
from sf_policy_node.contract import Contract, GripperCommand


def is_simulated(contract: Contract, sim: bool) -> bool:
    """Return whether a robot is simulated: with ``sim:=true``, and ``sim_arm`` always."""
    return sim or contract.robot == SIM_ROBOT


def for_simulation(path: Path, contract: Contract) -> Path:
    """Return the path of the contract to simulate: ``path``, or a changed copy.

    A gripper with an action of control_msgs, which is not on PyPI, cannot be commanded where that
    package is missing. The copy, in a temporary folder of the user, sends the commands of every
    such gripper as ``forward_command`` instead. A line on the standard error says so. Policies and
    recorded data are not affected.
    """
    arms, topics = dict(contract.arms), []
    for name, arm in contract.arms.items():
        gripper = arm.command.gripper
        if gripper is None or not gripper.action:
            continue
        topics.append(f"{gripper.topic}/commands")
        changed = GripperCommand(output="forward_command", topic=topics[-1])
        command = arm.command.model_copy(update={"gripper": changed})
        arms[name] = arm.model_copy(update={"command": command})
    if not topics or _is_installed("control_msgs"):
        return path
    copy = contract.model_copy(update={"arms": arms})
    folder = Path(tempfile.gettempdir()) / f"sf_ros_simulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / contract.urdf).write_text(contract.urdf_xml, encoding="utf-8")
    written = folder / f"{contract.robot}.yaml"
    written.write_text(copy.to_yaml(), encoding="utf-8")
    print(
        f"{contract.robot}: the simulated gripper takes its commands on {', '.join(topics)},"
        " because control_msgs is not installed (the real one needs ros-$ROS_DISTRO-control-msgs)",
        file=sys.stderr,
    )
    return written


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
