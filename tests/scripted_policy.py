"""Run the scripted expert as ``/policy_node`` in system tests.

The expert reads the ground truth behind the same interfaces. The graph, the executor and the
episodes are thus tested with motion that succeeds, whatever a trained checkpoint can do. Not a test
file: ``python tests/scripted_policy.py`` is started as a process.
"""

import contextlib
import time

import numpy as np
import rclpy
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from sf_bringup.graph import find_robot
from sf_msgs.action import RunInstruction
from sf_msgs.msg import ActionChunk, PolicyStatus, TaskState
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_training.simulation.expert import expert_chunk
from sf_training.simulation.scene import CUBE_HALF

REPLAN_SECONDS = 0.3


class ScriptedPolicy(Node):
    """A policy node that follows instructions with the color of a cube."""

    def __init__(self):
        super().__init__("policy_node")
        self.contract = load_contract(find_robot("sim_arm"))
        self.kinematics = Kinematics(self.contract)
        self.task = self.joints = None
        self.supports, self.epoch, self.following = {}, 0, False
        group = ReentrantCallbackGroup()
        topics, latched = (
            self.contract.topics,
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )
        self.create_subscription(
            TaskState, "/sim_arm/task_state", self.on_task, latched, callback_group=group
        )
        self.create_subscription(
            JointState,
            topics.joint_states,
            self.on_joints,
            qos_profile_sensor_data,
            callback_group=group,
        )
        self.chunks = self.create_publisher(ActionChunk, topics.action_chunk, 10)
        self.status = self.create_publisher(PolicyStatus, topics.policy_status, 10)
        self.create_timer(0.5, lambda: self.status.publish(self.report()), callback_group=group)
        self.server = ActionServer(
            self,
            RunInstruction,
            "/run_instruction",
            self.follow,
            callback_group=group,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def report(self):
        ready = self.task is not None and self.joints is not None
        state = (
            PolicyStatus.RUNNING
            if self.following
            else PolicyStatus.IDLE
            if ready
            else PolicyStatus.LOADING
        )
        return PolicyStatus(state=state, policy_id="scripted", device="none", epoch=self.epoch)

    def on_task(self, message):
        if self.task is None or message.episode != self.task.episode:
            self.supports = {each.name: each.position.z - CUBE_HALF for each in message.objects}
        self.task = message

    def on_joints(self, message):
        self.joints = message

    def follow(self, goal):
        self.epoch += 1
        self.following = True
        self.status.publish(self.report())
        instruction, begin, sequence = goal.request.instruction, time.monotonic(), 0
        result = RunInstruction.Result(termination_reason=RunInstruction.Result.TIMEOUT)
        while time.monotonic() - begin < (goal.request.timeout_s or 10.0):
            if goal.is_cancel_requested:
                goal.canceled()
                result.termination_reason = RunInstruction.Result.CANCELLED
                break
            self.chunks.publish(self.predict(instruction, sequence))
            sequence += 1
            goal.publish_feedback(
                RunInstruction.Feedback(
                    elapsed_s=time.monotonic() - begin, chunks=sequence, state="running"
                )
            )
            time.sleep(REPLAN_SECONDS)
        else:
            goal.succeed()
        self.following = False
        self.status.publish(self.report())
        result.chunks, result.duration_s = sequence, time.monotonic() - begin
        result.chunk_latency_p50_s = result.chunk_latency_p95_s = 0.001
        return result

    def predict(self, instruction, sequence):
        state, (cube,) = (
            self.joints,
            [each for each in self.task.objects if each.name in instruction],
        )
        joints = np.array(
            [state.position[state.name.index(name)] for name in self.contract.command_joints]
        )
        tool = self.kinematics.forward(joints[:-1]).position
        position = np.array([cube.position.x, cube.position.y, cube.position.z])
        opening = self.contract.gripper.to_opening(joints[-1])
        data = expert_chunk(
            tool, opening, position, self.supports[cube.name], self.contract.action.horizon
        )
        chunk = ActionChunk(
            policy_id="scripted",
            contract_hash=self.contract.hash,
            instruction=instruction,
            epoch=self.epoch,
            sequence=sequence,
            action_space=ActionChunk.EE_DELTA,
            names=self.contract.action.names,
            step_s=self.contract.action.step_s,
            rows=data.shape[0],
            columns=data.shape[1],
            data=data.ravel().tolist(),
            reference_names=self.contract.command_joints,
            reference=joints.tolist(),
        )
        chunk.header.stamp, chunk.header.frame_id = state.header.stamp, self.contract.base_frame
        return chunk


def main():
    rclpy.init()
    executor = MultiThreadedExecutor(3)
    executor.add_node(ScriptedPolicy())
    with contextlib.suppress(
        KeyboardInterrupt, ExternalShutdownException, rclpy_implementation.RCLError
    ):
        executor.spin()


if __name__ == "__main__":
    main()
