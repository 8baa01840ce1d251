"""Compute the poses of all links of a robot description from joint positions, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pinocchio

from sf_policy_node.urdf import MOVING, RobotDescription, UrdfJoint


@dataclass(frozen=True)
class LinkPose:
    """Hold the pose of a link in its parent link: ``position`` (3,) [m], ``rotation`` (3, 3)."""

    parent: str
    link: str
    position: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class _Mimic:
    """Describe a joint that follows ``leader``: position = multiplier * leader + offset."""

    leader: str
    multiplier: float
    offset: float


class FrameTree:
    """Compute link poses for one URDF.

    Args:
        urdf_xml: text of the URDF.

    Raises:
        UrdfError: the text is not a URDF.
    """

    def __init__(self, urdf_xml: str) -> None:
        joints = RobotDescription(urdf_xml).joints.values()
        self._fixed = [joint for joint in joints if joint.kind == "fixed"]
        self._moving = [joint for joint in joints if joint.kind in MOVING]
        self._mimics = _read_mimics(urdf_xml)

    def fixed(self) -> list[LinkPose]:
        """Return the poses of links on fixed joints."""
        return [_pose(joint, 0.0) for joint in self._fixed]

    def moving(self, positions: Mapping[str, float]) -> list[LinkPose]:
        """Return the poses of links on moving joints.

        Args:
            positions: joint to position [rad or m]. Joints without one are left out; a mimic joint
                takes that of its leader.
        """
        poses = []
        for joint in self._moving:
            mimic = self._mimics.get(joint.name)
            leader = positions.get(mimic.leader if mimic else joint.name)
            if leader is not None:
                poses.append(
                    _pose(joint, mimic.multiplier * leader + mimic.offset if mimic else leader)
                )
        return poses


def _pose(joint: UrdfJoint, position: float) -> LinkPose:
    turn, shift = np.eye(3), np.zeros(3)
    if joint.kind == "prismatic":
        shift = joint.axis * position
    elif joint.kind != "fixed":
        turn = pinocchio.exp3(joint.axis * position)
    origin = joint.origin
    return LinkPose(
        joint.parent, joint.child, origin[:3, 3] + origin[:3, :3] @ shift, origin[:3, :3] @ turn
    )


def _read_mimics(urdf_xml: str) -> dict[str, _Mimic]:
    mimics = {}
    for joint in ElementTree.fromstring(urdf_xml).findall("joint"):
        mimic = joint.find("mimic")
        if mimic is not None:
            numbers = float(mimic.get("multiplier", 1.0)), float(mimic.get("offset", 0.0))
            mimics[joint.get("name", "")] = _Mimic(mimic.get("joint", ""), *numbers)
    return mimics
