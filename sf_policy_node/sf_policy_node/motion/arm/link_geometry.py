"""Reads the collision shapes of a robot's links from its URDF, and adds capsules for links without
shapes.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import coal
import numpy as np
import pinocchio

from sf_policy_node.contract import ContractError
from sf_policy_node.contract.urdf_source import package_folders

_RADIUS_SHARE = 0.05  # radius of an assumed capsule as a share of the arm's length, base to tool
_FINGER_SHARE = 0.2  # radius of a finger's capsule as a share of that radius
_SHORTEST = 0.005  # m: no capsule is assumed between two joints closer than this
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoundingCapsule:
    """A capsule that encloses a shape: ends (3,) and radius [m], in the frame of its joint."""

    start: np.ndarray
    end: np.ndarray
    radius: float


@dataclass(frozen=True)
class LinkShape:
    """One convex shape of a link.

    Attributes:
        link: name of the link.
        joint: the pinocchio joint that moves the shape; 0: none.
        placement: pose of the shape in the frame of that joint.
        capsule: encloses the shape.
        assumed: whether the shape is a capsule that the URDF does not describe.
    """

    link: str
    joint: int
    geometry: coal.CollisionGeometry
    placement: pinocchio.SE3
    capsule: BoundingCapsule
    assumed: bool = False


def read_shapes(
    model: pinocchio.Model,
    urdf_xml: str,
    tool_frames: str | Sequence[str],
    folders: Sequence[Path] = (),
    radius: float | None = None,
) -> list[LinkShape]:
    """Return the collision shapes of every moving body and of the base.

    Meshes are replaced by their convex hulls. A body without any shape gets capsules from its
    joint to the next joints or to the tool. Fingers get thin capsules as long as the tool.

    Args:
        tool_frames: of the arm, or of each arm.
        folders: where relative mesh paths and packages of ``package://`` are searched first, before
            ``ROS_PACKAGE_PATH`` and the ``share`` folders of ``AMENT_PREFIX_PATH``.
        radius: of assumed capsules [m]; None: 5 % of the arm's length.

    Raises:
        ContractError: the URDF's collision elements cannot be parsed.
    """
    text, missing = _with_absolute_meshes(urdf_xml, folders)
    if missing:
        _log.warning(
            "collision: %d meshes of the URDF are not found (%s); capsules replace their links. "
            "Install the package with the meshes, or add it to ROS_PACKAGE_PATH",
            len(missing),
            ", ".join(sorted(missing)[:3]),
        )
    try:
        found = pinocchio.buildGeomFromUrdfString(
            model, text, pinocchio.GeometryType.COLLISION, package_dirs=[""]
        )
    except (ValueError, RuntimeError) as error:
        raise ContractError(
            f"urdf: its collision elements cannot be read ({error}); correct them"
        ) from None
    shapes = [_shape(model, each) for each in found.geometryObjects]
    with_shape = {shape.joint for shape in shapes}
    names = [tool_frames] if isinstance(tool_frames, str) else tool_frames
    tools = [model.frames[model.getFrameId(name, pinocchio.FrameType.BODY)] for name in names]
    radius = radius or _RADIUS_SHARE * max(_arm_length(model, tool) for tool in tools)
    for joint in range(model.njoints):
        if joint not in with_shape:
            near = (joint, model.parents[joint])
            own = next((each for each in tools if each.parentJoint in near), tools[0])
            shapes += _assumed_capsules(model, joint, own, radius)
    return shapes


def box_shape(
    name: str, lower: np.ndarray, upper: np.ndarray, base: pinocchio.SE3, joint: int = 0
) -> LinkShape:
    """Return a box as a shape, with sides along the axes of the ``base`` frame [m].

    Args:
        base: pose of the base frame in the frame of ``joint``.
        joint: pinocchio joint that moves the base frame; 0: none.
    """
    half = 0.5 * (np.asarray(upper, float) - np.asarray(lower, float))
    centre = 0.5 * (np.asarray(upper, float) + np.asarray(lower, float))
    placement = base * pinocchio.SE3(np.eye(3), centre)
    corners = _box_corners(half) @ placement.rotation.T + placement.translation
    return LinkShape(name, joint, coal.Box(*(2.0 * half)), placement, enclosing_capsule(corners))


def enclosing_capsule(points: np.ndarray) -> BoundingCapsule:
    """Return a small capsule that encloses ``points`` (M, 3).

    Its axis is the best of the coordinate axes and the principal axes of the points.
    """
    spread = points - points.mean(axis=0)
    principal = np.linalg.svd(spread.T @ spread)[0].T
    capsules = [_capsule_along(points, axis) for axis in (*np.eye(3), *principal)]
    return min(capsules, key=_volume)


def _capsule_along(points: np.ndarray, axis: np.ndarray) -> BoundingCapsule:
    along = points @ axis
    across = points - np.outer(along, axis)
    middle = 0.5 * (across.min(axis=0) + across.max(axis=0))
    away = np.linalg.norm(across - middle, axis=1)
    radius = float(away.max()) + 1e-9
    cap = np.sqrt(radius * radius - away * away)  # how far a point may be beyond the segment's end
    start, end = float((along + cap).min()), float((along - cap).max())
    if start > end:
        start = end = 0.5 * (start + end)
        centre = middle + start * axis
        radius = float(np.linalg.norm(points - centre, axis=1).max())
    return BoundingCapsule(middle + start * axis, middle + end * axis, radius)


def _volume(capsule: BoundingCapsule) -> float:
    length = float(np.linalg.norm(capsule.end - capsule.start))
    return capsule.radius**2 * (length + 4.0 / 3.0 * capsule.radius)


def _shape(model: pinocchio.Model, found: pinocchio.GeometryObject) -> LinkShape:
    geometry, points = found.geometry, None
    if isinstance(geometry, coal.BVHModelBase):
        points = geometry.vertices()
        geometry.buildConvexRepresentation(False)
        geometry = geometry.convex
    placement = found.placement.copy()
    if isinstance(geometry, coal.Capsule | coal.Sphere):
        half = geometry.halfLength if isinstance(geometry, coal.Capsule) else 0.0
        ends = [placement.act(np.array([0.0, 0.0, sign * half])) for sign in (-1.0, 1.0)]
        capsule = BoundingCapsule(ends[0], ends[1], geometry.radius)
    else:
        points = _corners(geometry) if points is None else points
        capsule = enclosing_capsule(points @ placement.rotation.T + placement.translation)
    link = model.frames[found.parentFrame].name
    return LinkShape(link, found.parentJoint, geometry, placement, capsule)


def _corners(geometry: coal.CollisionGeometry) -> np.ndarray:
    """Return points (M, 3) whose convex hull encloses a primitive."""
    if isinstance(geometry, coal.Box):
        return _box_corners(geometry.halfSide)
    if isinstance(geometry, coal.Cylinder | coal.Cone):
        turns = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
        radius = geometry.radius / np.cos(np.pi / 16)  # of a polygon that encloses the circle
        ring = radius * np.column_stack([np.cos(turns), np.sin(turns)])
        ends = [np.column_stack([ring, np.full(16, z)]) for z in (-1.0, 1.0)]
        return np.vstack(ends) * np.array([1.0, 1.0, geometry.halfLength])
    geometry.computeLocalAABB()
    box = geometry.aabb_local
    return _box_corners(0.5 * (box.max_ - box.min_)) + 0.5 * (box.max_ + box.min_)


def _box_corners(half: np.ndarray) -> np.ndarray:
    signs = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, -1).T
    return signs * half


def carriers(model: pinocchio.Model) -> dict[int, pinocchio.Frame]:
    """Return the frame of the link to which each joint is attached."""
    found = {}
    for joint in range(1, model.njoints):
        frame = model.frames[model.getFrameId(model.names[joint], pinocchio.FrameType.JOINT)]
        found[joint] = model.frames[frame.parentFrame]
    return found


def _arm_length(model: pinocchio.Model, tool: pinocchio.Frame) -> float:
    """Return the length of an arm along its joints, from the link that carries it to its tool [m].

    0.5 where that is 0.
    """
    found = carriers(model)
    bases = {joint: found[joint].placement.translation for joint in model.children[0]}
    joints = [joint for joint in model.supports[tool.parentJoint] if joint != 0]
    lengths = [
        np.linalg.norm(model.jointPlacements[joint].translation - bases.get(joint, np.zeros(3)))
        for joint in joints
    ]
    return float(sum(lengths) + np.linalg.norm(tool.placement.translation)) or 0.5


def _assumed_capsules(
    model: pinocchio.Model, joint: int, tool: pinocchio.Frame, radius: float
) -> list[LinkShape]:
    """Return capsules from a joint to its child joints, or to the tool at the end of the arm.

    For the stationary links (joint 0) they start at the link that carries an arm: the bases of two
    arms are not connected.
    """
    if joint == 0:
        return _base_capsules(model, radius)
    links = [
        frame.name
        for frame in model.frames
        if frame.parentJoint == joint and frame.type == pinocchio.FrameType.BODY
    ]
    if not links:
        return []
    ends = [(model.jointPlacements[n].translation, False) for n in model.children[joint]]
    if tool.parentJoint == joint and not ends:
        ends = [(tool.placement.translation, True)]
    if not ends and joint and model.parents[joint] == tool.parentJoint:
        placement = model.jointPlacements[joint]
        ends, radius = [(_finger(placement.actInv(tool.placement)), True)], _FINGER_SHARE * radius
    shapes = []
    for end, is_tool in ends:
        length = float(np.linalg.norm(end))
        if length < _SHORTEST:
            continue
        if is_tool:  # the round end of the capsule reaches the tool frame
            end = end * max(0.0, 1.0 - radius / length)
        shapes.append(_capsule(links[0], joint, np.zeros(3), np.array(end), radius))
    return shapes


def _base_capsules(model: pinocchio.Model, radius: float) -> list[LinkShape]:
    """Return a capsule from each link that carries an arm to the first joint of the arm."""
    shapes = []
    found = carriers(model)
    for child in model.children[0]:
        carrier = found[child]
        start, end = carrier.placement.translation, model.jointPlacements[child].translation
        if np.linalg.norm(end - start) >= _SHORTEST:
            shapes.append(_capsule(carrier.name, 0, start.copy(), end.copy(), radius))
    return shapes


def _finger(tool: pinocchio.SE3) -> np.ndarray:
    """Return the tip (3,) of a finger in the frame of its joint, in which the tool is at ``tool``.

    The finger is along the tool's axis that points most directly from the joint to the tool.
    """
    axis = tool.rotation[:, int(np.abs(tool.translation @ tool.rotation).argmax())]
    return axis * float(axis @ tool.translation)


def _capsule(link: str, joint: int, start: np.ndarray, end: np.ndarray, radius: float) -> LinkShape:
    length = float(np.linalg.norm(end - start))
    turn = pinocchio.Quaternion.FromTwoVectors(
        np.array([0.0, 0.0, 1.0]), (end - start) / length if length else np.array([0.0, 0.0, 1.0])
    )
    placement = pinocchio.SE3(turn.toRotationMatrix(), 0.5 * (start + end))
    geometry = coal.Capsule(radius, length)
    return LinkShape(link, joint, geometry, placement, BoundingCapsule(start, end, radius), True)


def _with_absolute_meshes(urdf_xml: str, folders: Sequence[Path]) -> tuple[str, set[str]]:
    """Return the URDF with absolute paths of its collision meshes, and the names of missing ones.

    Missing meshes are removed from the URDF.
    """
    root = ElementTree.fromstring(urdf_xml.lstrip("\ufeff").encode())
    missing: set[str] = set()
    for link in root.iter("link"):
        for collision in link.findall("collision"):
            mesh = collision.find("geometry/mesh")
            if mesh is None:
                continue
            name = mesh.get("filename", "")
            path = _find_mesh(name, folders)
            if path is None:
                missing.add(name)
                link.remove(collision)
            else:
                mesh.set("filename", str(path))
    return ElementTree.tostring(root, encoding="unicode"), missing


def _find_mesh(name: str, folders: Sequence[Path]) -> Path | None:
    written = name.removeprefix("package://").removeprefix("file://")
    candidates: list[Path] = []
    for relative in dict.fromkeys((written, unquote(written))):  # in a URL a space is %20
        candidates += [Path(relative)] if Path(relative).is_absolute() else []
        candidates += [folder / relative for folder in (*folders, *package_folders())]
    return next((path.resolve() for path in candidates if path.is_file()), None)
