"""Record when streamed commands arrive, in a process of its own: ``python3 -m
bench.command_observer TOPIC STATUS_TOPIC FILE``.

Times are those at which DDS received a message and those at which the executor's process sent it;
delays of this program do not change them. It listens until its standard input ends, then writes
``FILE`` (.npz): ``commands`` and ``sent`` (N,) and ``statuses`` (M,) [ns since 1970], ``positions``
(N, J) [rad or m], ``states`` (M,) of the executor.
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
    """Listen until standard input ends."""
    commands: list[tuple[int, int, list[float]]] = []
    statuses: list[tuple[int, int]] = []
    rclpy.init()
    node = rclpy.create_node("command_observer")
    node.create_subscription(
        Float64MultiArray,
        topic,
        lambda message, info: commands.append(
            (info["received_timestamp"], info["source_timestamp"], message.data.tolist())
        ),
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
    arrivals, sent, positions = zip(*commands, strict=True) if commands else ((), (), ())
    np.savez(
        file,
        commands=np.array(arrivals, np.int64),
        sent=np.array(sent, np.int64),
        positions=np.array(positions, float),
        statuses=np.array(times, np.int64),
        states=np.array(states, np.int64),
    )
    # Everything is on disk. The teardown of DDS sometimes blocks and would block the benchmark.
    os._exit(0)


if __name__ == "__main__":
    observe(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
