"""Make a contract and a recording of two arms side by side from those of one arm."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import yaml
from bench.recording import Recording

from sf_policy_node.contract import Contract, parse_contract

_ARMS = ("left", "right")
_APART_M = 1.5


def twice(contract: Contract) -> Contract:
    """Return a contract of two such arms, each with a separate controller."""
    data, one = contract.model_dump(mode="json"), contract.only_arm.model_dump(mode="json")
    data["arms"] = {name: _renamed(one, name) for name in _ARMS}
    tool = contract.action.space.is_tool
    data["action"]["names"] = [
        f"{arm}/{column.name}" if tool or column.kind == "gripper" else f"{arm}_{column.name}"
        for arm in _ARMS
        for column in contract.columns.action
    ]
    collision = data.get("collision") or {}
    if pairs := collision.get("allowed"):
        collision["allowed"] = [
            [f"{arm}_{link}" for link in pair] for arm in _ARMS for pair in pairs
        ]
    data["base_frame"] = "world"
    return parse_contract(yaml.safe_dump(data), _urdf(contract.urdf_xml))


def of_both(recording: Recording, contract: Contract) -> Recording:
    """Return a recording of one arm as one in which both arms do the same."""
    joints = [
        (stamp, np.tile(positions, 2), np.tile(velocities, 2))
        for stamp, positions, velocities in recording.joints
    ]
    chunks = [
        (
            arrival,
            dataclasses.replace(
                chunk,
                contract_hash=contract.hash,
                frame=contract.base_frame,
                names=tuple(contract.action.names),
                data=np.hstack([chunk.data, chunk.data]),
                reference_names=tuple(contract.command_joints),
                reference=np.tile(chunk.reference, 2),
            ),
        )
        for arrival, chunk in recording.chunks
    ]
    return dataclasses.replace(recording, joints=joints, chunks=chunks)


def _renamed(arm: dict, name: str) -> dict:
    joints = [joint | {"name": f"{name}_{joint['name']}"} for joint in arm["joints"]]
    gripper = arm["gripper"] and arm["gripper"] | {"joint": f"{name}_{arm['gripper']['joint']}"}
    return arm | {
        "base_frame": f"{name}_{arm['base_frame']}",
        "tool_frame": f"{name}_{arm['tool_frame']}",
        "joints": joints,
        "gripper": gripper,
        "command": arm["command"] | {"topic": f"{name}/{arm['command']['topic']}"},
    }


def _urdf(text: str) -> str:
    found = re.search(r"<robot[^>]*>(.*)</robot>", text, re.DOTALL)
    assert found, "the URDF of one arm"
    parts = ['<robot name="two"><link name="world"/>']
    for name, side in zip(_ARMS, (0.5, -0.5), strict=True):
        parts.append(re.sub(r'((?:name|link|joint)=")', rf"\1{name}_", found[1]))
        parts.append(
            f'<joint name="{name}_stand" type="fixed"><parent link="world"/>'
            f'<child link="{name}_base_link"/><origin xyz="0 {side * _APART_M} 0"/></joint>'
        )
    return "".join([*parts, "</robot>"])
