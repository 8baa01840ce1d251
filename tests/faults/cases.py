"""Define the fault cases: how a fault is caused, what must follow, what the status must say."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from faults.faulty_arm import HEARTBEAT_S, START_S, FaultyArm

FORWARD_S, BACK_S, SMALL_S = 5.0, -2.0, 0.3  # steps of the clock
STOPPED_S = 2.0


def _nothing(arm: FaultyArm) -> None:
    """Do nothing: the injector's faults are cleared after every case."""


@dataclass(frozen=True)
class Case:
    """One fault, caused while the arm moves.

    Args:
        begin: causes the fault.
        reason_pattern: regular expression that a reason in a status has to match; a reason starts
            with "executor: " or "policy: ".
        must_stop: the arm must be stationary within ``budgets.hold_s`` of the contract (plus
            ``notice_s``) and until the fault ends. Otherwise the arm may continue without a
            violation for ``picks`` picks, each ended by withdrawing the instruction.
        seconds: how long a fault that stops the arm lasts [simulated s].
        notice_s: time until the fault can be noticed [s]. An image from before the fault may
            become a chunk until it is too old.
        end: undoes what clearing the injector's faults does not undo.
        after_s: how long the arm is observed after the fault [simulated s].
        restarts: the case ends a process.
        setting: entered before the arm moves and left after the case.
        cannot_hold: why it breaks limits now and then; it is run only when it is named.
    """

    name: str
    begin: Callable[[FaultyArm], None]
    reason_pattern: str
    must_stop: bool = True
    picks: int = 3
    seconds: float = 3.5
    notice_s: float = 0.0
    end: Callable[[FaultyArm], None] = _nothing
    after_s: float = 0.5
    restarts: bool = False
    setting: Callable[[FaultyArm], AbstractContextManager] = lambda arm: nullcontext()
    cannot_hold: str = ""


def _inject(**faults: float | str | bool) -> Callable[[FaultyArm], None]:
    return lambda arm: arm.inject(**faults)


def _step_clock(seconds: float) -> Callable[[FaultyArm], None]:
    return lambda arm: arm.inject(clock_shift_s=arm.clock_shift + seconds)


def _restart_policy(arm: FaultyArm) -> None:
    arm.policy = None
    arm.processes.start("policy_node")
    arm.wait_for_policy(START_S)


def _press_while_chunks_arrive(arm: FaultyArm) -> None:
    arm.inject(chunk_repeat=True)
    arm.emergency_stop(True)


_SURVIVABLE = {"must_stop": False}
_REST = (  # why the arm is stationary at the end of the case
    r"executor: .*(stands|stopped|hold|ended|no instruction|policy)"
)
_SENSOR = r"executor: .*sensor"


