"""Serialise and deserialise ROS messages (CDR) without rclpy, for the simulator and the bag reader.

Written messages have the definitions and type hashes of the installed interfaces. A bag is read
with the definitions that it holds, because they may be older than the installed ones.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sf_policy_node.contract import ActionSpace
from sf_policy_node.motion.types import Chunk, Join

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
VIDEO_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
JOINT_STATE = "sensor_msgs/msg/JointState"
TWIST = "geometry_msgs/msg/TwistStamped"
NUMBERS = "std_msgs/msg/Float64MultiArray"
POSE = "geometry_msgs/msg/PoseStamped"
STRING = "std_msgs/msg/String"
BOOL = "std_msgs/msg/Bool"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ACTION_CHUNK = "sf_msgs/msg/ActionChunk"
POLICY_STATUS = "sf_msgs/msg/PolicyStatus"
EXECUTOR_STATUS = "sf_msgs/msg/ExecutorStatus"
TF = "tf2_msgs/msg/TFMessage"
MARKERS = "visualization_msgs/msg/MarkerArray"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
CONTROL_SOURCE = "sf_msgs/msg/ControlSource"

# Fields of VIDEO_PACKET; the package need not be installed.
_VIDEO_PACKET_FIELDS = """std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""

# In the order of the constants of sf_msgs/ActionChunk.action_space.
ACTION_SPACES = (
    ActionSpace.JOINT_POSITION,
    ActionSpace.JOINT_DELTA,
    ActionSpace.EE_DELTA,
    ActionSpace.EE_POSE,
)


@functools.cache
def typestore() -> Typestore:
    """Return all message types of the common interfaces and of ``sf_msgs``, and FFMPEGPacket.

    Raises:
        FileNotFoundError: ``sf_msgs`` is neither installed nor in the source tree.
    """
    store = get_typestore(Stores.LATEST)
    store.register(get_types_from_msg(_VIDEO_PACKET_FIELDS, VIDEO_PACKET))
    folder = _interface_folder("sf_msgs")
    for path in sorted(folder.glob("*.msg")):
        _register(store, f"sf_msgs/msg/{path.stem}", folder)
    return store


@functools.cache
def definition(type_name: str) -> tuple[str, str]:
    """Return the definition of a message type, with all types it contains, and its RIHS01 hash.

    Raises:
        KeyError: the type is unknown.
    """
    store = typestore()
    if type_name not in store.types:
        raise KeyError(type_name)
    return store.generate_msgdef(type_name, ros_version=2)[0], store.hash_rihs01(type_name)


def deserialize(data: bytes | memoryview, type_name: str, recorded: str | None = None) -> Any:
    """Return a message from its CDR bytes; numeric arrays are views of ``data``.

    Args:
        recorded: definition in the bag; None means the installed one.

    Raises:
        SerdeError: the bytes do not match the type.
        KeyError: the type is unknown.
    """
    store = typestore() if recorded is None else _recorded_typestore(type_name, recorded)
    try:
        return store.deserialize_cdr(data, type_name)
    except SerdeError:
        if len(data) < 12:
            raise
        # After an empty array at the end, rclpy's serialize_message adds four bytes of padding,
        # which rosbags rejects.
        return store.deserialize_cdr(data[:-4], type_name)


def nanoseconds(stamp_s: float) -> int:
    """Round seconds to the nearest nanosecond, so that equal stamps stay equal."""
    return round(stamp_s * 1e9)


