"""Converts messages to plain Python and back.

Array fields are filled with ``array.array``: rclpy copies any other type element by element.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sf_msgs.msg import ActionChunk, PolicyStatus
from sf_msgs.msg import ExecutorStatus as ExecutorStatusMessage
from sf_policy_node.contract import ActionSpace, Camera
from sf_policy_node.motion.cycles import Cycles
from sf_policy_node.motion.status import PER_JOINT_CLIPS, ExecutorStatus
from sf_policy_node.motion.types import Chunk, Trajectory
from sf_policy_node.perception.images import ImageError, decode_compressed, decode_image
from sf_policy_node.session.status import SessionStatus

_SPACES = {
    ActionChunk.JOINT_POSITION: ActionSpace.JOINT_POSITION,
    ActionChunk.JOINT_DELTA: ActionSpace.JOINT_DELTA,
    ActionChunk.EE_DELTA: ActionSpace.EE_DELTA,
    ActionChunk.EE_POSE: ActionSpace.EE_POSE,
}
_SPACE_NUMBERS = {space: number for number, space in _SPACES.items()}
_COUNTERS = (
    "chunks_accepted",
    "chunks_refused",
    "steps_skipped",
    "queue_depth",
    "workspace_clips",
    "tool_speed_clips",
    "ik_failures",
    "singular_rows",
    "guard_refusals",
    "shadow_rows",
    "epoch",
)
_AGES = ("chunk_age_s", "joint_state_age_s")  # -1: no chunk or joint state
_NUMBERS = ("border_jump", "border_jump_max", "clip_rate")


def to_seconds(stamp: Time) -> float:
    """Convert a stamp to seconds."""
    return stamp.sec + 1e-9 * stamp.nanosec


def to_stamp(seconds: float) -> Time:
    """Convert seconds to a stamp; times before 0 become 0."""
    nanoseconds = max(0, round(seconds * 1e9))
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def chunk_from_message(message: ActionChunk) -> Chunk:
    """Convert a message to a chunk without checking it; ``motion.chunks.checks`` does that."""
    # The checks refuse a number that is not known, and name it.
    space: Any = _SPACES.get(message.action_space, f"number {message.action_space}")
    data = np.array(message.data, dtype=float)
    if message.rows * message.columns == data.size:
        data = data.reshape(message.rows, message.columns)
    return Chunk(
        stamp=to_seconds(message.header.stamp),
        frame=message.header.frame_id,
        policy_id=message.policy_id,
        contract_hash=message.contract_hash,
        instruction=message.instruction,
        epoch=message.epoch,
        sequence=message.sequence,
        space=space,
        names=tuple(message.names),
        step_s=message.step_s,
        data=data,
        reference_names=tuple(message.reference_names),
        reference=np.array(message.reference, dtype=float),
        inference_latency_s=message.inference_latency_s,
        join=message.join,
    )


def chunk_to_message(chunk: Chunk) -> ActionChunk:
    """Convert a chunk to its message."""
    rows, columns = chunk.data.shape
    return ActionChunk(
        header=Header(stamp=to_stamp(chunk.stamp), frame_id=chunk.frame),
        policy_id=chunk.policy_id,
        contract_hash=chunk.contract_hash,
        instruction=chunk.instruction,
        epoch=chunk.epoch,
        sequence=chunk.sequence,
        action_space=_SPACE_NUMBERS[chunk.space],
        names=list(chunk.names),
        step_s=chunk.step_s,
        rows=rows,
        columns=columns,
        data=_doubles(chunk.data),
        reference_names=list(chunk.reference_names),
        reference=_doubles(chunk.reference),
        inference_latency_s=float(chunk.inference_latency_s),
        join=int(chunk.join),
    )


def trajectory_to_message(trajectory: Trajectory) -> JointTrajectory:
    """Convert a motion to a message for ``joint_trajectory_controller``: stamped, with positions
    and velocities.
    """
    trajectory = trajectory.held()
    joints, points = len(trajectory.joint_names), []
    positions, velocities = _doubles(trajectory.positions), _doubles(trajectory.velocities)
    for number, nanoseconds in enumerate(np.rint(trajectory.times * 1e9).astype(np.int64).tolist()):
        row = slice(number * joints, (number + 1) * joints)
        point = JointTrajectoryPoint(positions=positions[row], velocities=velocities[row])
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(nanoseconds, 10**9)
        points.append(point)
    return JointTrajectory(
        header=Header(stamp=to_stamp(trajectory.stamp)),
        joint_names=list(trajectory.joint_names),
        points=points,
    )


def status_to_message(
    status: ExecutorStatus, now: float, latencies: tuple[float, float, float], cycles: Cycles
) -> ExecutorStatusMessage:
    """Convert the executor's status to its message.

    Args:
        now: the stamp [s].
        latencies: p50, p95 and p99 from chunk to command [s].
        cycles: the jitter of the control loop.
    """
    message = ExecutorStatusMessage(
        header=Header(stamp=to_stamp(now)),
        state=int(status.state),
        reason=status.reason,
        join=status.join,
    )
    message.instruction, message.joint_names = status.instruction, list(status.joint_names)
    message.control_source = int(status.source)
    for name in _COUNTERS:
        setattr(message, name, int(getattr(status, name)))
    for name in _NUMBERS:
        setattr(message, name, float(getattr(status, name)))
    for name in _AGES:  # a stamp slightly ahead of this clock gives a negative age, which is not -1
        age = float(getattr(status, name))
        setattr(message, name, age if age == -1.0 else max(0.0, age))
    for name in PER_JOINT_CLIPS:
        setattr(message, name, array("Q", getattr(status, name).tolist()))
    message.shadow_error_rms = array("f", status.shadow_error_rms.tolist())
    message.shadow_error_max = array("f", status.shadow_error_max.tolist())
    (
        message.executor_latency_p50_s,
        message.executor_latency_p95_s,
        message.executor_latency_p99_s,
    ) = latencies
    message.cycles, message.missed_deadlines, message.cycle_late_max_s = (
        cycles.count,
        cycles.missed,
        cycles.late_max_s,
    )
    return message


def policy_status_to_message(status: SessionStatus) -> PolicyStatus:
    """Convert a session's status to its message.

    The caller adds header, policy, device and camera names.
    """
    message = PolicyStatus(
        state=int(status.state),
        reason=status.reason,
        instruction=status.instruction,
        epoch=status.epoch,
    )
    message.chunks, message.observations_refused = status.chunks, status.observations_refused
    message.camera_age_s = array("f", status.camera_ages)
    message.camera_skew_s, message.joint_state_age_s = status.skew, status.joint_state_age
    (
        message.inference_latency_p50_s,
        message.inference_latency_p95_s,
        message.inference_latency_p99_s,
    ) = status.inference
    message.chunk_latency_p50_s, message.chunk_latency_p95_s, message.chunk_latency_p99_s = (
        status.chunk_latency
    )
    message.rate_hz, message.rate_wanted_hz = status.cadence.rate_hz, status.cadence.rate_wanted_hz
    message.cycles_over_budget, message.worst_cycle_s = (
        status.cadence.over_budget,
        status.cadence.worst_s,
    )
    return message


def clips_of(message: ExecutorStatusMessage) -> int:
    """Return how many commands the executor has clipped since its start, for any cause."""
    per_joint = sum(sum(getattr(message, name)) for name in PER_JOINT_CLIPS)
    return int(per_joint) + message.workspace_clips + message.tool_speed_clips


def image_to_array(message: Image | CompressedImage, camera: Camera) -> np.ndarray:
    """Decode an image of a camera of the contract to pixels (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the encoding cannot be decoded, or the size differs from the contract's.
    """
    if isinstance(message, CompressedImage):
        pixels = decode_compressed(message.format, message.data, source=camera.topic)
    else:
        pixels = decode_image(
            message.encoding,
            message.height,
            message.width,
            message.step,
            message.data,
            source=camera.topic,
        )
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        expected = f"{camera.width}x{camera.height}"
        raise ImageError(
            f"{camera.topic}: the image is {width}x{height}, the contract says {expected}; correct"
            f" cameras.{camera.name}"
        )
    return pixels


def _doubles(values: np.ndarray) -> array:
    result = array("d")
    result.frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return result
