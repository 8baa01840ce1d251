"""Measure latencies of the running graph in wall time.

An observer measures them from the topics alone.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from sf_bringup.graph import find_robot
from sf_bringup.running_graph import running_graph
from sf_msgs.msg import ActionChunk
from sf_policy_node.contract import Contract, load_contract

INSTRUCTIONS = 6
SECONDS = 8.0
REFUSED_AFTER_S = 0.1


class Observer:
    """Record when images, chunks and commands arrive, by their stamps."""

    def __init__(self, contract: Contract) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("bench_observer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.images: dict[int, float] = {}
        self.chunks: list[tuple[int, float, float]] = []
        self.commands: list[float] = []
        for camera in contract.cameras:
            self._node.create_subscription(
                Image, camera.topic, self._on_image, qos_profile_sensor_data
            )
        self._node.create_subscription(
            ActionChunk, contract.topics.action_chunk, self._on_chunk, 10
        )
        self._node.create_subscription(
            JointTrajectory, contract.command.topic, self._on_command, 10
        )

    def spin(self, seconds: float) -> None:
        """Receive messages for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_image(self, message: Image) -> None:
        # Of two cameras with one stamp the later arrival counts: the policy needs both.
        self.images[_nanoseconds(message.header.stamp)] = time.monotonic()

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks.append(
            (_nanoseconds(message.header.stamp), time.monotonic(), message.inference_latency_s)
        )

    def _on_command(self, message: JointTrajectory) -> None:
        self.commands.append(time.monotonic())


def measure_latency(figures, console: Console) -> None:
    """Run a few instructions and add percentiles to ``figures``."""
    with running_graph("nano", Path("out/bench.log"), console) as client:
        observer = Observer(load_contract(find_robot("sim_arm")))
        with console.status(f"latencies over ROS: {INSTRUCTIONS} instructions"):
            for seed in range(INSTRUCTIONS):
                scene = client.reset(seed, 2)
                handle = client.start(scene.instruction, SECONDS)
                observer.spin(SECONDS / 2)
                client.finish(handle)
        observer.close()
    known = [
        (seen, seen - observer.images[stamp] - model)
        for stamp, seen, model in observer.chunks
        if stamp in observer.images
    ]
    note = (
        "image at the observer to chunk at the observer, minus the model's time; wall time, sim in"
        " real time"
    )
    figures.spread(
        "camera_to_chunk_without_model",
        1e3 * np.array([latency for _, latency in known]),
        "ms",
        note,
    )
    commands = np.array(observer.commands)
    first = np.array(
        [commands[commands >= seen].min() - seen for seen, _ in known if (commands >= seen).any()]
    )
    soon = first < REFUSED_AFTER_S
    figures.spread(
        "chunk_to_first_command", 1e3 * first[soon], "ms", "both at the observer; wall time"
    )
    figures.add(
        "chunks_without_command",
        len(known) - soon.sum(),
        "chunks",
        len(known),
        f"none within {REFUSED_AFTER_S:g} s: refused",
    )
    figures.add(
        "model_time_p50",
        1e3 * np.median([model for _, _, model in observer.chunks]),
        "ms",
        len(observer.chunks),
        "as the policy node reports it",
    )


def _nanoseconds(stamp) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec
