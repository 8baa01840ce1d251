"""Where the cameras of a simulated robot are: at their frame of the URDF, else at a usual place."""

from __future__ import annotations

import numpy as np
import pinocchio

from sf_policy_node.contract import Arm, Camera, Contract

_ON_HAND = ("wrist", "hand", "gripper", "tool", "ee")  # words in the names of cameras on the hand
_SCENE_FROM = np.array(
    [0.49, -0.42, 0.45]
)  # m from the middle of a workspace of 0.24 m half extent
_SCENE_EXTENT = 0.24  # m
_HAND_ASIDE, _HAND_BEHIND = 0.07, 0.10  # m from the tool, across and against its direction
_OPTICAL = np.diag(
    [1.0, -1.0, -1.0]
)  # MuJoCo looks along -z with y up, REP 103 along z with y down
_FIELD_OF_VIEW = {"frame": 55.0, "scene": 42.0, "hand": 75.0}  # degrees, vertical


def add_camera(
    spec, bodies, contract: Contract, camera: Camera, *, first: bool, table: float
) -> bool:
    """Add a camera of the contract; true when it does not move with the arm.

    A camera of ``simulation.cameras`` sits as that says, one whose frame is a link of the URDF
    there. Otherwise one called wrist, hand, gripper, tool or ee looks along the tool (of the arm
    that its name has in it, as in left_wrist), the first other one looks at the workspace from the
    right front, and any further one from the left front.
    """
    robot = pinocchio.buildModelFromXML(contract.urdf_xml)
    if mount := contract.simulation.cameras.get(camera.name):
        body, placement = bodies.body(mount.frame)
        place, target, up = (np.array(each) for each in (mount.position, mount.look_at, mount.up))
        rotation = placement.rotation @ _looking(place, target, up)
        _add(body, camera.name, placement.act(place), rotation, mount.field_of_view)
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
        place = tool.translation - _HAND_BEHIND * approach + _HAND_ASIDE * aside
        _add(
            body,
            camera.name,
            place,
            _looking(place, tool.translation, -aside),
            _FIELD_OF_VIEW["hand"],
        )
        return False
    lower, upper = workspace_bounds(contract)
    target = np.append(0.5 * (lower + upper)[:2], table + 0.05)
    scale = float(np.linalg.norm(0.5 * (upper - lower)[:2])) / (np.sqrt(2.0) * _SCENE_EXTENT)
    way = _SCENE_FROM * scale * (1.0 if first else np.array([1.0, -1.0, 1.0]))
    place = target + way
    _add(
        spec.worldbody,
        camera.name,
        place,
        _looking(place, target, np.array([0, 0, 1.0])),
        _FIELD_OF_VIEW["scene"],
    )
    return True


def workspace_bounds(contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (3,), (3,) of the box around the workspaces of all arms [m]."""
    boxes = [arm.workspace for arm in contract.arms.values()]
    return np.min([box.lower for box in boxes], 0), np.max([box.upper for box in boxes], 0)


def _arm_of(contract: Contract, camera: Camera) -> Arm:
    """The arm whose name is a part of the camera's name; the first arm if none is."""
    words = camera.name.lower().split("_")
    named = [arm for name, arm in contract.arms.items() if name.lower() in words]
    return next(iter([*named, *contract.arms.values()]))


def hand_axes(robot: pinocchio.Model, tool_frame: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the direction of the tool and one across (3,), in the frame of the tool's joint.

    The tool points along that axis of its own which leads away from its joint; z when the two
    coincide. The other axis is the one along which the fingers are least apart.
    """
    frame = robot.frames[robot.getFrameId(tool_frame, pinocchio.FrameType.BODY)]
    tool = frame.placement
    away = tool.rotation.T @ tool.translation
    axis = int(np.abs(away).argmax()) if np.linalg.norm(away) > 1e-6 else 2
    sign = np.sign(away[axis]) or 1.0
    apart = np.zeros(3)
    for joint in robot.children[frame.parentJoint]:
        kind, place = robot.joints[joint], robot.jointPlacements[joint]
        apart += np.abs(tool.rotation.T @ (place.translation - tool.translation))
        if kind.shortname().startswith("JointModelP"):
            data = kind.createData()
            kind.calc(data, pinocchio.neutral(robot))
            slide = place.rotation @ np.asarray(data.S, dtype=float).reshape(6)[:3]
            apart += np.abs(tool.rotation.T @ slide)
    across = min((n for n in range(3) if n != axis), key=lambda n: round(float(apart[n]), 6))
    return sign * tool.rotation[:, axis], tool.rotation[:, across]


def _looking(place: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) of a MuJoCo camera at ``place`` that looks at ``target``."""
    back = (place - target) / np.linalg.norm(place - target)
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    return np.column_stack([right, np.cross(back, right), back])


def _add(body, name: str, place: np.ndarray, rotation: np.ndarray, field_of_view: float) -> None:
    x, y, z, w = pinocchio.Quaternion(rotation).coeffs()
    body.add_camera(name=name, pos=place, quat=[w, x, y, z], fovy=field_of_view)
