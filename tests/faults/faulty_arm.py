"""Control the running graph for the cases: instructions, faults, emergency stop, statuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from faults.injector import FAULTS
from faults.observer import MotionObserver
from faults.processes import INJECTOR, Processes
from rcl_interfaces.msg import Parameter as ParameterMessage
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from sf_bringup.arguments import SIM_ROBOT
from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.session.instruction_repeats import STREAM_S

START_S = 180.0  # wall time; a busy machine reads a checkpoint slowly
PATIENCE_S = 60.0  # wall time for an action that takes a second
MOVING = 0.15  # share of a joint's speed limit from which the arm counts as moving
_SETTLE_S = 0.5  # after a reset: images from before are then outside every budget
_RELEASES = 10  # attempts to release the emergency stop


class FaultyArm(ArmClient):
    """A client with a motion observer.

    Times are simulated seconds on the arm's own clock, which no fault affects.
    """

    def __init__(self, contract: Contract, processes: Processes) -> None:
        super().__init__(contract, alive=processes.check)
        self.contract, self.processes = contract, processes
        self.observer = MotionObserver(contract)
        self.clock_shift = 0.0
        self._instructed = "", 0.0  # the last instruction, and when it was published
        self._reasons: dict[tuple[str, str], None] = {}  # an ordered set
        self._earlier_reasons: set[tuple[str, str]] = set()
        # Not latched: a restarted policy must not receive earlier messages.
        quiet = {
            "qos_profile": QoSProfile(depth=5),
            "event_callbacks": PublisherEventCallbacks(use_default_callbacks=False),
        }
        self._instructions = self._node.create_publisher(
            String, contract.topics.instruction, **quiet
        )
        self._emergency = self._node.create_publisher(Bool, contract.topics.emergency_stop, **quiet)
        self._best_effort_emergency = self._node.create_publisher(
            Bool, contract.topics.emergency_stop, qos_profile_sensor_data
        )
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
        """Return the simulated time of the newest physics step that the observer received."""
        return self.observer.now

    @property
    def still_for(self) -> float:
        """Return how long the arm has been stationary [s]."""
        return self.observer.now - self.observer.moved_at

    # ---- commands ----

    def new_scene(self, seed: int, cubes: int = 0) -> None:
        """Clear faults and emergency stop, and set a new scene with a stationary arm."""
        self.clear_faults()
        self.emergency_stop(False)
        self.next_scene(seed, cubes)

    def next_scene(self, seed: int, cubes: int = 0) -> None:
        """Withdraw the instruction and set a new scene with a stationary arm; keep the faults."""
        self.stop_instruction()
        self.until(
            lambda: self.executor.state != ExecutorStatus.EXECUTING,
            "the arm did not stop between two scenes",
        )
        if self.executor.state == ExecutorStatus.STOPPED:
            self.reset_emergency_stop()
        self.reset(seed, cubes)
        self.pass_time(_SETTLE_S)
        self.until(lambda: self.still_for > 0.2, "the arm was not stationary after the reset")

    def instruct(self, instruction: str) -> None:
        """Publish an instruction once, for current subscribers.

        A text that was stopped is published again only when the policy does not take it for one
        that a program repeats.
        """
        self.until(self._instructions.get_subscription_count, "no subscriber takes instructions")
        text, published = self._instructed
        if instruction == text:
            self.until(
                lambda: time.monotonic() > published + STREAM_S, "the clock of this process stands"
            )
        self._instructed = instruction, time.monotonic()
        self._instructions.publish(String(data=instruction))

    def instruct_and_wait_for_motion(self, instruction: str) -> None:
        """Publish an instruction and wait until the arm moves."""
        self.instruct(instruction)
        self.until(self._is_moving, f"the arm did not move after {instruction!r}")

    def stop_instruction(self) -> None:
        """Withdraw the instruction."""
        self._answer(self._stop.call_async(Trigger.Request()), "/policy_node/stop")

    def emergency_stop(self, pressed: bool) -> None:
        """Press or release the emergency stop button."""
        self._emergency.publish(Bool(data=pressed))
        if not pressed:
            self.press_best_effort(False)

    def press_best_effort(self, pressed: bool = True) -> None:
        """Press or release a second button, which publishes best effort."""
        self._best_effort_emergency.publish(Bool(data=pressed))

    def reset_emergency_stop(self) -> None:
        """Release all buttons and reset the emergency stop by service, as an operator does.

        A release that is published best effort can be lost, so it is repeated.
        """
        for _ in range(_RELEASES):
            response = self._answer(
                self._reset_stop.call_async(Trigger.Request()),
                "/chunk_executor/reset_emergency_stop",
            )
            if response.success:
                break
            self.emergency_stop(False)
            self.pass_time(_SETTLE_S)
        self.until(
            lambda: self.executor.state != ExecutorStatus.STOPPED,
            f"the stop was not reset: {response.message}",
        )

    def inject(self, **faults: float | str | bool) -> None:
        """Set faults of the injector and wait until they are in force."""
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
        """Reset all faults to their defaults, except the clock: its shift remains."""
        self.inject(
            **{name: default for name, (default, _) in FAULTS.items() if name != "clock_shift_s"}
        )

    # ---- waiting ----

    def until(self, condition, what: str) -> None:
        """Spin until the condition is true; raise after a generous time limit."""
        self.wait_until(condition, PATIENCE_S, what)

    def pass_time(self, seconds: float, until=lambda: False) -> None:
        """Wait for simulated time, or until the condition is true."""
        end = self.now + seconds
        self.wait_until(
            lambda: self.now >= end or until(),
            PATIENCE_S + 10 * seconds,
            f"{seconds} simulated seconds did not pass",
        )

    # ---- reported reasons ----

    def clear_reasons(self) -> None:
        """Clear the reported reasons; reasons that are still reported count as earlier ones."""
        before = [
            ("executor", self.executor.reason),
            ("policy", self.policy.reason if self.policy else ""),
        ]
        self._reasons = {}
        self._earlier_reasons = {(who, reason) for who, reason in before if reason}

    @property
    def reasons(self) -> list[str]:
        """Return new reasons in the statuses since :meth:`clear_reasons`, in order, each once.

        A reason has the form ``executor: ...`` or ``policy: ...``.
        """
        return [
            f"{who}: {reason}"
            for who, reason in self._reasons
            if (who, reason) not in self._earlier_reasons
        ]

    def close(self) -> None:
        self.observer.close()
        super().close()

    def _is_moving(self) -> bool:
        return self.executor.state == ExecutorStatus.EXECUTING and self.observer.speed > MOVING

    def _note_executor(self, message: ExecutorStatus) -> None:
        if message.reason:
            self._reasons["executor", message.reason] = None

    def _note_policy(self, message: PolicyStatus) -> None:
        if message.reason:
            self._reasons["policy", message.reason] = None


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
