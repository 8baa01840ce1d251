"""Control a running graph from a program: reset the simulated arm, send instructions, and read
states. Calls block until they are answered.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from sf_bringup.arguments import resolve_namespace
from sf_bringup.graph import find_robot
from sf_bringup.lease import short_lease
from sf_msgs.action import GoHome, RunInstruction
from sf_msgs.msg import ExecutorStatus, ObjectState, PolicyStatus, TaskState
from sf_msgs.srv import ResetScene
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.perception.images import decode_image

ANSWER_S = 10.0  # longest wait for the answer of a service or an action server
# s of simulated time after a reset, when images and joint states from before it are too old to use.
_SETTLE_S = 0.4
# Latched, so that an executor that discovers the button late also receives its state.
_BUTTON = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# By the number of ``RunInstruction.Result.termination_reason``, where it has no message.
REASONS = ("timeout", "cancelled", "replaced", "stopped", "no observation", "refused", "error")
_PASS_S = 60.0  # wall time allowed for a wait in simulated time, long enough for a busy machine


def client_of(robot: str, namespace: str) -> ArmClient:
    """Return a client of the running graph of ``robot``, a name or the path of its contract.

    Args:
        namespace: of the arm's nodes; empty: ROS_NAMESPACE of the environment.

    Raises:
        GraphError, ContractError: the robot is not found, or its contract is wrong.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    namespace = resolve_namespace(namespace) or "/"
    contract = load_contract(find_robot(robot), namespace=namespace)
    with short_lease():
        return ArmClient(contract, namespace=namespace)


class ArmClientError(RuntimeError):
    """Raised when the graph does not do what was asked; the message names the node or topic."""


