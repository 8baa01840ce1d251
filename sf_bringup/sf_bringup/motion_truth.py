"""Publish every physics step of the simulated arm as ``~/motion_truth``, the ground truth of tests
of motion.
"""

from __future__ import annotations

from array import array

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile

from sf_bringup import sim_messages
from sf_msgs.msg import MotionTruth
from sf_policy_node.contract import Contract
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.motion_trace import MotionTrace

_STEPS = 10  # per message: 20 messages per simulated second
_RELIABLE = QoSProfile(depth=200)  # ten simulated seconds, so that a busy subscriber loses nothing


class MotionTruthPublisher:
    """Record steps and publish them, only while there is a subscriber."""

    def __init__(self, node: Node, contract: Contract, sim: ArmSim) -> None:
        self._publisher = node.create_publisher(MotionTruth, "~/motion_truth", _RELIABLE)
        self._names = contract.command_joints
        self._sim = sim
        self._controlled = True

    def publish(self, *, moved_by_reset: bool = False) -> None:
        """Publish the steps since the last message, once there are :data:`_STEPS` of them.

        Call it after every few steps, and with ``moved_by_reset`` after a reset, which ends the
        message early and marks the next one as not controlled.
        """
        if not self._publisher.get_subscription_count():
            self._sim.trace = None
            return
        if self._sim.trace is None:
            self._sim.trace = MotionTrace()
        trace = self._sim.trace
        if len(trace) >= (1 if moved_by_reset else _STEPS):
            self._publisher.publish(self._message(trace))
            self._controlled = True
        if moved_by_reset:
            self._controlled = False

    def _message(self, trace: MotionTrace) -> MotionTruth:
        motion = trace.take()
        message = MotionTruth(
            names=self._names,
            step_s=ArmSim.TIMESTEP,
            steps=len(motion.positions),
            controlled=self._controlled,
        )
        message.header.stamp = sim_messages.to_stamp(motion.time)
        message.position, message.velocity, message.setpoint = (
            array("d", np.ascontiguousarray(values).tobytes())
            for values in (motion.positions, motion.velocities, motion.setpoints)
        )
        message.tool = [sim_messages.point(position) for position in motion.tool]
        return message
