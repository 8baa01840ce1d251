"""A person at the controls, for the system test of recording: looks at the scene, takes the leader
arm, picks the named cube.

Not quick and not exact: reacts late, moves in a person's time with a hand that drifts, and lets go
when the cube is up. What it sees is the ground truth, as a person sees the table; what it moves
goes through ``teleop_command`` like a leader arm's joints.
"""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from sf_msgs.msg import TaskState
from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.simulation.arm_sim import TOOL_DOWN
from sf_training.simulation.expert import expert_chunk
from sf_training.simulation.scene import CUBE_HALF

RATE_HZ = 50.0
REACTION_S = (0.2, 0.6)
HAND_DRIFT = 0.002  # m, standard deviation of the slow error of the hand
_DRIFT_KEPT = 0.8  # from one action step to the next


class Person:
    """Drives while :meth:`take` is in force.

    Args:
        node: of the process that spins it; must run on the arm's clock.
        seed: of reaction times and of the hand.
    """

    def __init__(self, node: Node, contract: Contract, seed: int) -> None:
        node.set_parameters([Parameter("use_sim_time", value=True)])
        self._node, self._contract, self._kinematics = node, contract, Kinematics(contract)
        self._rng = np.random.default_rng(seed)
        self._task: TaskState | None = None
        self._supports: dict[str, float] = {}
        self._measured: np.ndarray | None = None
        self._colour: str | None = None
        self._begin = 0.0
        self._joints = self._last = self._start = self._goal = None
        self._step_began = 0.0
        self._drift = np.zeros(3)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(TaskState, "/sim_arm/task_state", self._on_task, latched)
        node.create_subscription(
            JointState, contract.topics.joint_states, self._on_joints, qos_profile_sensor_data
        )
        self._commands = node.create_publisher(JointState, contract.topics.teleop_command, 10)
        node.create_timer(1.0 / RATE_HZ, self._move)

    def take(self, colour: str) -> None:
        """Go for a cube, after the time it takes to react."""
        self._colour, self._begin = colour, self._now() + self._rng.uniform(*REACTION_S)
        self._joints, self._drift = None, np.zeros(3)

    def let_go(self) -> None:
        """Hands off: nothing is published any more."""
        self._colour = None

    def _move(self) -> None:
        now = self._now()
        if (
            self._colour is None
            or self._measured is None
            or self._task is None
            or now < self._begin
        ):
            return
        if self._joints is None:  # the leader stands where the arm stands
            self._joints, self._step_began = self._measured.copy(), now
            self._aim(self._kinematics.forward(self._joints[:-1]).position)
        step = self._contract.action.step_s
        if now - self._step_began >= step:
            self._step_began += step
            self._aim(self._goal)
        share = min(1.0, (now - self._step_began) / step)
        place = np.clip(
            self._start + share * (self._goal - self._start),
            self._contract.workspace.lower,
            self._contract.workspace.upper,
        )
        before = self._joints
        arm = self._kinematics.inverse(ToolPose(place, TOOL_DOWN), before[:-1]).positions
        self._joints = np.append(arm, self._contract.gripper.to_joint(self._opening))
        velocities = np.append((arm - before[:-1]) * RATE_HZ, 0.0)
        message = JointState(
            name=list(self._contract.command_joints),
            position=self._joints.tolist(),
            velocity=velocities.tolist(),
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._commands.publish(message)

    def _aim(self, place: np.ndarray) -> None:
        """Where the hand goes within the next action step."""
        cube = next(each for each in self._task.objects if each.name == self._colour).position
        opening = self._contract.gripper.to_opening(self._measured[-1])
        *move, self._opening = expert_chunk(
            place, opening, np.array([cube.x, cube.y, cube.z]), self._supports[self._colour], 1
        )[0]
        self._drift = _DRIFT_KEPT * self._drift + self._rng.normal(
            0.0, HAND_DRIFT * (1 - _DRIFT_KEPT**2) ** 0.5, 3
        )
        self._start, self._goal = (
            place,
            place + move + (self._drift if self._opening > 0.5 else 0.0),
        )

    def _now(self) -> float:
        return 1e-9 * self._node.get_clock().now().nanoseconds

    def _on_task(self, message: TaskState) -> None:
        if self._task is None or message.episode != self._task.episode:
            self._supports = {each.name: each.position.z - CUBE_HALF for each in message.objects}
        self._task = message

    def _on_joints(self, message: JointState) -> None:
        places = dict(zip(message.name, message.position, strict=True))
        self._measured = np.array([places[name] for name in self._contract.command_joints])
