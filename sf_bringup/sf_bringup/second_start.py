"""Refuse a second start of the same nodes: two executors would alternately command one arm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import rclpy
from rclpy.node import Node

from sf_bringup.arguments import GraphError

_DISCOVERY_S = 1.0  # on one host the nodes of a domain find each other within half of it


def refuse_second_start(full_names: Iterable[str]) -> None:
    """Search the ROS domain for nodes of these names for one second.

    Raises:
        GraphError: one of them already runs.
    """
    wanted = set(full_names)
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = Node(
        "sf_bringup_starts", context=context, enable_rosout=False, start_parameter_services=False
    )
    try:
        end = time.monotonic() + _DISCOVERY_S
        while time.monotonic() < end:
            running = sorted(
                wanted
                & {
                    f"{namespace.rstrip('/')}/{name}"
                    for name, namespace in node.get_node_names_and_namespaces()
                }
            )
            if running:
                domain = os.environ.get("ROS_DOMAIN_ID", "0")
                raise GraphError(
                    f"{', '.join(running)} already runs in ROS domain {domain}; stop it, give"
                    " another namespace:=, or set another ROS_DOMAIN_ID"
                )
            time.sleep(0.05)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
