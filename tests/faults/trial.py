"""One case on a running graph, from a fresh scene to its outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from faults.cases import Case
from faults.faulty_arm import FaultyArm
from faults.motion_check import as_dicts

from sf_bringup.arm_client import ArmClientError

_NEXT_INSTRUCTION_S = 1.3  # about what a pick takes: under a fault that is survived, the arm is kept busy
_STANDS_S = 1.0  # at rest for so long at its end, a case has ended in a hold


@dataclass
class Outcome:
    """What came of a case. Times in simulated seconds; ``ended``: "held", "went on" or "failed".

    ``hold_time_s`` runs from the fault to rest; where the arm went on, from the moment at which the instruction was
    taken away with the fault still there.
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
        """It held in time, broke no limit, and somebody said why."""
        return self.held and not self.violations and bool(self.reason) and not self.problem


def carry_out(arm: FaultyArm, case: Case, seed: int) -> Outcome:
    """Bring the fault about while the arm moves, watch, take it away, and see that the arm can be used again."""
    outcome = Outcome(case.name)
    try:
        arm.new_scene(seed)
        arm.observer.begin()
        _run(arm, case, outcome)
    except ArmClientError as error:
        outcome.problem = str(error)
    outcome.violations = as_dicts(arm.observer.violations)
    if arm.observer.steps == 0:
        outcome.problem = outcome.problem or "the observer saw nothing"
    return outcome


def _run(arm: FaultyArm, case: Case, outcome: Outcome) -> None:
    colours = [each.name for each in arm.task.objects]
    arm.instruct_and_wait_until_it_moves(f"pick the {colours[0]} cube")
    arm.listen()
    accepted = arm.executor.chunks_accepted
    began, outcome.speed_at_fault = arm.now, round(arm.observer.speed, 3)
    case.begin(arm)
    hold_s = arm.contract.budgets.hold_s
    if case.must_stop:
        arm.pass_time(case.seconds - (arm.now - began))
        _judge_hold(arm, outcome, began, hold_s + case.notice_s)
    else:
        _keep_busy(arm, began + case.seconds, colours)
        outcome.ended = "held" if arm.still_for > _STANDS_S else "went on"
        ended = arm.now
        arm.stop_instruction()
        arm.pass_time(hold_s + 0.5)
        _judge_hold(arm, outcome, ended, hold_s)
    outcome.chunks_during = int(arm.executor.chunks_accepted) - int(accepted)
    case.end(arm)
    arm.clear_faults()
    arm.pass_time(case.after_s)
    outcome.reason = next((reason for reason in arm.said if re.search(case.says, reason)), "")
    if not outcome.reason:
        outcome.problem = "no status said why; heard: " + ("; ".join(arm.said[-6:]) or "nothing")
    if case.restarts:  # and it can be used again
        arm.instruct_and_wait_until_it_moves(f"pick the {colours[-1]} cube")


def _keep_busy(arm: FaultyArm, until: float, colours: list[str]) -> None:
    turn = 0
    while arm.now < until:
        arm.pass_time(min(_NEXT_INSTRUCTION_S, max(0.05, until - arm.now)))
        turn += 1
        if arm.now < until:
            arm.instruct(f"pick the {colours[turn % len(colours)]} cube")


def _judge_hold(arm: FaultyArm, outcome: Outcome, since: float, limit_s: float) -> None:
    took = max(0.0, arm.observer.moved_at - since)
    outcome.hold_time_s = round(took, 3)
    outcome.held = took <= limit_s
    if not outcome.held:
        outcome.problem = f"still moving {took:.2f} s after the fault, {limit_s:g} s are allowed"
    elif outcome.ended == "failed":
        outcome.ended = "held"
