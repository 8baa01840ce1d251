"""Mount the cameras of a simulated robot: at their frame in the URDF, else at a usual pose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pinocchio

from sf_policy_node.contract import Arm, Camera, Contract
from sf_training.simulation.robot_bodies import RobotBodies

_ON_HAND = ("wrist", "hand", "gripper", "tool", "ee")  # words in the names of hand cameras
# m from the centre of a workspace with a half extent of _SCENE_EXTENT; scaled for others
_SCENE_FROM = np.array([0.49, -0.42, 0.45])
_SCENE_EXTENT = 0.24  # m
_HAND_ASIDE, _HAND_BEHIND = 0.07, 0.10  # m from the tool, across and against its direction
# MuJoCo cameras look along -z with y up, optical frames (REP 103) along z with y down.
_OPTICAL = np.diag([1.0, -1.0, -1.0])
_FIELD_OF_VIEW = {"frame": 55.0, "scene": 42.0, "hand": 75.0}  # degrees, vertical


def add_camera(
    spec: Any,
    bodies: RobotBodies,
    contract: Contract,
    camera: Camera,
    *,
    first: bool,
    table: float,
) -> bool:
    """Add a camera of the contract; return True if it does not move with an arm.

    The pose comes from ``simulation.cameras`` or from a URDF link of its frame. Otherwise a camera
    named wrist, hand, gripper, tool or ee looks along the tool (of the arm in its name, as in
    left_wrist). The first other camera looks at the workspace from the right front, further ones
    from the left front.
    """
    robot = pinocchio.buildModelFromXML(contract.urdf_xml)
    if mount := contract.simulation.cameras.get(camera.name):
        body, placement = bodies.body(mount.frame)
        eye, target, up = (np.array(each) for each in (mount.position, mount.look_at, mount.up))
        rotation = placement.rotation @ _looking(eye, target, up)
        _add(body, camera.name, placement.act(eye), rotation, mount.field_of_view)
        return (
            robot.frames[robot.getFrameId(mount.frame, pinocchio.FrameType.BODY)].parentJoint == 0
        )
    if robot.existFrame(camera.frame, pinocchio.FrameType.BODY):
        body, placement = bodies.body(camera.frame)
        _add(
            body,
            camera.name,
            placement.translation,
            placement.rotation @ _OPTICAL,
            _FIELD_OF_VIEW["frame"],
        )
        frame = robot.frames[robot.getFrameId(camera.frame, pinocchio.FrameType.BODY)]
        return frame.parentJoint == 0
    if any(word in camera.name.lower().split("_") for word in _ON_HAND):
        tool_frame = _arm_of(contract, camera).tool_frame
        body, tool = bodies.body(tool_frame)
        approach, aside = hand_axes(robot, tool_frame)
        eye = tool.translation - _HAND_BEHIND * approach + _HAND_ASIDE * aside
        _add(
            body,
            camera.name,
            eye,
            _looking(eye, tool.translation, -aside),
            _FIELD_OF_VIEW["hand"],
        )
        return False
    lower, upper = workspace_bounds(contract)
    target = np.append(0.5 * (lower + upper)[:2], table + 0.05)
    scale = float(np.linalg.norm(0.5 * (upper - lower)[:2])) / (np.sqrt(2.0) * _SCENE_EXTENT)
    eye = target + _SCENE_FROM * scale * (1.0 if first else np.array([1.0, -1.0, 1.0]))
    _add(
        spec.worldbody,
        camera.name,
        eye,
        _looking(eye, target, np.array([0, 0, 1.0])),
        _FIELD_OF_VIEW["scene"],
    )
    return True


def workspace_bounds(contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (3,), (3,) of the box around the workspaces of all arms [m]."""
    boxes = [arm.workspace for arm in contract.arms.values()]
    return np.min([box.lower for box in boxes], 0), np.max([box.upper for box in boxes], 0)


def _arm_of(contract: Contract, camera: Camera) -> Arm:
    """Return the arm whose name is a word of the camera's name; else the first arm."""
    words = camera.name.lower().split("_")
    named = [arm for name, arm in contract.arms.items() if name.lower() in words]
    return next(iter([*named, *contract.arms.values()]))


def hand_axes(robot: pinocchio.Model, tool_frame: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pointing axis of the tool and one across (3,), in the frame of its parent joint.

    The tool points along that axis of its frame which leads away from the joint; along z if the two
    coincide. The axis across is the one along which the fingers are least apart.
    """
    frame = robot.frames[robot.getFrameId(tool_frame, pinocchio.FrameType.BODY)]
    tool = frame.placement
    away = tool.rotation.T @ tool.translation
    axis = int(np.abs(away).argmax()) if np.linalg.norm(away) > 1e-6 else 2
    sign = np.sign(away[axis]) or 1.0
    apart = np.zeros(3)
    for joint in robot.children[frame.parentJoint]:
        model, placement = robot.joints[joint], robot.jointPlacements[joint]
        apart += np.abs(tool.rotation.T @ (placement.translation - tool.translation))
        if model.shortname().startswith("JointModelP"):
            data = model.createData()
            model.calc(data, pinocchio.neutral(robot))
            slide = placement.rotation @ np.asarray(data.S, dtype=float).reshape(6)[:3]
            apart += np.abs(tool.rotation.T @ slide)
    across = min(
        (other for other in range(3) if other != axis),
        key=lambda other: round(float(apart[other]), 6),
    )
    return sign * tool.rotation[:, axis], tool.rotation[:, across]


def _looking(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a MuJoCo camera at ``eye`` that looks at ``target``."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    return np.column_stack([right, np.cross(back, right), back])


def _add(body: Any, name: str, eye: np.ndarray, rotation: np.ndarray, field_of_view: float) -> None:
    x, y, z, w = pinocchio.Quaternion(rotation).coeffs()
    body.add_camera(name=name, pos=eye, quat=[w, x, y, z], fovy=field_of_view)
