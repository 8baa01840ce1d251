"""Which joints of a URDF are the arm, which the gripper, and where the tool is: a guess to be
looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from sf_policy_node.urdf import MOVING, RobotDescription, UrdfError, UrdfJoint

_TOOL_WORDS = ("tcp", "tool", "grasp", "tip", "ee", "eef")
_GRIPPER_WORDS = ("gripper", "finger", "knuckle", "jaw")


@dataclass(frozen=True)
class ArmGuess:
    """The arm's joints from base to tool; ``tools`` are links that could be the tool, best first.

    ``others`` are movable joints that are neither arm nor gripper and follow nothing.
    """

    base: str
    tool: str
    tools: tuple[str, ...]
    joints: tuple[UrdfJoint, ...]
    gripper: UrdfJoint | None
    others: tuple[str, ...]


def guess_arm(description: RobotDescription, base: str = "", tool: str = "") -> ArmGuess:
    """Return the arm of a URDF.

    Args:
        base, tool: links that the user knows; empty: the root (behind a link ``world``), and the
        end
            of the longest chain of moving joints, with a link called like a tool first.

    Raises:
        UrdfError: a given link is unknown, or no joint moves the tool.
    """
    for key, link in (("base", base), ("tool", tool)):
        if link and link not in description.links:
            known = ", ".join(sorted(description.links))
            raise UrdfError(f"{key}: {link!r} is not a link of the URDF; it has {known}")
    children = {joint.child for joint in description.joints.values()}
    root = min(description.links - children)
    base = base or _behind_world(description, root)
    chains = {link: _moving(description, base, link) for link in description.links}
    grippers = {
        joint.name for joint in description.joints.values() if _is_gripper(description, joint)
    }
    lengths = {
        link: sum(joint.name not in grippers for joint in chain) if chain is not None else -1
        for link, chain in chains.items()
    }
    longest = max(lengths.values())
    tools = [link for link, length in lengths.items() if length == longest]
    # What hangs on the last arm joint alone, without a gripper's joint between.
    tools = [
        link for link in tools if not any(j.name in grippers for j in chains[link] or [])
    ] or tools
    tools.sort(key=lambda link: (-_called_tool(link), -_depth(description, link), link))
    tool = tool or tools[0]
    joints = chains[tool]
    if not joints:
        raise UrdfError(f"no joint between {base} and {tool} moves; give another base or tool")
    gripper = _find_gripper(description, joints)
    ours = {joint.name for joint in joints} | ({gripper.name} if gripper else set())
    others = [
        joint.name
        for joint in description.joints.values()
        if joint.kind in MOVING and joint.mimics is None and joint.name not in ours
    ]
    return ArmGuess(base, tool, tuple(tools), tuple(joints), gripper, tuple(others))


def _behind_world(description: RobotDescription, root: str) -> str:
    below = [joint for joint in description.joints.values() if joint.parent == root]
    if root in ("world", "map") and len(below) == 1 and below[0].kind == "fixed":
        return below[0].child
    return root


def _moving(description: RobotDescription, base: str, link: str) -> list[UrdfJoint] | None:
    """Moving joints from ``base`` down to ``link``; ``None`` when ``link`` is not below it."""
    if link == base:
        return []
    chain = description.ancestors(link)
    chain = chain if not chain or chain[-1].child == link else chain[::-1]
    parents = [joint.parent for joint in chain]
    if base not in parents:
        return None
    return [joint for joint in chain[parents.index(base) :] if joint.kind in MOVING]


def _is_gripper(description: RobotDescription, joint: UrdfJoint) -> bool:
    """Whether a joint mimics, is mimicked, or has a name like a part of a gripper."""
    followed = any(other.mimics == joint.name for other in description.joints.values())
    called = any(word in joint.name.lower() for word in _GRIPPER_WORDS)
    return joint.mimics is not None or followed or called


def _find_gripper(description: RobotDescription, joints: list[UrdfJoint]) -> UrdfJoint | None:
    """Return the joint beyond the last arm joint that moves fingers; joints that others mimic come
    first.
    """
    beyond = [
        joint
        for joint in description.joints.values()
        if joint.kind in MOVING
        and joint.mimics is None
        and joint not in joints
        and joints[-1] in description.ancestors(joint.parent)
    ]
    followed = {joint.mimics for joint in description.joints.values()}
    beyond.sort(
        key=lambda joint: (
            joint.name not in followed,
            not _is_gripper(description, joint),
            joint.name,
        )
    )
    return beyond[0] if beyond else None


def _called_tool(link: str) -> int:
    words = re.split(r"[^a-z]+", link.lower())
    return int(any(word in words for word in _TOOL_WORDS))


def _depth(description: RobotDescription, link: str) -> int:
    return len(description.ancestors(link))


def reach_box(positions: np.ndarray) -> tuple[list[float], list[float]]:
    """Return a box in front of the base, within tool positions (N, 3) that the arm reaches [m].

    Its middle lies where the arm still has room on all sides: a start to be looked at.
    """
    ahead = positions[(positions[:, 0] > 0.0) & (positions[:, 2] > 0.0)]
    if len(ahead) < 10:
        ahead = positions
    far = float(np.quantile(np.linalg.norm(ahead[:, :2], axis=1), 0.9))
    high = float(np.quantile(ahead[:, 2], 0.8))
    lower = [round(0.35 * far, 2), round(-0.45 * far, 2), 0.01]
    upper = [round(0.8 * far, 2), round(0.45 * far, 2), round(max(min(high, 0.7 * far), 0.1), 2)]
    return lower, upper