def all_cases(chunk_age_s: float, observation_age_s: float) -> list[Case]:
    """Return every case, with the budgets of the contract [s]."""
    seen = {"notice_s": chunk_age_s}  # observed before the fault, used after it
    # A repeated image is only noticed once it is older than the maximum age.
    compared = {"notice_s": chunk_age_s + observation_age_s}
    delays = [(0.05, 0.0), (0.1, 0.0), (0.2, 0.0), (0.4, 0.0), (0.05, 0.75)]
    return [
        *(
            Case(
                f"inference {1e3 * delay:.0f} ms late"
                + (f", up to {1e3 * jitter:.0f} ms more" if jitter else ""),
                _inject(chunk_delay_s=delay, chunk_jitter_s=jitter),
                _REST,
                **_SURVIVABLE,
            )
            for delay, jitter in delays
        ),
        Case(
            "inference 800 ms late",
            _inject(chunk_delay_s=0.8),
            r"executor: .*(old|late|no new chunk|stopped)",
        ),
        Case("30 % of chunks lost", _inject(chunk_loss=0.3), _REST, **_SURVIVABLE),
        Case("all chunks lost", _inject(chunk_loss=1.0), r"executor: .*no new chunk"),
        Case(
            "chunks reordered",
            _inject(chunk_reorder=True),
            r"executor: .*(sequence|newer|order|older|old)",
            **_SURVIVABLE,
        ),
        Case("chunks with NaN", _inject(chunk_corrupt="nan"), r"executor: .*nan"),
        Case("chunks with Inf", _inject(chunk_corrupt="inf"), r"executor: .*inf"),
        Case(
            "chunks of the wrong size",
            _inject(chunk_corrupt="size"),
            r"executor: .*(size|values|rows|shape)",
        ),
        Case(
            "chunks with columns swapped",
            _inject(chunk_corrupt="names"),
            r"executor: .*(names|columns)",
        ),
        Case(
            "policy killed and restarted",
            lambda arm: arm.processes.kill("policy_node"),
            r"executor: .*(no new chunk|policy)",
            end=_restart_policy,
            restarts=True,
        ),
        Case(
            "a camera repeats one image",
            _inject(frozen_camera="scene"),
            r"policy: .*camera scene",
            **compared,
        ),
        Case(
            "a camera repeats image and stamp",
            _inject(stuck_camera="wrist"),
            r"policy: .*camera wrist",
            **seen,
        ),
        Case("a camera is gone", _inject(lost_camera="scene"), r"policy: .*camera scene", **seen),
        Case(
            "cameras 0.5 s apart",
            _inject(camera_skew_s=0.5),
            r"policy: .*(apart|future|old)",
            **seen,
        ),
        Case(
            "joint states lost",
            _inject(joint_states_lost=True),
            r"(executor|policy): .*joint state",
        ),
        Case("joint states read zero", _inject(joint_lie="zeros"), _SENSOR),
        Case("a joint state jumps by 1 rad", _inject(joint_lie="jump"), _SENSOR),
        Case("a driver adds a full turn", _inject(joint_lie="turn"), r"executor: .*turn"),
        *(
            Case(name, _inject(**faults), f"{_REST}|{_SENSOR}", **_SURVIVABLE)
            for name, faults in {
                "single joint states read zero": {"joint_lie": "zeros", "joint_lie_share": 0.02},
                "a servo droops by 60 mrad": {"joint_lie": "droop"},
                "joint states with 5 mrad of noise": {"joint_lie": "noise"},
                "velocities are NaN": {"joint_lie": "nan_velocity"},
                "joint states 20 ms ahead": {"joint_stamp_ahead_s": 0.02},
                "joint states 40 ms late": {"joint_delay_s": 0.04},
            }.items()
        ),
        Case("clock 5 s forward", _step_clock(FORWARD_S), r"executor: .*clock", **_SURVIVABLE),
        Case("clock 2 s back", _step_clock(BACK_S), r"executor: .*clock", **_SURVIVABLE),
        Case(
            "clock 0.3 s forward",
            _step_clock(SMALL_S),
            r"executor: .*(clock|future|old)",
            **_SURVIVABLE,
        ),
        Case(
            "executor paused for 2 s (SIGSTOP)",
            lambda arm: arm.processes.signal("chunk_executor", signal.SIGSTOP),
            r"executor: .",
            seconds=STOPPED_S,
            end=lambda arm: arm.processes.signal("chunk_executor", signal.SIGCONT),
            after_s=2.0,
        ),
        Case(
            "emergency stop while chunks arrive",
            _press_while_chunks_arrive,
            r"executor: emergency stop",
        ),
        Case(
            "emergency stop published best effort",
            FaultyArm.press_best_effort,
            r"executor: emergency stop",
        ),
        *_of_buttons(),
        *_of_other_nodes(),
    ]


def _of_buttons() -> list[Case]:
    return [
        Case(
            "one button pressed, another one released",
            FaultyArm.press_one_release_other,
            r"executor: emergency stop",
        ),
        Case(
            "a button with a heartbeat falls silent",
            FaultyArm.silence_second_button,
            r"executor: .*a button is silent",
            notice_s=HEARTBEAT_S,
            setting=FaultyArm.heartbeat,
            restarts=True,
        ),
    ]


def _of_other_nodes() -> list[Case]:
    """Return the cases in which another node commands the arm or reports its joints."""
    drivers = {
        "a second driver reports zeros": "zeros",
        "a second driver repeats one joint state": "frozen",
        "a second driver repeats old messages": "late",
    }
    return [
        *(
            # No motion starts while two drivers disagree.
            Case(
                name,
                _inject(other_driver=mode),
                r"executor: .*2 publishers",
                must_stop=False,
                picks=3 if mode == "late" else 1,
            )
            for name, mode in drivers.items()
        ),
        Case(
            "a second commander holds the arm",
            FaultyArm.command_by_another_node,
            r"executor: .*/other_commander sent",
            setting=FaultyArm.second_commander,
        ),
        Case(
            "the controller is restarted within 70 ms",
            FaultyArm.restart_controller,
            r"executor: .*(stopped in the middle|does not move)",
            cannot_hold="a chunk may arrive before joint states show that the arm stands",
        ),
        # Zeros after a pause of the stream count as a new leader, which the arm approaches slowly.
        Case(
            "a leader's cable drops",
            FaultyArm.drop_leader,
            r"executor: .*(leader jumped|not all the way)",
            must_stop=False,
            picks=1,
        ),
    ]
