"""Subscribe to recorded topics: QoS by kind of delivery, message classes by type name, callbacks
with message info.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from sf_training.recording.topics import Delivery

_RELIABLE, _TRANSIENT = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
QOS = {
    Delivery.SENSOR: QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT),
    Delivery.RELIABLE: QoSProfile(depth=100, reliability=_RELIABLE),
    Delivery.LATCHED: QoSProfile(depth=1, reliability=_RELIABLE, durability=_TRANSIENT),
    Delivery.STATIC: QoSProfile(depth=100, reliability=_RELIABLE, durability=_TRANSIENT),
}


def with_info(callback: Callable[[bytes, dict], None]) -> Callable[[bytes, dict], None]:
    """Wrap a callback so that rclpy passes the message info.

    rclpy passes it only to callbacks with exactly two parameters; a ``functools.partial`` does not
    count as one.
    """

    def on_message(data: bytes, info: dict) -> None:
        callback(data, info)

    return on_message


def message_class(type_name: str) -> type:
    """Import the class of a message type such as ``sensor_msgs/msg/Image``."""
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def is_installed(type_name: str) -> bool:
    """Return whether the package of a message type can be imported."""
    try:
        message_class(type_name)
    except ImportError:
        return False
    return True
