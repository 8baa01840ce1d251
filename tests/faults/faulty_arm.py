"""Control the running graph for the cases: instructions, faults, emergency stop, statuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from faults.injector import FAULTS, behind
from faults.observer import MotionObserver
from faults.processes import INJECTOR, Processes
from rcl_interfaces.msg import Parameter as ParameterMessage
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from sf_bringup.arguments import SIM_ROBOT
from sf_bringup.arm_client import ArmClient, ArmClientError
from sf_bringup.graph import find_robot
from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract, load_contract

START_S = 180.0  # wall time; a busy machine reads a checkpoint slowly
PATIENCE_S = 60.0  # wall time for an action that takes a second
MOVING = 0.15  # share of a joint's speed limit from which the arm counts as moving
_SETTLE_S = 0.5  # after a reset: images from before are then outside every budget
_DISCOVERY_S = 0.3  # wall time in which all subscribers find a new publisher
_RELEASES = 10  # attempts to release the emergency stop
_AGAIN_S = 5.0  # wall time after which an instruction is repeated
HEARTBEAT_S = 0.6  # how long a button with a heartbeat may be silent
_BEATS = 6  # messages in this time
_JOINED_S = 0.15  # from a command of another node until the motion towards it is judged
_OFF_S = 0.07  # how long a restarted controller is off
_LEADS_S = 0.8  # how long a leader works before its cable drops


class FaultyArm(ArmClient):
    """A client with a motion observer.

    Times are simulated seconds on the arm's own clock, which no fault affects.
    """

    def __init__(self, contract: Contract, processes: Processes) -> None:
        super().__init__(contract, alive=processes.check)
        self.contract, self.processes = contract, processes
        self.observer = MotionObserver(contract)
        self.clock_shift = 0.0
        self._instructed = ""  # the last instruction
        self._reasons: dict[tuple[str, str], None] = {}  # an ordered set
        self._earlier_reasons: set[tuple[str, str]] = set()
        # Not latched: a restarted policy must not receive earlier messages.
        self._quiet = quiet = {
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
        controller = contract.command.topic.rpartition("/")[0]
        self._activate_controller = self._node.create_client(
            SetBool, behind(f"{controller}/set_active")
        )
        self._beating: list[Publisher] = []  # buttons with a heartbeat
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

        The same text comes from another publisher each time: the policy ignores a text that was
        stopped, from its publisher.
        """
        if instruction == self._instructed:
            self._node.destroy_publisher(self._instructions)
            self._instructions = self._node.create_publisher(
                String, self.contract.topics.instruction, **self._quiet
            )
        self._instructed, since = instruction, time.monotonic()
        self.until(
            lambda: (
                self._instructions.get_subscription_count()
                and time.monotonic() > since + _DISCOVERY_S
            ),
            "no subscriber takes instructions",
        )
        self._instructions.publish(String(data=instruction))

    def instruct_and_wait_for_motion(self, instruction: str) -> None:
        """Publish an instruction until the arm moves.

        It is repeated as a person does: a restarted executor asks for it again, and the policy
        ignores the text of an instruction in force.
        """
        due = 0.0

        def moves() -> bool:
            nonlocal due
            if time.monotonic() > due:
                due = time.monotonic() + _AGAIN_S
                self.instruct(instruction)
            return self._is_moving()

        self.until(moves, f"the arm did not move after {instruction!r}")

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

    def press_one_release_other(self) -> None:
        """Press one button and release another one repeatedly.

        Raises:
            ArmClientError: the emergency stop was reset while a button was pressed.
        """
        self._publish_until_stopped(self._emergency)
        for _ in range(_RELEASES):
            self.press_best_effort(False)
            self.pass_time(0.05)
            if self._request_reset().success:
                raise ArmClientError("a reset was accepted while a button was pressed")

    def _publish_until_stopped(self, button: Publisher) -> None:
        def stopped() -> bool:
            button.publish(Bool(data=True))
            return self.executor.state == ExecutorStatus.STOPPED

        self.until(stopped, "the emergency stop was not noticed")

    def _request_reset(self) -> Trigger.Response:
        request = self._reset_stop.call_async(Trigger.Request())
        return self._answer(request, "/chunk_executor/reset_emergency_stop")

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Restart the executor with a contract that requires a heartbeat, and send it."""
        self._beating = [self._emergency, self._best_effort_emergency]
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer = self._node.create_timer(HEARTBEAT_S / _BEATS, self._beat, clock=steady)
        try:
            self._restart_executor(self.processes.changed_contract(_require_heartbeat))
            yield
        finally:
            self._node.destroy_timer(timer)
            self._restart_executor(None)

    def silence_second_button(self) -> None:
        """End the heartbeat of one button; the other one still repeats that it is released."""
        self._beating = [self._emergency]

    def _beat(self) -> None:
        for button in self._beating:
            button.publish(Bool(data=False))

    def _restart_executor(self, contract: Path | None) -> None:
        self.executor = None
        self.processes.restart("chunk_executor", contract)
        self.wait_for_executor(START_S)
        self.until(self._reset_stop.service_is_ready, "/chunk_executor did not answer")
        self.reset_emergency_stop()

    def reset_emergency_stop(self) -> None:
        """Release all buttons and reset the emergency stop by service, as an operator does.

        A release that is published best effort can be lost, so it is repeated.
        """
        for _ in range(_RELEASES):
            response = self._request_reset()
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

    @contextlib.contextmanager
    def second_commander(self) -> Iterator[None]:
        """Let a second node be ready to command the arm."""
        self.inject(other_commander="idle")
        self.pass_time(_SETTLE_S)
        yield

    def command_by_another_node(self) -> None:
        """Let the second node stop the arm; its own first command is not judged."""
        with self.observer.unjudged():
            self.inject(other_commander="hold")
            self.pass_time(_JOINED_S)

    def restart_controller(self) -> None:
        """Deactivate the controller while the arm moves, and activate it 70 ms later.

        It holds position from then on. That the arm stops at once is not judged.
        """
        with self.observer.unjudged():
            for active in (False, True):
                request = SetBool.Request(data=active)
                self._answer(self._activate_controller.call_async(request), "the controller")
                self.pass_time(_OFF_S)

    def drop_leader(self) -> None:
        """Let a leader take over, move the arm, and read zeros from then on."""
        self.inject(leader="")
        self.pass_time(2.0 * self.contract.budgets.teleop_age_s)
        self.inject(leader="follow")
        self.until(
            lambda: self.executor.state == ExecutorStatus.TELEOPERATION,
            "the leader did not take over",
        )
        self.pass_time(_LEADS_S)
        self.inject(leader="zeros")

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


def _require_heartbeat(contract: dict) -> None:
    contract["budgets"]["emergency_stop_age_s"] = HEARTBEAT_S


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
