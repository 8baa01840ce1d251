"""Count camera images lost between two processes, with two profiles of Fast DDS.

``PYTHONPATH=tests:$PYTHONPATH python3 -m bench.image_transport`` runs the shipped profile and Fast
DDS's defaults one after the other. Where the command ``ros2`` is installed, ``ros2 topic hz`` also
subscribes, in one process per camera.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import rclpy
import tyro
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

WIDTH, HEIGHT, HZ = 640, 480, 30.0
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_READY_S = 60.0


@dataclass(frozen=True)
class Arguments:
    """Publish 3 cameras of 640x480 rgb8 at 30 Hz, best effort: 83 MB/s between two processes."""

    seconds: float = 20.0
    cameras: int = 3
    out: Path = Path("out/image_transport.json")


class Source(Node):
    """Publish numbered images once all subscribers are there."""

    def __init__(self, cameras: int, listeners: int, count: int) -> None:
        super().__init__("source")
        self._publishers = [
            self.create_publisher(Image, f"camera{number}", qos_profile_sensor_data)
            for number in range(cameras)
        ]
        self._listeners, self._count, self.sent = listeners, count, 0
        self._data = array("B", bytes(WIDTH * HEIGHT * 3))
        self.create_timer(1.0 / HZ, self._on_timer)

    def _on_timer(self) -> None:
        there = min(each.get_subscription_count() for each in self._publishers)
        if there < self._listeners and not self.sent:
            return
        image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=self._data)
        image.header.frame_id = str(self.sent)
        for publisher in self._publishers:
            publisher.publish(image)
        self.sent += 1
        if self.sent >= self._count:
            raise KeyboardInterrupt


class Counter(Node):
    """Count images that arrive."""

    def __init__(self, cameras: int) -> None:
        super().__init__("counter")
        self.received = [0] * cameras
        for number in range(cameras):
            self.create_subscription(
                Image,
                f"camera{number}",
                lambda _, number=number: self._on_image(number),
                qos_profile_sensor_data,
            )

    def _on_image(self, number: int) -> None:
        self.received[number] += 1


def _spin(node: Node) -> None:
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def _measure(arguments: Arguments, environment: dict[str, str]) -> dict:
    """Run source, counter and ``ros2 topic hz`` once."""
    ros2 = shutil.which("ros2")
    count = round(arguments.seconds * HZ)
    start = {"env": environment, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    own = [sys.executable, "-m", "bench.image_transport", "--role"]
    topics = [f"/camera{number}" for number in range(arguments.cameras)]
    counter = subprocess.Popen([*own, "counter", str(arguments.cameras)], **start)
    # one process per topic: ros2 topic hz of Jazzy takes only one
    viewers = [subprocess.Popen([ros2, "topic", "hz", topic], **start) for topic in topics if ros2]
    listeners = 2 if ros2 else 1
    words = [*own, "source", str(arguments.cameras), str(listeners), str(count)]
    begin = time.monotonic()
    source = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=_READY_S + 10 * count / HZ
    )
    seconds = float(source.stdout.split()[-1])
    time.sleep(1.0)  # wait for images in transit; best effort does not resend
    for process in (counter, *viewers):
        os.killpg(process.pid, signal.SIGINT)
    received = json.loads(counter.communicate(timeout=_READY_S)[0].splitlines()[-1])
    printed = [viewer.communicate(timeout=_READY_S)[0].splitlines() for viewer in viewers]
    return {
        "sent": count * arguments.cameras,
        "lost": count * arguments.cameras - sum(received),
        "sent_hz": count / seconds,
        "load": os.getloadavg()[0],
        "wall_s": time.monotonic() - begin,
        "ros2_topic_hz": [[row for row in rows if "rate" in row][-1:] for rows in printed],
    }


def main(arguments: Arguments) -> int:
    """Measure both profiles; return the exit code."""
    shipped = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if not any(Path(shipped.get(name, "")).is_file() for name in PROFILES):
        print("source docker/env.sh first: no Fast DDS profile is set", file=sys.stderr)
        return 2
    default = {key: value for key, value in shipped.items() if key not in PROFILES}
    results = {}
    for name, environment in (("shipped", shipped), ("default", default)):
        results[name] = _measure(arguments, environment)
        print(name, json.dumps(results[name], indent=1), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results))
    return 0


def _play(role: str, numbers: list[int]) -> None:
    """Run as the source or the counter, and print the counts."""
    rclpy.init()
    if role == "source":
        node = Source(*numbers)
        while rclpy.ok() and not node.sent:
            rclpy.spin_once(node)
        begin = time.monotonic()
        _spin(node)
        print(time.monotonic() - begin)
    else:
        node = Counter(*numbers)
        _spin(node)
        print(json.dumps(node.received))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        _play(sys.argv[2], [int(word) for word in sys.argv[3:]])
    else:
        sys.exit(main(tyro.cli(Arguments, description=__doc__)))
