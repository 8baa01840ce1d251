"""Publish images and joint states at given rates, as a robot for the recorder's benchmark.

Usage: ``python -m bench.recorder_source CONTRACT HZ JOINTS_HZ``. Every message carries its number
in ``frame_id``: a reader of the bag sees gaps without asking the recorder. The process ends with
SIGTERM and then prints the number of messages that it sent.
"""

from __future__ import annotations

import array
import json
import signal
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState

from sf_policy_node.contract import load_contract

NOISE = 4.0  # standard deviation of a camera's pixels


def camera_image(width: int, height: int) -> np.ndarray:
    """Return an image (H, W, 3) of a smooth scene with sensor noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    scene = np.stack([rows * 255 / height, columns * 255 / width, np.full_like(rows, 120)], -1)
    return np.clip(scene + np.random.default_rng(0).normal(0, NOISE, scene.shape), 0, 255).astype(
        np.uint8
    )


def main() -> None:
    """Publish until SIGTERM."""
    contract, hz, joints_hz = load_contract(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    node = rclpy.create_node("source")
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    streams = []
    for camera in contract.cameras:
        pixels = camera_image(camera.width, camera.height)
        message = Image(
            height=camera.height, width=camera.width, encoding="rgb8", step=3 * camera.width
        )
        message.data = array.array("B", pixels.tobytes())
        streams.append(
            [node.create_publisher(Image, camera.topic, best_effort), message, 1 / hz, 0]
        )
    joints = JointState(name=contract.command_joints, position=[0.0] * len(contract.command_joints))
    streams.append(
        [
            node.create_publisher(JointState, contract.topics.joint_states, best_effort),
            joints,
            1 / joints_hz,
            0,
        ]
    )
    begin = time.monotonic()
    while not stopped:
        # Absolute times: a late publisher catches up, so that the requested rate is measured.
        publisher, message, period, number = stream = min(
            streams, key=lambda each: each[2] * each[3]
        )
        wait = begin + period * number - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        message.header.stamp, message.header.frame_id = node.get_clock().now().to_msg(), str(number)
        publisher.publish(message)
        stream[3] += 1
    seconds = time.monotonic() - begin
    print(
        json.dumps({"seconds": seconds, "rates": [stream[3] / seconds for stream in streams]}),
        flush=True,
    )
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
