"""Reads the robot description that ``robot_state_publisher`` publishes."""

from __future__ import annotations

import os
import sys
import time

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from sf_policy_node.nodes.lifecycle import LATCHED


def receive(topic: str, timeout_s: float) -> str | None:
    """Return the newest latched text on a topic; None if none arrives within ``timeout_s`` [s].

    It uses its own context: the caller's may not exist yet, or may be spinning. A relative topic
    resolves in the namespace of the command line (``--ros-args -r __ns:=/left``).
    """
    context = Context()
    # Words before them belong to the program: `robot:=` would be taken for a remapping.
    words = sys.argv[sys.argv.index("--ros-args") :] if "--ros-args" in sys.argv else []
    rclpy.init(args=words, context=context)
    received: list[str] = []
    try:
        node = Node(f"contract_urdf_{os.getpid()}", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        node.create_subscription(
            String, topic, lambda message: received.append(message.data), LATCHED
        )
        until = time.monotonic() + timeout_s
        while not received and (left := until - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left)
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    return received[-1] if received else None
