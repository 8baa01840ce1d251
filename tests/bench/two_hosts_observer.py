"""Write the arrivals of chunks and the executor's reports as JSON lines for ``bench.two_hosts``.

Every few simulated seconds the observer sets a new scene and an instruction. After a policy has
lifted its cube, it leaves the states that it was trained on, and its chunks are refused whatever
the network does.
"""

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
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from sf_msgs.msg import ActionChunk, ExecutorStatus, TaskState
from sf_msgs.srv import ResetScene
from sf_policy_node.contract import load_contract

STATES = {
    getattr(ExecutorStatus, name): name
    for name in ("INACTIVE", "HOLDING", "EXECUTING", "STOPPED", "SHADOW", "TELEOPERATION", "PAUSED")
}


TICK_S, EPISODE_TICKS = 0.5, 16  # simulated; episodes of the evaluation take 8 s
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Observer(Node):
    """Observe the executor on simulated time."""

    def __init__(self, contract: Path, out: Path) -> None:
        super().__init__(
            "two_hosts_observer", parameter_overrides=[Parameter("use_sim_time", value=True)]
        )
        topics = load_contract(contract).topics
        self._file = out.open("w", encoding="utf-8")
        self.create_subscription(ActionChunk, topics.action_chunk, self._on_chunk, 10)
        self.create_subscription(ExecutorStatus, topics.executor_status, self._on_status, 10)

        self._seed, self._tick, self._target = 0, 0, ""
        self._instruction = self.create_publisher(String, topics.instruction, _LATCHED)
        self._reset = self.create_client(ResetScene, "sim_arm/reset")
        self.create_subscription(TaskState, "sim_arm/task_state", self._on_task, _LATCHED)
        self.create_timer(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        """Set a new scene, and send an instruction once all earlier messages are outdated.

        The arm is reset to its start pose, which ends the instruction and counts as one hold.
        """
        step = self._tick % EPISODE_TICKS
        self._tick += 1
        if step == 1:
            self._seed += 1
            self._reset.call_async(ResetScene.Request(seed=self._seed))
        elif step == 3:
            self._instruction.publish(String(data=self._target))

    def _on_task(self, message: TaskState) -> None:
        self._target = message.suggested_instruction

    def _on_chunk(self, message: ActionChunk) -> None:
        stamp = message.header.stamp
        self._write(kind="chunk", age_s=self._now_s() - (stamp.sec + 1e-9 * stamp.nanosec))

    def _on_status(self, message: ExecutorStatus) -> None:
        self._write(kind="status", state=STATES[message.state], refused=message.chunks_refused)

    def _now_s(self) -> float:
        """Return the simulated time [s]."""
        return 1e-9 * self.get_clock().now().nanoseconds

    def _write(self, **event) -> None:
        line = {"at": time.time(), "simulated_s": self._now_s(), **event}
        print(json.dumps(line), file=self._file, flush=True)


def main() -> None:
    """Observe until SIGINT or SIGTERM."""
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Observer(Path(sys.argv[1]), Path(sys.argv[2])))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
