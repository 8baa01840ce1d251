"""Two simulated arms side by side with a shared workspace: a contract with ``arms``."""

import re
from functools import cache

import numpy as np
import yaml
from motion_cases import CONTRACT_PATH, HOME

from sf_policy_node.contract import Contract, parse_contract

NAMES = ("left", "right")
APART = 0.35  # m from the common frame to the base of each arm, along y
PAIR_HOME = np.concatenate([HOME, HOME])


@cache
def pair_urdf(apart: float = APART) -> str:
    """Return the URDF of two simulated arms, each rotated towards x of ``world``."""
    text = CONTRACT_PATH.with_suffix(".urdf").read_text()
    body = re.search(r"<robot[^>]*>(.*)</robot>", text, re.DOTALL).group(1)
    parts = ['<robot name="pair"><link name="world"/>']
    for name, side in zip(NAMES, (1.0, -1.0), strict=True):
        parts.append(re.sub(r'((?:name|link|joint)=")', rf"\1{name}_", body))
        parts.append(
            f'<joint name="{name}_stand" type="fixed"><parent link="world"/>'
            f'<child link="{name}_base_link"/><origin xyz="0 {side * apart} 0"/></joint>'
        )
    return "".join([*parts, "</robot>"])


def pair_data(space: str = "joint_position", *, topics: str = "own") -> dict:
    """Return the contract of the pair as data.

    ``topics``: ``own`` of each arm, or one ``common`` one.
    """
    one = yaml.safe_load(CONTRACT_PATH.read_text())
    arms = {}
    for name in NAMES:
        arms[name] = {
            "base_frame": f"{name}_base_link",
            "tool_frame": f"{name}_tool0",
            "joints": [joint | {"name": f"{name}_{joint['name']}"} for joint in one["joints"]],
            "gripper": one["gripper"] | {"joint": f"{name}_gripper"},
            "workspace": one["workspace"],
            "home": HOME[:6].tolist(),
        }
        if topics == "own":
            topic = f"{name}_arm_controller/joint_trajectory"
            arms[name]["command"] = one["command"] | {"topic": topic}
    names = [f"{arm}_joint{n}" for arm in NAMES for n in range(1, 7)]
    if space.startswith("ee"):
        names = [f"{arm}/{axis}" for arm in NAMES for axis in "xyz"]
    half = len(names) // 2
    names = [*names[:half], "left/gripper", *names[half:], "right/gripper"]
    common = {key: one[key] for key in ("cameras", "budgets", "topics")}
    return common | {
        "schema_version": 2,
        "robot": "pair",
        "urdf": "pair.urdf",
        "base_frame": "world",
        "arms": arms,
        "action": one["action"] | {"space": space, "names": names},
        **({"command": one["command"]} if topics == "common" else {}),
    }


@cache
def pair(space: str = "joint_position", *, topics: str = "own", apart: float = APART) -> Contract:
    """Return the contract of the pair."""
    return parse_contract(yaml.safe_dump(pair_data(space, topics=topics)), pair_urdf(apart), "pair")
