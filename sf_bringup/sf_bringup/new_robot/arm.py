"""Guess which joints of a URDF are an arm and its gripper, and where the tool is. The user checks
the guess.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sf_policy_node.urdf import MOVING, RobotDescription, UrdfError, UrdfJoint

_TOOL_WORDS = ("tcp", "tool", "grasp", "tip", "ee", "eef")
_GRIPPER_WORDS = ("gripper", "finger", "knuckle", "jaw")
ONLY_ARM = "arm"  # name of the arm of a robot with one
_ARM_JOINTS_MIN = 3  # of an arm beside another one; fewer are a head or a rail
_HIGH_UP = 0.22  # share of the reach, above which an arm does not work at the height of its base
_SHORTER = 1  # joints that one arm of a robot may have fewer than another


@dataclass(frozen=True)
class ArmGuess:
    """The joints of one arm from base to tool.

    Attributes:
        base: link in which poses of all arms are given.
        mount: link in which the workspace box of this arm is given.
        tools: links that could be the tool, the best guess first.
        others: moving joints that belong to no arm or gripper and mimic no joint.
    """

    base: str
    tool: str
    tools: tuple[str, ...]
    joints: tuple[UrdfJoint, ...]
    gripper: UrdfJoint | None
    others: tuple[str, ...]
    mount: str


def guess_arms(
    description: RobotDescription, base: str = "", tool: str = ""
) -> dict[str, ArmGuess]:
    """Return the arms of a URDF by name: several if it has chains of joints of about equal length
    that share no joint.

    Args:
        base, tool: see :func:`guess_arm`. ``tool`` may be several links, separated by commas: one
            for each arm.

    Raises:
        UrdfError: a given link is unknown, no joint moves a tool, or two tools share a joint.
    """
    given = [word.strip() for word in tool.split(",") if word.strip()]
    if len(given) == 1:
        return {ONLY_ARM: guess_arm(description, base, given[0])}
    tools = [(link,) for link in given] or _tools_of_arms(description, base)
    if len(tools) < 2:
        return {ONLY_ARM: guess_arm(description, base)}
    arms = [guess_arm(description, base, links[0]) for links in tools]
    _refuse_shared_joints(arms)
    used = {joint.name for arm in arms for joint in arm.joints}
    used |= {arm.gripper.name for arm in arms if arm.gripper}
    arms = [
        replace(
            arm,
            mount=arm.joints[0].parent,
            tools=links,
            others=tuple(name for name in arm.others if name not in used),
        )
        for arm, links in zip(arms, tools, strict=True)
    ]
    return dict(zip(_names(arms), arms, strict=True))


def _refuse_shared_joints(arms: Sequence[ArmGuess]) -> None:
    for first, second in itertools.combinations(arms, 2):
        shared = [joint.name for joint in first.joints if joint in second.joints]
        if shared:
            raise UrdfError(
                f"tool: {first.tool} and {second.tool} share {', '.join(shared)}; make"
                " these joints fixed in the URDF, or draft one arm"
            )


def _tools_of_arms(description: RobotDescription, base: str) -> list[tuple[str, ...]]:
    """Return the links that could be the tool of each arm, the best guess first, when the URDF has
    several arms that share no joint.
    """
    root = base or _behind_world(description, _root(description))
    grippers = {
        joint.name for joint in description.joints.values() if _is_gripper(description, joint)
    }
    links: dict[tuple[str, ...], list[str]] = {}
    for link in sorted(description.links):
        chain = tuple(joint.name for joint in _moving(description, root, link) or [])
        if chain and not grippers & set(chain):
            links.setdefault(chain, []).append(link)
    ends = [
        chain
        for chain in links
        if not any(other != chain and other[: len(chain)] == chain for other in links)
    ]
    longest = max(map(len, ends), default=0)
    least = max(_ARM_JOINTS_MIN, longest - _SHORTER)
    arms = [chain for chain in ends if len(chain) >= least]
    if any(set(one) & set(other) for one, other in itertools.combinations(arms, 2)):
        return []
    return [tuple(sorted(links[chain], key=_preference(description))) for chain in arms]


def _names(arms: Sequence[ArmGuess]) -> list[str]:
    """Return names such as left and right: words that all joints of one arm have in their names and
    joints of the others have not; else arm1, arm2.
    """
    words = [[set(re.split(r"[^A-Za-z0-9]+", joint.name)) for joint in arm.joints] for arm in arms]
    names = []
    for number, own in enumerate(words):
        others = set().union(*(each for n, arm in enumerate(words) if n != number for each in arm))
        common = sorted(set.intersection(*own) - others - {""})
        fitting = [word for word in common if word[0].isalpha()]
        names.append(fitting[0] if fitting else f"arm{number + 1}")
    return names


def guess_arm(description: RobotDescription, base: str = "", tool: str = "") -> ArmGuess:
    """Return one arm of a URDF.

    Args:
        base, tool: links that the user gave; empty: the root (behind a link ``world``), and the
            end of the longest chain of moving joints, links with the name of a tool first.

    Raises:
        UrdfError: a given link is unknown, or no joint moves the tool.
    """
    for key, link in (("base", base), ("tool", tool)):
        if link and link not in description.links:
            known = ", ".join(sorted(description.links))
            raise UrdfError(f"{key}: {link!r} is not a link of the URDF; it has {known}")
    base = base or _behind_world(description, _root(description))
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
    # Links that the last arm joint moves, without a gripper joint between.
    tools = [
        link for link in tools if not any(j.name in grippers for j in chains[link] or [])
    ] or tools
    tools.sort(key=_preference(description))
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
    return ArmGuess(base, tool, tuple(tools), tuple(joints), gripper, tuple(others), mount=base)


def _root(description: RobotDescription) -> str:
    """Return the link that is no child; the first by name if there are several.

    Raises:
        UrdfError: there is none.
    """
    roots = description.links - {joint.child for joint in description.joints.values()}
    if not roots:
        raise UrdfError(
            "the URDF has no link; give the description of the whole robot"
            if not description.links
            else "every link of the URDF is the child of a joint; correct the parents of the joints"
        )
    return min(roots)


def _preference(description: RobotDescription) -> Callable[[str], tuple]:
    """Return a sort key of links: names of tools first, then the furthest from the root."""
    return lambda link: (-_called_tool(link), -_depth(description, link), link)


def _behind_world(description: RobotDescription, root: str) -> str:
    below = [joint for joint in description.joints.values() if joint.parent == root]
    if root in ("world", "map") and len(below) == 1 and below[0].kind == "fixed":
        return below[0].child
    return root


def _moving(description: RobotDescription, base: str, link: str) -> list[UrdfJoint] | None:
    """Return the moving joints from ``base`` to ``link``; None if ``link`` is not below it."""
    if link == base:
        return []
    chain = description.ancestors(link)
    chain = chain if not chain or chain[-1].child == link else chain[::-1]
    parents = [joint.parent for joint in chain]
    if base not in parents:
        return None
    return [joint for joint in chain[parents.index(base) :] if joint.kind in MOVING]


def _is_gripper(description: RobotDescription, joint: UrdfJoint) -> bool:
    """Return whether a joint mimics, is mimicked, or has a name like a part of a gripper."""
    followed = any(other.mimics == joint.name for other in description.joints.values())
    called = any(word in joint.name.lower() for word in _GRIPPER_WORDS)
    return joint.mimics is not None or followed or called


def _find_gripper(description: RobotDescription, joints: list[UrdfJoint]) -> UrdfJoint | None:
    """Return the joint behind the last arm joint that moves fingers, one that others mimic first;
    None if there is none.
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
    """Return the corners (3,), (3,) of a box in front of the base, within tool positions (N, 3)
    that the arm reaches [m].

    The user checks it: its centre lies where the arm has room on all sides. It begins at the height
    of the base, or higher for an arm that hardly reaches down there, as on a mobile base.
    """
    ahead = positions[(positions[:, 0] > 0.0) & (positions[:, 2] > 0.0)]
    if len(ahead) < 10:
        ahead = positions
    far = float(np.quantile(np.linalg.norm(ahead[:, :2], axis=1), 0.9))
    high = float(np.quantile(ahead[:, 2], 0.8))
    low = float(np.quantile(ahead[:, 2], 0.1))
    low = low if low > _HIGH_UP * far else 0.01
    height = max(min(high - low, 0.7 * far), 0.1)
    lower = [round(0.35 * far, 2), round(-0.45 * far, 2), round(low, 2)]
    upper = [round(0.8 * far, 2), round(0.45 * far, 2), round(low + height, 2)]
    return lower, upper
