"""Record in a separate process when streamed commands arrive.

Usage: ``python3 -m bench.command_observer TOPIC STATUS_TOPIC FILE``. Times are those at which DDS
received a message, so delays of this program do not affect them. The process ends when its standard
input ends, and writes ``FILE`` (.npz): ``commands`` (N,) and ``statuses`` (M,) [ns since 1970],
``states`` (M,) of the executor.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float64MultiArray

from sf_msgs.msg import ExecutorStatus


def observe(topic: str, status_topic: str, file: Path) -> None:
    """Record commands and statuses until standard input ends."""
    commands: list[int] = []
    statuses: list[tuple[int, int]] = []
    rclpy.init()
    node = rclpy.create_node("command_observer")
    node.create_subscription(
        Float64MultiArray,
        topic,
        lambda _, info: commands.append(info["received_timestamp"]),
        QoSProfile(depth=1000),
    )
    node.create_subscription(
        ExecutorStatus,
        status_topic,
        lambda message, info: statuses.append((info["received_timestamp"], message.state)),
        QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    while not end.is_set():
        executor.spin_once(timeout_sec=0.1)
    times, states = zip(*statuses, strict=True) if statuses else ((), ())
    np.savez(
        file,
        commands=np.array(commands, np.int64),
        statuses=np.array(times, np.int64),
        states=np.array(states, np.int64),
    )
    # The recorded times are on disk. The teardown of DDS has blocked before and would hang the
    # benchmark.
    os._exit(0)


if __name__ == "__main__":
    observe(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