def image(stamp_s: float, frame: str, rgb: np.ndarray) -> memoryview:
    """Serialise (H, W, 3) uint8 RGB as ``sensor_msgs/Image`` rgb8."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"image {frame}: got {rgb.shape} {rgb.dtype}, needs (H, W, 3) uint8")
    return _image(stamp_s, frame, "rgb8", rgb)


def depth_image(stamp_s: float, frame: str, depth: np.ndarray) -> memoryview:
    """Serialise depth (H, W) along the optical axis [m] as ``sensor_msgs/Image`` 32FC1."""
    if depth.ndim != 2:
        raise ValueError(f"depth {frame}: got shape {depth.shape}, needs (H, W)")
    return _image(stamp_s, frame, "32FC1", np.asarray(depth, np.float32))


def video_packet(
    header: Any, size: tuple[int, int], encoding: str, pts: int, flags: int, data: np.ndarray
) -> memoryview:
    """Serialise an encoded image as ``ffmpeg_image_transport_msgs/FFMPEGPacket``.

    Args:
        header: ``std_msgs/Header`` of the image.
        size: width and height [pixels].
        encoding: codec and pixel formats, separated by semicolons.
        data: (N,) uint8.
    """
    message = typestore().types[VIDEO_PACKET](header, *size, encoding, pts, flags, False, data)
    return typestore().serialize_cdr(message, VIDEO_PACKET)


def camera_info(
    stamp_s: float, frame: str, width: int, height: int, camera_matrix: np.ndarray
) -> memoryview:
    """Serialise the camera matrix (3, 3) [pixels] of a pinhole camera without distortion as
    ``sensor_msgs/CameraInfo``.
    """
    types = typestore().types
    region = types["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    matrix = np.asarray(camera_matrix, float)
    message = types[CAMERA_INFO](
        header=_header(stamp_s, frame),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=matrix.ravel(),
        r=np.eye(3).ravel(),
        p=np.column_stack([matrix, np.zeros(3)]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=region,
    )
    return typestore().serialize_cdr(message, CAMERA_INFO)


def joint_state(
    stamp_s: float,
    names: list[str],
    positions: np.ndarray,
    velocities: np.ndarray | None = None,
    efforts: np.ndarray | None = None,
) -> memoryview:
    """Serialise measured or commanded joints as ``sensor_msgs/JointState``.

    Args:
        positions: (J,) [rad, m].
        velocities: (J,) [rad/s, m/s]; None leaves them out.
        efforts: (J,) [N m, N]; None leaves them out.
    """
    message = typestore().types[JOINT_STATE](
        header=_header(stamp_s, ""),
        name=list(names),
        position=_doubles(positions),
        velocity=_doubles(() if velocities is None else velocities),
        effort=_doubles(() if efforts is None else efforts),
    )
    return typestore().serialize_cdr(message, JOINT_STATE)


def pose(stamp_s: float, frame: str, rotation: np.ndarray, position: np.ndarray) -> memoryview:
    """Serialise a rotation matrix (3, 3) and a position (3,) [m] in ``frame`` as
    ``geometry_msgs/PoseStamped``.
    """
    types = typestore().types
    x, y, z, w = _quaternion(np.asarray(rotation, float))
    message = types[POSE](
        header=_header(stamp_s, frame),
        pose=types["geometry_msgs/msg/Pose"](
            position=types["geometry_msgs/msg/Point"](*map(float, position)),
            orientation=types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
        ),
    )
    return typestore().serialize_cdr(message, POSE)


def string(text: str) -> memoryview:
    """Serialise a text as ``std_msgs/String``."""
    return typestore().serialize_cdr(typestore().types[STRING](data=text), STRING)


def action_chunk(chunk: Chunk) -> memoryview:
    """Serialise a chunk as ``sf_msgs/ActionChunk``."""
    rows, columns = chunk.data.shape
    message = typestore().types[ACTION_CHUNK](
        header=_header(chunk.stamp, chunk.frame),
        policy_id=chunk.policy_id,
        contract_hash=chunk.contract_hash,
        instruction=chunk.instruction,
        epoch=chunk.epoch,
        sequence=chunk.sequence,
        action_space=ACTION_SPACES.index(chunk.space),
        names=list(chunk.names),
        step_s=chunk.step_s,
        rows=rows,
        columns=columns,
        data=_doubles(chunk.data),
        reference_names=list(chunk.reference_names),
        reference=_doubles(chunk.reference),
        inference_latency_s=chunk.inference_latency_s,
        join=int(chunk.join),
    )
    return typestore().serialize_cdr(message, ACTION_CHUNK)


def to_chunk(message: Any) -> Chunk:
    """Return the chunk of a deserialised ``sf_msgs/ActionChunk``; reverses :func:`action_chunk`.

    Raises:
        ValueError: the number of values does not match, or the action space is unknown.
    """
    if message.data.size != message.rows * message.columns or message.action_space >= len(
        ACTION_SPACES
    ):
        raise ValueError(
            f"ActionChunk: {message.data.size} values for {message.rows}x{message.columns}, space"
            f" {message.action_space}"
        )
    return Chunk(
        stamp=message.header.stamp.sec + message.header.stamp.nanosec * 1e-9,
        frame=message.header.frame_id,
        policy_id=message.policy_id,
        contract_hash=message.contract_hash,
        instruction=message.instruction,
        epoch=message.epoch,
        sequence=message.sequence,
        space=ACTION_SPACES[message.action_space],
        names=tuple(message.names),
        step_s=message.step_s,
        data=message.data.reshape(message.rows, message.columns),
        reference_names=tuple(message.reference_names),
        reference=message.reference,
        inference_latency_s=message.inference_latency_s,
        join=Join(getattr(message, "join", Join.BLEND)),  # bags of version 0.1 have no such field
    )


def _image(stamp_s: float, frame: str, encoding: str, pixels: np.ndarray) -> memoryview:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    message = typestore().types[IMAGE](
        _header(stamp_s, frame), height, width, encoding, 0, data.size // height, data
    )
    return typestore().serialize_cdr(message, IMAGE)


def _header(stamp_s: float, frame: str) -> Any:
    types = typestore().types
    seconds, nanosec = divmod(nanoseconds(stamp_s), 1_000_000_000)
    return types["std_msgs/msg/Header"](
        types["builtin_interfaces/msg/Time"](seconds, nanosec), frame
    )


def _doubles(values: ArrayLike) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float64).reshape(-1)


def _quaternion(rotation: np.ndarray) -> tuple[float, ...]:
    """Return (x, y, z, w) of a rotation matrix (3, 3)."""
    import pinocchio  # imported here because only poses need it

    return tuple(float(value) for value in pinocchio.Quaternion(rotation).normalized().coeffs())


def _interface_folder(package: str) -> Path:
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(package)) / "msg"
    except (ImportError, LookupError, OSError):  # the source tree is not built yet
        folder = Path(__file__).resolve().parents[3] / package / "msg"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{package}: its messages are not installed and not in {folder}; build the workspace"
            " and source it"
        )
    return folder


@functools.lru_cache(maxsize=64)  # a data set has few different definitions
def _recorded_typestore(type_name: str, recorded: str) -> Typestore:
    with suppress(KeyError):
        if definition(type_name)[0] == recorded:
            return typestore()
    try:
        types = get_types_from_msg(recorded, type_name)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
    except (TypesysError, ValueError, KeyError, RecursionError) as error:
        raise SerdeError(
            f"its definition in the bag cannot be parsed: {' '.join(str(error).split())[:100]}"
        ) from None
    known = typestore()
    for name, (_, fields) in types.items():
        # Our own types may be older. Those of ROS are the same in every distribution, so a
        # definition that differs is damaged.
        if (
            not name.startswith("sf_msgs/")
            and name in known.fielddefs
            and known.fielddefs[name][1] != fields
        ):
            raise SerdeError(f"its definition of {name} in the bag differs from that of ROS")
    return store


def _register(store: Typestore, type_name: str, folder: Path) -> None:
    """Register a type after the types of ``sf_msgs`` that it contains."""
    if type_name in store.types:
        return
    types = get_types_from_msg((folder / f"{type_name.split('/')[-1]}.msg").read_text(), type_name)
    for _, fields in types.values():
        for _, field in fields:
            while field[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                field = field[1][0]
            if field[0] == Nodetype.NAME and field[1].startswith("sf_msgs/"):
                _register(store, field[1], folder)
    store.register(types)
