"""Observe the arm from ``/sim_arm/motion_truth`` alone, in a separate node, context and thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import rclpy
from faults.motion_check import MotionCheck, Violation
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile

from sf_msgs.msg import MotionTruth
from sf_policy_node.contract import Contract
from sf_training.simulation.motion_trace import Motion

TOPIC = "/sim_arm/motion_truth"


class MotionObserver:
    """Check every physics step of the arm until :meth:`close`.

    All times are the simulator's own [s].
    """

    def __init__(self, contract: Contract) -> None:
        self._check = MotionCheck(contract)
        self._names = contract.command_joints
        self._lock = threading.Lock()
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("motion_observer", context=self._context)
        self._node.create_subscription(MotionTruth, TOPIC, self._on_truth, QoSProfile(depth=200))
        self._spinner = SingleThreadedExecutor(context=self._context)
        self._spinner.add_node(self._node)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, name="motion_observer", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Clear the violations."""
        with self._lock:
            self._check.begin()

    @contextlib.contextmanager
    def unjudged(self) -> Iterator[None]:
        """Forget the violations of a block, which something else than the suite causes.

        The check lags by 50 ms. The block must end that long after the last such motion.
        """
        with self._lock:
            before = self._check.worst
        yield
        with self._lock:
            self._check.begin(before)

    @property
    def violations(self) -> list[Violation]:
        """Return the worst violation of every kind since :meth:`begin`."""
        with self._lock:
            return list(self._check.violations)

    @property
    def now(self) -> float:
        """Return the time of the newest received step."""
        return self._check.time

    @property
    def moved_at(self) -> float:
        """Return the newest time at which a joint moved."""
        return self._check.moved_at

    @property
    def speed(self) -> float:
        """Return the highest joint speed of the newest step, as a share of the joint's limit."""
        return self._check.speed

    @property
    def steps(self) -> int:
        """Return the number of physics steps checked since :meth:`begin`."""
        return self._check.steps

    def close(self) -> None:
        """Leave the graph."""
        self._closing = True
        self._thread.join()
        self._spinner.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        while not self._closing:
            self._spinner.spin_once(timeout_sec=0.1)

    def _on_truth(self, message: MotionTruth) -> None:
        shape = (message.steps, len(message.names))
        if list(message.names) != self._names:
            raise ValueError(f"{TOPIC} names {list(message.names)}, the contract {self._names}")
        joints = (
            np.array(part).reshape(shape)
            for part in (message.position, message.velocity, message.setpoint)
        )
        tool = np.array([(position.x, position.y, position.z) for position in message.tool])
        stamp = message.header.stamp
        with self._lock:
            self._check.add(
                Motion(stamp.sec + 1e-9 * stamp.nanosec, *joints, tool),
                message.step_s,
                follows_on=message.controlled,
            )
