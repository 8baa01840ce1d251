"""Convert between messages of the simulated arm and arrays."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from types import SimpleNamespace

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ObjectState
from sf_msgs.msg import TaskState as TaskStateMessage
from sf_policy_node.controller.validation import TrajectoryRejected
from sf_training.simulation.arm_sim import TaskState


def to_stamp(seconds: float) -> Time:
    """Convert seconds >= 0 to ROS time, to the microsecond."""
    microseconds = round(seconds * 1e6)
    return Time(sec=microseconds // 1_000_000, nanosec=microseconds % 1_000_000 * 1000)


def to_trajectory(message: JointTrajectory) -> SimpleNamespace:
    """Convert a trajectory message of N points and J joints to arrays.

    Returns:
        ``stamp`` [s], ``joint_names``, ``times`` (N,) [s] from the stamp, ``positions`` (N, J) and
        ``velocities`` (N, J), or None if no point has velocities.

    Raises:
        TrajectoryRejected: points have different sizes, or only some have velocities.
    """
    points = message.points
    with_velocities = sum(bool(point.velocities) for point in points)
    if with_velocities not in (0, len(points)):
        raise TrajectoryRejected(
            f"velocities: {with_velocities} of {len(points)} points have them; give all or none"
        )
    width = len(message.joint_names)
    for what in ("positions", "velocities") if with_velocities else ("positions",):
        for index, point in enumerate(points):
            if len(getattr(point, what)) != width:
                raise TrajectoryRejected(
                    f"{what}: point {index} has {len(getattr(point, what))} values for {width}"
                    " joints"
                )
    return SimpleNamespace(
        stamp=message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec,
        joint_names=tuple(message.joint_names),
        times=np.array(
            [point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec for point in points]
        ),
        positions=np.array([point.positions for point in points], float).reshape(
            len(points), width
        ),
        velocities=(
            np.array([point.velocities for point in points], float) if with_velocities else None
        ),
    )


def joint_state(
    stamp: Time, names: Sequence[str], positions: np.ndarray, velocities: np.ndarray
) -> JointState:
    """Build a message of positions [rad, m] and velocities [rad/s, m/s], both (J,)."""
    message = JointState(
        name=list(names), position=positions.tolist(), velocity=velocities.tolist()
    )
    message.header.stamp = stamp
    return message


def image(stamp: Time, frame: str, encoding: str, pixels: np.ndarray) -> Image:
    """Build an image message from ``pixels``: (H, W, 3) uint8 for rgb8, or (H, W) float32 for
    32FC1.
    """
    pixels = np.ascontiguousarray(pixels)
    message = Image(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels.strides[0]
    )
    message.header.stamp, message.header.frame_id = stamp, frame
    data = array("B")
    data.frombytes(pixels.data.cast("B"))
    # rclpy assigns an array.array directly, but copies an ndarray value by value in 100 ms.
    message.data = data
    return message


def compressed_image(stamp: Time, frame: str, pixels: np.ndarray) -> CompressedImage:
    """Build a JPEG message from ``pixels`` (H, W, 3) uint8 RGB, in the format of the compressed
    image_transport.
    """
    data = cv2.imencode(".jpg", pixels[..., ::-1])[1]
    message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=array("B", data.tobytes()))
    message.header.stamp, message.header.frame_id = stamp, frame
    return message


def camera_info(stamp: Time, frame: str, width: int, height: int, matrix: np.ndarray) -> CameraInfo:
    """Build the calibration of a pinhole camera without distortion; ``matrix`` K (3, 3) [px]."""
    message = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.stamp, message.header.frame_id = stamp, frame
    message.k = matrix.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([matrix, np.zeros((3, 1))]).ravel().tolist()
    return message


def task_state(seconds: float, frame: str, state: TaskState) -> TaskStateMessage:
    """Build the message of the ground truth, with positions in ``frame``."""
    message = TaskStateMessage(
        seed=state.seed,
        episode=state.episode,
        suggested_instruction=state.instruction,
        suggested_target="+".join(state.targets),
        tool=point(state.tool),
        objects=[
            ObjectState(
                name=each.colour,
                position=point(each.position),
                lifted=each.lifted,
                touched=each.touched,
            )
            for each in state.objects
        ],
    )
    message.header.stamp, message.header.frame_id = to_stamp(seconds), frame
    return message


def point(values: np.ndarray) -> Point:
    """Convert a position (3,) [m] to a message."""
    x, y, z = values.tolist()
    return Point(x=x, y=y, z=z)
