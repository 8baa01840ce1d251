"""The running graph as the cases see it: instructions, faults, an emergency stop, and what the
nodes said meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from faults.injector import FAULTS
from faults.observer import MotionObserver
from faults.processes import INJECTOR, Processes
from rcl_interfaces.msg import Parameter as ParameterMessage
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from sf_bringup.arguments import SIM_ROBOT
from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract, load_contract

START_S = 180.0  # wall time; reading a checkpoint on a busy machine
PATIENCE_S = 60.0  # wall time for what takes a second
MOVING = 0.15  # share of a joint's speed limit from which the arm counts as moving
_SETTLE_S = 0.5  # after a reset: older images than this are outside every budget


class FaultyArm(ArmClient):
    """A client with a motion observer beside it. Times are simulated seconds on the arm's own
    clock, which no fault touches.
    """

    def __init__(self, contract: Contract, processes: Processes) -> None:
        super().__init__(contract, alive=processes.check)
        self.contract, self.processes = contract, processes
        self.observer = MotionObserver(contract)
        self.clock_shift = 0.0
        self._said: dict[tuple[str, str], None] = {}  # an ordered set
        self._before: set[tuple[str, str]] = set()
        # Not latched: a policy that is started again must not hear what was said before.
        quiet = {
            "qos_profile": QoSProfile(depth=5),
            "event_callbacks": PublisherEventCallbacks(use_default_callbacks=False),
        }
        self._instructions = self._node.create_publisher(
            String, contract.topics.instruction, **quiet
        )
        self._emergency = self._node.create_publisher(Bool, contract.topics.emergency_stop, **quiet)
        self._stop = self._node.create_client(Trigger, "/policy_node/stop")
        self._reset_stop = self._node.create_client(Trigger, "/chunk_executor/reset_emergency_stop")
        self._faults = AsyncParameterClient(self._node, INJECTOR)
        self._node.create_subscription(
            ExecutorStatus, contract.topics.executor_status, self._note_executor, 20
        )
        self._node.create_subscription(
            PolicyStatus, contract.topics.policy_status, self._note_policy, 20
        )

    @property
    def now(self) -> float:
        """Simulated time of the newest physics step that the observer has seen."""
        return self.observer.now

    @property
    def still_for(self) -> float:
        """How long the arm has been at rest [s]."""
        return self.observer.now - self.observer.moved_at

    # ---- orders ----

    def new_scene(self, seed: int, cubes: int = 0) -> None:
        """No faults, no emergency stop, no instruction, and an arm that stands in a new scene."""
        self.clear_faults()
        self.emergency_stop(False)
        self.next_scene(seed, cubes)

    def next_scene(self, seed: int, cubes: int = 0) -> None:
        """An arm that stands in a new scene and has no instruction; faults stay in force."""
        self.stop_instruction()
        self.until(
            lambda: self.executor.state != ExecutorStatus.EXECUTING,
            "the arm did not stop between two scenes",
        )
        if self.executor.state == ExecutorStatus.STOPPED:
            self.reset_emergency_stop()
        self.reset(seed, cubes)
        self.pass_time(_SETTLE_S)
        self.until(lambda: self.still_for > 0.2, "the arm did not stand after the reset")

    def instruct(self, instruction: str) -> None:
        """Say it once, to whoever listens now."""
        self.until(self._instructions.get_subscription_count, "nobody takes instructions")
        self._instructions.publish(String(data=instruction))

    def instruct_and_wait_until_it_moves(self, instruction: str) -> None:
        """Returns when the arm moves because of the instruction."""
        self.instruct(instruction)
        self.until(self._moves, f"the arm did not move after {instruction!r}")

    def stop_instruction(self) -> None:
        """No instruction is followed any more."""
        self._answer(self._stop.call_async(Trigger.Request()), "/policy_node/stop")

    def emergency_stop(self, pressed: bool) -> None:
        """Press or release the button."""
        self._emergency.publish(Bool(data=pressed))

    def reset_emergency_stop(self) -> None:
        """As a person would."""
        answer = self._answer(
            self._reset_stop.call_async(Trigger.Request()), "/chunk_executor/reset_emergency_stop"
        )
        self.until(
            lambda: self.executor.state != ExecutorStatus.STOPPED,
            f"the stop was not reset: {answer.message}",
        )

    def inject(self, **faults: float | str | bool) -> None:
        """Set faults of the injector; returns when they are in force."""
        self.clock_shift = faults.get("clock_shift_s", self.clock_shift)
        messages: list[ParameterMessage] = [
            Parameter(name, value=value).to_parameter_msg() for name, value in faults.items()
        ]
        result = self._answer(
            self._faults.set_parameters_atomically(messages), f"/{INJECTOR}"
        ).result
        if not result.successful:
            raise ValueError(result.reason)

    def clear_faults(self) -> None:
        """All faults to their defaults, but the clock: one that was stepped stays where it is."""
        self.inject(
            **{name: default for name, (default, _) in FAULTS.items() if name != "clock_shift_s"}
        )

    # ---- waiting ----

    def until(self, condition, what: str) -> None:
        """Answer messages until it is true; an error after much more time than it can take."""
        self.wait_until(condition, PATIENCE_S, what)

    def pass_time(self, seconds: float, until=lambda: False) -> None:
        """Simulated time, or until the condition is true."""
        end = self.now + seconds
        self.wait_until(
            lambda: self.now >= end or until(),
            PATIENCE_S + 10 * seconds,
            f"{seconds} simulated seconds did not pass",
        )

    # ---- what was said ----

    def listen(self) -> None:
        """Forget what the nodes have said so far; what they go on saying counts as said before."""
        before = [
            ("executor", self.executor.reason),
            ("policy", self.policy.reason if self.policy else ""),
        ]
        self._said = {}
        self._before = {(who, reason) for who, reason in before if reason}

    @property
    def said(self) -> list[str]:
        """New reasons in the statuses since :meth:`listen`, in order, each once: ``executor: ...``
        or ``policy: ...``.
        """
        return [
            f"{who}: {reason}" for who, reason in self._said if (who, reason) not in self._before
        ]

    def close(self) -> None:
        self.observer.close()
        super().close()

    def _moves(self) -> bool:
        return self.executor.state == ExecutorStatus.EXECUTING and self.observer.speed > MOVING

    def _note_executor(self, message: ExecutorStatus) -> None:
        if message.reason:
            self._said["executor", message.reason] = None

    def _note_policy(self, message: PolicyStatus) -> None:
        if message.reason:
            self._said["policy", message.reason] = None


@contextlib.contextmanager
def faulty_arm(logs: Path) -> Iterator[FaultyArm]:
    """Start the arm, the injector, the executor and the shipped policy; stop them at the end."""
    contract = load_contract(find_robot(SIM_ROBOT))
    with Processes(contract, logs) as processes:
        arm = FaultyArm(contract, processes)
        try:
            arm.wait_for_arm(START_S)
            arm.wait_for_policy(START_S)
            arm.wait_until(
                arm._faults.services_are_ready, START_S, "/fault_injector did not answer"
            )
            yield arm
        finally:
            arm.close()
