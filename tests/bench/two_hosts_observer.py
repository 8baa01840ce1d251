"""Write when chunks arrive and what the executor reports, as JSON lines for ``bench.two_hosts``."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.contract import load_contract

STATES = {
    getattr(ExecutorStatus, name): name
    for name in ("INACTIVE", "HOLDING", "EXECUTING", "STOPPED", "SHADOW", "TELEOPERATION", "PAUSED")
}


class Observer(Node):
    """Runs beside the executor, on simulated time."""

    def __init__(self, contract: Path, out: Path) -> None:
        super().__init__(
            "two_hosts_observer", parameter_overrides=[Parameter("use_sim_time", value=True)]
        )
        topics = load_contract(contract).topics
        self._file = out.open("w", encoding="utf-8")
        self.create_subscription(ActionChunk, topics.action_chunk, self._on_chunk, 10)
        self.create_subscription(ExecutorStatus, topics.executor_status, self._on_status, 10)

    def _on_chunk(self, message: ActionChunk) -> None:
        stamp = message.header.stamp
        age_s = 1e-9 * self.get_clock().now().nanoseconds - (stamp.sec + 1e-9 * stamp.nanosec)
        self._write(kind="chunk", age_s=age_s)

    def _on_status(self, message: ExecutorStatus) -> None:
        self._write(kind="status", state=STATES[message.state], refused=message.chunks_refused)

    def _write(self, **event) -> None:
        print(json.dumps({"at": time.time(), **event}), file=self._file, flush=True)


def main() -> None:
    """Observe until SIGINT or SIGTERM."""
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Observer(Path(sys.argv[1]), Path(sys.argv[2])))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
