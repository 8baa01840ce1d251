"""Publishes the diagnostics of both nodes on ``/diagnostics`` (REP 107).

The functions convert a status message to a ``DiagnosticStatus``. ``diagnostic_updater`` is not
used: it is not on PyPI, and one publisher and one timer suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from sf_msgs.msg import ExecutorStatus, PolicyStatus
from sf_policy_node.contract import Contract
from sf_policy_node.motion.safety.missing_joint_states import late_joint_states, no_joint_states
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import ControlSource
from sf_policy_node.nodes.conversions import to_stamp
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.perception.observation import late, no_image
from sf_policy_node.session.status import PolicyState

_PERIOD_S = 1.0
_SLOW = 0.8  # share of the wanted rate below which a policy is too slow
NEEDS_INSTRUCTION = "give an instruction again"
"""The end of an executor's reason that only a new instruction clears."""
_OFTEN_LATE = 0.01  # share of late control cycles that is a warning
# Share of lost joint states that is a warning. At 100 Hz a few lost ones do not matter, because
# joints are interpolated.
_OFTEN_LOST = 0.05

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)


class Diagnostics:
    """Publishes the result of ``describe`` once a second while the node is configured.

    It uses real time, because diagnostics must also show a simulated clock that does not advance.
    """

    def __init__(self, node: ManagedNode, describe: Callable[[], DiagnosticStatus]) -> None:
        self._node, self._describe = node, describe
        self._publisher = node.publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=5))
        timer = node.create_timer(
            _PERIOD_S, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        node.resources.callback(node.destroy_timer, timer)

    def _publish(self) -> None:
        self._publisher.publish(
            DiagnosticArray(
                header=Header(stamp=to_stamp(self._node.now())), status=[self._describe()]
            )
        )


def policy_diagnostics(
    message: PolicyStatus, contract: Contract, joint_states: tuple[int, int] = (0, 0)
) -> DiagnosticStatus:
    """Convert the policy node's status to a diagnostic.

    Args:
        message: the newest status.
        contract: has the topics and budgets.
        joint_states: how many were lost and how many were sent recently; see ``Reception.recent``.
    """
    level, sentence = _judge_policy(message, contract)
    lost, sent = joint_states
    if level == OK and lost > _OFTEN_LOST * sent:
        level, sentence = (
            WARN,
            (
                f"{lost} of the last {sent} joint states on {contract.topics.joint_states} were"
                " lost; reduce the load of this computer and of the network"
            ),
        )
    values = {
        "state": _word(PolicyState, message.state),
        "instruction": message.instruction or "none",
        "policy": message.policy_id or "none",
        "device": message.device or "none",
        "chunks": message.chunks,
        "observations refused": message.observations_refused,
        "rate": f"{message.rate_hz:.2f} Hz of {message.rate_wanted_hz:.2f} Hz wanted",
        "cycles over budget": message.cycles_over_budget,
        "worst cycle": _milliseconds(message.worst_cycle_s),
        "inference p50 / p95 / p99": _latencies(message, "inference_latency"),
        "camera to chunk p50 / p95 / p99": _latencies(message, "chunk_latency"),
        **{
            f"camera {name} age": _age(age)
            for name, age in zip(message.camera_names, message.camera_age_s, strict=True)
        },
        "camera skew": _age(message.camera_skew_s),
        "joint state age": _age(message.joint_state_age_s),
        "joint states lost": f"{lost} of {sent}",
    }
    return _status("policy_node: policy", contract, level, sentence, values)


def executor_diagnostics(
    message: ExecutorStatus,
    contract: Contract,
    controller: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
) -> DiagnosticStatus:
    """Convert the chunk executor's status to a diagnostic.

    Args:
        message: the newest status.
        contract: has the topics and budgets.
        controller: names and values about the controller; None: there are none.
        problems: that an operator must see; they are in the status's reason, too.
    """
    level, sentence = _judge_executor(message, contract, problems)
    values = {
        "state": _word(ExecutorState, message.state),
        "control source": _word(ControlSource, message.control_source),
        "instruction": message.instruction or "none",
        "chunks accepted": message.chunks_accepted,
        "chunks refused": message.chunks_refused,
        "steps skipped": message.steps_skipped,
        "queue depth": f"{message.queue_depth} steps",
        "chunk age": _age(message.chunk_age_s),
        "joint state age": _age(message.joint_state_age_s),
        "chunk to command p50 / p95 / p99": _latencies(message, "executor_latency"),
        "join": message.join or "none yet",
        "border jump, newest": f"{message.border_jump:.4f} rad or m",
        "border jump, largest": f"{message.border_jump_max:.4f} rad or m",
        "clip rate": f"{100.0 * message.clip_rate:.0f} % of the last 100 chunks",
        "position clips": _per_joint(message, message.position_clips),
        "velocity clips": _per_joint(message, message.velocity_clips),
        "acceleration clips": _per_joint(message, message.acceleration_clips),
        "step clips": _per_joint(message, message.step_clips),
        "workspace clips": message.workspace_clips,
        "tool speed clips": message.tool_speed_clips,
        "targets out of reach": message.ik_failures,
        "targets near a singularity": message.singular_rows,
        "refused by the guard": message.guard_refusals,
        "cycles": message.cycles,
        "missed deadlines": message.missed_deadlines,
        "latest cycle": _milliseconds(message.cycle_late_max_s),
        **(controller or {}),
    }
    return _status("chunk_executor: motion", contract, level, sentence, values)


def _judge_policy(message: PolicyStatus, contract: Contract) -> tuple[bytes, str]:
    state, text = message.state, message.instruction
    if state in (PolicyStatus.UNCONFIGURED, PolicyStatus.LOADING):
        return STALE, "the policy is not loaded yet"
    if state == PolicyStatus.ERROR:
        return ERROR, message.reason
    if state == PolicyStatus.WAITING:
        return WARN, message.reason
    for camera, age in zip(contract.cameras, message.camera_age_s, strict=False):
        if age < 0.0:
            return WARN, no_image(camera.name, camera.topic)
        if age > contract.budgets.observation_age_s:
            budget = contract.budgets.observation_age_s
            newest = f"camera {camera.name}: the newest image"
            return WARN, late(newest, age, "observation_age_s", budget)
    if state == PolicyStatus.PAUSED:
        return OK, f"paused: {text}; ~/pause (false) resumes it"
    if state == PolicyStatus.RUNNING:
        if 0.0 < message.rate_hz < _SLOW * message.rate_wanted_hz:
            rates = (
                f"{message.rate_hz:.2f} chunks per second, {message.rate_wanted_hz:.2f} are wanted"
            )
            return WARN, f"{rates}: use a faster device or policy, or raise replan_steps"
        return OK, f"follows: {text}"
    return OK, f"no instruction; {message.reason}" if message.reason else "no instruction"


def _judge_executor(
    message: ExecutorStatus, contract: Contract, problems: Sequence[str]
) -> tuple[bytes, str]:
    if message.state == ExecutorStatus.INACTIVE:
        return STALE, "inactive: nothing is sent; activate it"
    if message.state == ExecutorStatus.STOPPED:
        return ERROR, message.reason or (
            "the emergency stop is latched; release it, and call reset_emergency_stop"
        )
    budget = contract.budgets.joint_state_age_s
    if message.joint_state_age_s < 0.0:
        known = any(words in message.reason for words in ("joint states", "/clock"))
        return ERROR, message.reason if known else no_joint_states(contract.topics.joint_states)
    if message.joint_state_age_s > budget:
        return ERROR, late_joint_states(message.joint_state_age_s, budget)
    if problems or NEEDS_INSTRUCTION in message.reason:
        return WARN, message.reason
    if message.guard_refusals:
        return (
            WARN,
            (
                f"the guard refused {message.guard_refusals} motions, which should not happen:"
                " please report this"
            ),
        )
    if message.missed_deadlines > _OFTEN_LATE * message.cycles:
        late = (
            f"{message.missed_deadlines} of {message.cycles} control cycles were late, one by"
            f" {message.cycle_late_max_s:.3f} s"
        )
        return WARN, f"{late}; reduce the load of this computer"
    return OK, message.reason or _word(ExecutorState, message.state)


def _status(
    name: str, contract: Contract, level: bytes, sentence: str, values: dict[str, object]
) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(
        level=level, name=name, message=sentence, hardware_id=contract.robot, values=pairs
    )


def _word(states: type[IntEnum], number: int) -> str:
    return states(number).name.lower() if number in list(states) else f"number {number}"


def _latencies(message: PolicyStatus | ExecutorStatus, field: str) -> str:
    return (
        " / ".join(
            f"{1e3 * getattr(message, f'{field}_{share}_s'):.1f}" for share in ("p50", "p95", "p99")
        )
        + " ms"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def _age(seconds: float) -> str:
    return _milliseconds(seconds) if seconds >= 0.0 else "none yet"


def _per_joint(message: ExecutorStatus, counts: Iterable[int]) -> str:
    counted = {
        name: count for name, count in zip(message.joint_names, counts, strict=False) if count
    }
    return ", ".join(f"{name} {count}" for name, count in counted.items()) or "0"