class ArmClient:
    """Subscribe to the states of a running arm and call its services and its action.

    Args:
        contract: of the robot; gives the topics.
        images: also subscribe to the cameras and store their newest images.
        alive: called while waiting; raises an exception when the graph has ended.
        namespace: of the arm's nodes; empty: ROS_NAMESPACE of the environment.
        hint: end of the error message when nothing answers, such as where the log is.

    Attributes:
        task, policy, executor, feedback: newest message of each kind; None before the first.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        images: bool = False,
        alive: Callable[[], None] = lambda: None,
        namespace: str = "",
        hint: str = "",
    ) -> None:
        self.task: TaskState | None = None
        self.policy: PolicyStatus | None = None
        self.executor: ExecutorStatus | None = None
        self._images: dict[str, Image] = {}
        self.contract = contract
        self._alive, self._hint = alive, hint
        self._context = rclpy.Context()
        # The command line belongs to the program: `robot:=` would be taken for a remapping.
        rclpy.init(args=[], context=self._context)
        namespace = resolve_namespace(namespace)
        self._node = Node("arm_client", namespace=namespace, context=self._context)
        self._spinner = SingleThreadedExecutor(context=self._context)
        self._spinner.add_node(self._node)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscribe = self._node.create_subscription
        subscribe(TaskState, "sim_arm/task_state", self._on_task, latched)
        subscribe(PolicyStatus, contract.topics.policy_status, self._on_policy, 10)
        subscribe(ExecutorStatus, contract.topics.executor_status, self._on_executor, 10)
        if images:
            for camera in contract.cameras:
                subscribe(
                    Image,
                    camera.topic,
                    lambda message, name=camera.name: self._on_image(name, message),
                    qos_profile_sensor_data,
                )
        self._reset: Client = self._node.create_client(ResetScene, "sim_arm/reset")
        self._button: Publisher | None = None
        self._pause: Client = self._node.create_client(SetBool, "policy_node/pause")
        self._run: ActionClient = ActionClient(self._node, RunInstruction, "run_instruction")
        self.feedback: RunInstruction.Feedback | None = None

    @property
    def objects(self) -> list[ObjectState]:
        """Objects of the newest task state; empty before the first."""
        return list(self.task.objects) if self.task is not None else []

    def wait_until(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Process messages until ``condition`` is true.

        Args:
            what: start of the error message, such as "sim_arm did not answer".

        Raises:
            ArmClientError: ``condition`` stays false for ``timeout_s`` of wall time.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            self._alive()
            if time.monotonic() > end:
                raise ArmClientError(f"{what} within {timeout_s:g} s{self._hint}")
            self._spinner.spin_once(timeout_sec=0.1)

    def wait_for_arm(self, timeout_s: float) -> None:
        """Wait until the simulated arm publishes its task state and offers its reset service."""
        self.wait_until(
            lambda: self.task and self._reset.service_is_ready(),
            timeout_s,
            "sim_arm did not answer",
        )

    def wait_for_executor(self, timeout_s: float) -> None:
        """Wait until the executor is active."""
        self.wait_until(self._executor_active, timeout_s, "chunk_executor did not become active")

    def wait_for_policy(self, timeout_s: float) -> None:
        """Wait until the policy is loaded, the executor is active and the action server answers."""
        self.wait_for_executor(timeout_s)
        self.wait_until(self._policy_ready, timeout_s, "policy_node did not become active")
        self.wait_until(self._run.server_is_ready, timeout_s, "run_instruction did not answer")

    def reset(self, seed: int, cubes: int = 0) -> ResetScene.Response:
        """Reset the simulation to a new scene, and wait until data from before it are outdated.

        Raises:
            ArmClientError: the simulated arm refuses, or does not answer.
        """
        answer = self._answer(
            self._reset.call_async(ResetScene.Request(seed=seed, cubes=cubes)), "sim_arm/reset"
        )
        if not answer.success:
            raise ArmClientError(f"sim_arm/reset: {answer.message}")
        self.wait_until(
            lambda: (
                self.task is not None
                and self.task.seed == seed
                and not any(each.lifted for each in self.objects)
            ),
            ANSWER_S,
            "no new scene",
        )
        self.let_pass(_SETTLE_S)
        return answer

    def let_pass(self, seconds: float) -> None:
        """Wait for ``seconds`` of simulated time."""
        end = self.simulated_time + seconds
        self.wait_until(
            lambda: self.simulated_time >= end, _PASS_S, "simulated time does not advance"
        )

    def start(self, instruction: str, timeout_s: float) -> ClientGoalHandle:
        """Send an instruction and return its goal once it is accepted.

        Raises:
            ArmClientError: it was refused.
        """
        self.feedback = None
        goal = RunInstruction.Goal(instruction=instruction, timeout_s=float(timeout_s))
        handle = self._answer(
            self._run.send_goal_async(goal, feedback_callback=self._on_feedback), "run_instruction"
        )
        if not handle.accepted:
            raise ArmClientError(
                "run_instruction refused the instruction: give 1 to 500 characters"
            )
        return handle

    def go_home(self, arms: Sequence[str], progress: Callable[[float], None]) -> GoHome.Result:
        """Move arms to the home pose of their contract, and return the result once they stopped.

        Ctrl-C cancels the motion.

        Args:
            arms: names in the contract; empty: all.
            progress: called with the largest distance of a joint from home [rad or m].

        Raises:
            ArmClientError: the executor does not answer, or falls silent.
        """
        home: ActionClient = ActionClient(self._node, GoHome, "chunk_executor/go_home")
        try:
            self.wait_until(home.server_is_ready, ANSWER_S, "chunk_executor/go_home did not answer")
            sent = home.send_goal_async(
                GoHome.Goal(arms=list(arms)),
                feedback_callback=lambda message: progress(message.feedback.distance),
            )
            try:
                handle = self._answer(sent, "chunk_executor/go_home")
                if handle.accepted:
                    self._wait_while_reporting(handle.get_result_async())
            except KeyboardInterrupt:
                handle = self._answer(sent, "chunk_executor/go_home")
                if handle.accepted:
                    self._answer(handle.cancel_goal_async(), "chunk_executor/go_home (cancel)")
            if not handle.accepted:
                raise ArmClientError("chunk_executor refused to move: it is not active")
            result = handle.get_result_async()
            return self._answer(result, "chunk_executor/go_home (result)").result
        finally:
            home.destroy()

    def pause(self, paused: bool) -> None:
        """Pause or resume the current instruction.

        Raises:
            ArmClientError: there is no instruction.
        """
        answer = self._answer(
            self._pause.call_async(SetBool.Request(data=paused)), "policy_node/pause"
        )
        if not answer.success:
            raise ArmClientError(f"policy_node/pause: {answer.message}")

    def press(self, pressed: bool) -> None:
        """Press or release the emergency stop, once the executor subscribes to it.

        The node of this client counts as one button.

        Raises:
            ArmClientError: no executor subscribes.
        """
        if self._button is None:
            topic = self.contract.topics.emergency_stop
            self._button = self._node.create_publisher(Bool, topic, _BUTTON)
        self.wait_until(
            self._button.get_subscription_count,
            ANSWER_S,
            f"nobody listened on {self.contract.topics.emergency_stop}",
        )
        self._button.publish(Bool(data=pressed))

    def reset_emergency_stop(self) -> str:
        """Reset the latched emergency stop and return the executor's answer.

        Buttons whose programs ended while pressed are released, and named in the answer.

        Raises:
            ArmClientError: it refuses, with the reason, or does not answer.
        """
        name = "chunk_executor/reset_emergency_stop"
        client: Client = self._node.create_client(Trigger, name)
        try:
            self.wait_until(client.service_is_ready, ANSWER_S, f"{name} did not answer")
            answer = self._answer(client.call_async(Trigger.Request()), name)
        finally:
            client.destroy()
        if not answer.success:
            raise ArmClientError(answer.message)
        return answer.message

    def finish(self, handle: ClientGoalHandle, *, cancel: bool = True) -> RunInstruction.Result:
        """Return the result, after cancelling the goal when it still runs."""
        result = handle.get_result_async()
        if cancel and handle.status in (
            GoalStatus.STATUS_UNKNOWN,
            GoalStatus.STATUS_ACCEPTED,
            GoalStatus.STATUS_EXECUTING,
        ):
            self._answer(handle.cancel_goal_async(), "run_instruction (cancel)")
        return self._answer(result, "run_instruction (result)").result

    def finished(self, handle: ClientGoalHandle) -> bool:
        """Return whether the server has ended the goal."""
        return handle.status in (
            GoalStatus.STATUS_SUCCEEDED,
            GoalStatus.STATUS_ABORTED,
            GoalStatus.STATUS_CANCELED,
        )

    def image(self, camera: str) -> np.ndarray | None:
        """Return the newest image (H, W, 3) uint8 RGB of a camera; None before the first."""
        message = self._images.get(camera)
        if message is None:
            return None
        return decode_image(
            message.encoding,
            message.height,
            message.width,
            message.step,
            message.data,
            source=camera,
        )

    def newest_images(self) -> list[np.ndarray | None]:
        """Return the newest image of every camera, in the contract's order."""
        return [self.image(name) for name in self.contract.camera_names]

    @property
    def simulated_time(self) -> float:
        """Return the stamp of the newest task state [s]; 0 before the first."""
        return (
            self.task.header.stamp.sec + 1e-9 * self.task.header.stamp.nanosec if self.task else 0.0
        )

    def close(self) -> None:
        """Destroy the client's node."""
        self._run.destroy()
        self._spinner.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _answer(self, future: Future, what: str) -> Any:
        self.wait_until(future.done, ANSWER_S, f"{what} did not answer")
        return future.result()

    def _wait_while_reporting(self, future: Future) -> None:
        """Wait as long as the executor publishes its status."""
        while not future.done():
            last = self.executor
            self.wait_until(
                lambda last=last: future.done() or self.executor is not last,  # type: ignore[misc]
                ANSWER_S,
                "chunk_executor did not report its state",
            )

    def _executor_active(self) -> bool:
        return self.executor is not None and self.executor.state != ExecutorStatus.INACTIVE

    def _policy_ready(self) -> bool:
        if self.policy is not None and self.policy.state == PolicyStatus.ERROR:
            raise ArmClientError(f"policy_node: {self.policy.reason}")
        return self.policy is not None and self.policy.state not in (
            PolicyStatus.UNCONFIGURED,
            PolicyStatus.LOADING,
        )

    def _on_task(self, message: TaskState) -> None:
        self.task = message

    def _on_policy(self, message: PolicyStatus) -> None:
        self.policy = message

    def _on_executor(self, message: ExecutorStatus) -> None:
        self.executor = message

    def _on_image(self, name: str, message: Image) -> None:
        self._images[name] = message

    def _on_feedback(self, message: Any) -> None:
        self.feedback = message.feedback
