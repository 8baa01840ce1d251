"""Run one case on a running graph, from a new scene to its outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from faults.cases import Case
from faults.faulty_arm import FaultyArm
from faults.motion_check import as_dicts

from sf_bringup.arm_client import ArmClientError

_PICK_S = 1.6  # s, approximate duration of a pick
_STATIONARY_S = 0.5  # s; an arm that is stationary this long during a pick was stopped by the fault


@dataclass
class Outcome:
    """The outcome of a case. Times in simulated seconds.

    ``ended``: "held", "went on" or "failed". ``hold_time_s`` runs from the fault to rest. If the
    arm continued, it runs from the withdrawal of the instruction, while the fault lasts (the
    longest of several picks).
    """

    name: str
    held: bool = False
    hold_time_s: float | None = None
    violations: list[dict] = field(default_factory=list)
    reason: str = ""
    ended: str = "failed"
    speed_at_fault: float = 0.0
    chunks_during: int = 0
    problem: str = ""

    @property
    def good(self) -> bool:
        """Return whether the arm held in time, broke no limit, and a status gave the reason."""
        return self.held and not self.violations and bool(self.reason) and not self.problem

    @property
    def broken(self) -> str:
        """Return the violations in words, the worst of each kind."""
        return "; ".join(
            f"{each['quantity']} of {each['what']} {each['value']:.4g} > {each['limit']:.4g}"
            for each in self.violations
        )


def carry_out(arm: FaultyArm, case: Case, seed: int) -> Outcome:
    """Cause the fault while the arm moves, clear it, and return the outcome.

    If the fault ended a process, the arm must also move again afterwards.
    """
    outcome = Outcome(case.name)
    try:
        arm.new_scene(seed, cubes=1)
        arm.observer.begin()
        with case.setting(arm):
            _run(arm, case, outcome)
        if case.restarts:  # the arm works again
            arm.instruct_and_wait_for_motion(_instruction(arm))
    except ArmClientError as error:
        outcome.problem = str(error)
    outcome.violations = as_dicts(arm.observer.violations)
    if arm.observer.steps == 0:
        outcome.problem = outcome.problem or "the observer received nothing"
    return outcome


def _run(arm: FaultyArm, case: Case, outcome: Outcome) -> None:
    hold_s = arm.contract.budgets.hold_s
    accepted = arm.executor.chunks_accepted
    if case.must_stop:
        began = _cause_fault(arm, case, outcome)
        arm.pass_time(case.seconds - (arm.now - began))
        _judge_hold(arm, outcome, began, hold_s + case.notice_s)
    else:
        for turn in range(case.picks):
            if turn:
                arm.next_scene(arm.task.seed + 1, cubes=1)
            _cause_fault(arm, case, outcome, again=turn > 0)
            arm.pass_time(_PICK_S)
            if outcome.ended == "failed":
                outcome.ended = "held" if arm.still_for > _STATIONARY_S else "went on"
            arm.stop_instruction()
            stopped = arm.now
            arm.pass_time(hold_s + 0.3)
            _judge_hold(arm, outcome, stopped, hold_s)
    outcome.chunks_during = int(arm.executor.chunks_accepted) - int(accepted)
    case.end(arm)
    arm.clear_faults()
    arm.pass_time(case.after_s)
    outcome.reason = next(
        (reason for reason in arm.reasons if re.search(case.reason_pattern, reason)), ""
    )
    if not outcome.reason:
        outcome.problem = outcome.problem or "no status gave a reason; received: " + (
            "; ".join(arm.reasons[-6:]) or "nothing"
        )


def _cause_fault(arm: FaultyArm, case: Case, outcome: Outcome, again: bool = False) -> float:
    """Start a motion and cause the fault; return the time of the fault."""
    arm.instruct_and_wait_for_motion(_instruction(arm))
    began = arm.now
    if not again:
        arm.clear_reasons()
        outcome.speed_at_fault = round(arm.observer.speed, 3)
    case.begin(arm)
    return began


def _instruction(arm: FaultyArm) -> str:
    return f"pick the {arm.task.suggested_target} cube"


def _judge_hold(arm: FaultyArm, outcome: Outcome, since: float, limit_s: float) -> None:
    """Set in the outcome how long the arm moved after ``since``, and whether that was too long."""
    took = max(0.0, arm.observer.moved_at - since)
    outcome.hold_time_s = round(max(took, outcome.hold_time_s or 0.0), 3)
    outcome.held = outcome.hold_time_s <= limit_s
    if not outcome.held:
        outcome.problem = (
            f"still moving {outcome.hold_time_s:.2f} s after it, {limit_s:g} s are allowed"
        )
    elif outcome.ended == "failed":
        outcome.ended = "held"
