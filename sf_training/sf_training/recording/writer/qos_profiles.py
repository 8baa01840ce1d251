"""Format QoS profiles as rosbag2 does, so that ``ros2 bag play`` offers the QoS of the original
publishers. No rclpy here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sf_training.recording.topics import Delivery

_INFINITE_NS = 2**63 - 1
_UNLIMITED = "{sec: 9223372036, nsec: 854775807}"  # how rosbag2 writes an infinite duration
_DEPTH = {Delivery.SENSOR: 10, Delivery.RELIABLE: 10, Delivery.LATCHED: 1, Delivery.STATIC: 100}
_LATCHED = {Delivery.LATCHED, Delivery.STATIC}


def offered_qos(delivery: Delivery) -> str:
    """Return the usual profile for a kind of delivery, for bags written without publishers."""
    reliability = "best_effort" if delivery == Delivery.SENSOR else "reliable"
    durability = "transient_local" if delivery in _LATCHED else "volatile"
    return _entry("keep_last", _DEPTH[delivery], reliability, durability)


def publishers_qos(profiles: Iterable, delivery: Delivery) -> str:
    """Return the profiles of the publishers of a topic without duplicates; empty without one.

    Discovery reports neither history nor depth. The usual values of the ``delivery`` stand in.

    Args:
        profiles: ``rclpy.qos.QoSProfile`` from ``get_publishers_info_by_topic``.
    """
    return "\n".join(dict.fromkeys(_profile(profile, delivery) for profile in profiles))


def _profile(profile: Any, delivery: Delivery) -> str:
    history = profile.history.name.lower()
    known = history in ("keep_last", "keep_all")
    return _entry(
        history if known else "keep_last",
        profile.depth if known and profile.depth else _DEPTH[delivery],
        "best_effort" if profile.reliability.name == "BEST_EFFORT" else "reliable",
        "transient_local" if profile.durability.name == "TRANSIENT_LOCAL" else "volatile",
        deadline=_duration(profile.deadline.nanoseconds),
        lifespan=_duration(profile.lifespan.nanoseconds),
        liveliness=(
            "manual_by_topic" if profile.liveliness.name == "MANUAL_BY_TOPIC" else "automatic"
        ),
        lease=_duration(profile.liveliness_lease_duration.nanoseconds),
    )


def _entry(
    history: str,
    depth: int,
    reliability: str,
    durability: str,
    *,
    deadline: str = _UNLIMITED,
    lifespan: str = _UNLIMITED,
    liveliness: str = "automatic",
    lease: str = _UNLIMITED,
) -> str:
    return (
        f"- {{history: {history}, depth: {depth}, reliability: {reliability}, durability:"
        f" {durability}, deadline: {deadline}, lifespan: {lifespan}, liveliness: {liveliness},"
        f" liveliness_lease_duration: {lease}, avoid_ros_namespace_conventions: false}}"
    )


def _duration(nanoseconds: int) -> str:
    if not 0 < nanoseconds < _INFINITE_NS:  # zero is "not set" for ROS
        return _UNLIMITED
    return f"{{sec: {nanoseconds // 1_000_000_000}, nsec: {nanoseconds % 1_000_000_000}}}"
