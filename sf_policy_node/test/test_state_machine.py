"""Every transition of the executor's state machine, and its diagram in the documentation."""

from pathlib import Path

import pytest

from sf_policy_node.motion.state_machine import (
    Event,
    ImpossibleEvent,
    Memory,
    Situation,
    State,
    Stop,
    diagram,
    edges,
    situations,
    table,
    transition,
)
from sf_policy_node.motion.types import ControlSource

DOC = Path(__file__).resolve().parents[1] / "doc" / "motion.md"
MOTION = {Event.CHUNK, Event.TELEOPERATION, Event.REPLAY, Event.HOME}
ALL = [(now, event, step) for now in situations() for event, step in edges(now)]
NOBODY = ControlSource.NOBODY


def test_every_state_can_be_reached_and_left():
    reached = {now.state for now in situations()}
    assert reached == set(State)
    for state in State:
        assert any(
            now.state is state and step.situation.state is not state for now, _, step in ALL
        ), state


def test_nothing_moves_an_arm_that_is_stopped_inactive_or_at_an_unknown_position():
    for now in situations():
        if now.latched or not now.active or now.settling:
            assert now.source is NOBODY, now


def test_only_homing_moves_an_arm_during_shutdown():
    moving = {now.source for now in situations() if now.ending}
    assert moving == {NOBODY, ControlSource.HOME}


def test_only_a_chunk_or_a_joint_command_starts_a_motion():
    for now, event, step in ALL:
        if step.situation.source not in (NOBODY, now.source):
            assert event in MOTION, (now, event)


@pytest.mark.parametrize(
    ("flag", "value", "event"),
    [
        ("latched", False, Event.RESET),
        ("settling", False, Event.SETTLED),
        ("blocked", False, Event.CHUNK),
        ("active", True, Event.ACTIVATED),
        ("latched", True, Event.EMERGENCY_STOP),
        ("settling", True, Event.CLOCK_SET_IN_MOTION),
        ("ending", True, Event.SHUTDOWN),
        ("ending", False, Event.ACTIVATED),
    ],
)
def test_each_condition_changes_by_one_event_alone(flag, value, event):
    changes = {
        event
        for now, event, step in ALL
        if getattr(now, flag) != value == getattr(step.situation, flag)
    }
    assert changes == {event}


def test_a_motion_that_loses_its_control_source_is_stopped_or_has_ended():
    harmless = {Event.MOTION_ENDED, Event.CONTROLLER_LOST, Event.ACTIVATED}
    for now, event, step in ALL:
        if now.moves and not step.situation.moves and event not in harmless:
            assert step.stop is not Stop.NONE, (now, event)


def test_the_emergency_stop_works_in_every_situation():
    for now in situations():
        step = transition(now, Event.EMERGENCY_STOP)
        assert step.situation.state is State.STOPPED and step.stop is Stop.BRAKE


def test_chunks_observed_before_an_interruption_are_refused_after_it():
    fresh = {
        Event.ACTIVATED,
        Event.SHUTDOWN,
        Event.PAUSED,
        Event.RESUMED,
        Event.RESET,
        Event.LEADER_SILENT,
        Event.CLOCK_SET_AT_REST,
        Event.CLOCK_SET_IN_MOTION,
        Event.STREAM_STALLED,
    }
    assert {event for _, event, step in ALL if step.accept_from_now} == fresh


def test_an_operator_keeps_control_in_a_pause_and_has_priority_over_replay_and_policy():
    operator = Situation(active=True, source=ControlSource.TELEOPERATION)
    assert transition(operator, Event.PAUSED).situation.state is State.TELEOPERATION
    assert transition(operator, Event.PAUSED).stop is Stop.NONE
    for event in (Event.CHUNK, Event.REPLAY):
        with pytest.raises(ImpossibleEvent):
            transition(operator, event)
    for source in (ControlSource.POLICY, ControlSource.REPLAY):
        other = Situation(active=True, source=source)
        assert transition(other, Event.TELEOPERATION).situation == operator


@pytest.mark.parametrize("event", sorted(MOTION, key=lambda event: event.value))
@pytest.mark.parametrize("forbids", [{"active": False}, {"latched": True}, {"settling": True}])
def test_impossible_events_are_refused(event, forbids):
    with pytest.raises(ImpossibleEvent):
        transition(Situation(**{"active": True, **forbids}), event)


def test_a_paused_executor_accepts_neither_chunks_nor_a_replay():
    paused = Situation(active=True, paused=True)
    for event in (Event.CHUNK, Event.REPLAY):
        with pytest.raises(ImpossibleEvent):
            transition(paused, event)
    assert transition(paused, Event.TELEOPERATION).situation.state is State.TELEOPERATION


@pytest.mark.parametrize(
    ("event", "stop", "forgets"),
    [
        (Event.OBSTACLE, Stop.RETREAT, set()),
        (Event.ARM_ELSEWHERE, Stop.MEET, {Memory.MOTION}),
        (Event.SENSOR_FAULT, Stop.BRAKE, {Memory.MOTION}),
        (Event.CONTROLLER_LOST, Stop.NONE, {Memory.PATH, Memory.MOTION}),
    ],
)
def test_after_a_fault_during_a_motion_chunks_need_a_new_instruction(event, stop, forgets):
    step = transition(Situation(active=True, source=ControlSource.POLICY), event)
    assert (step.situation.state, step.stop, set(step.forget)) == (State.BLOCKED, stop, forgets)


def test_a_block_outlasts_a_clock_jump_a_pause_and_an_emergency_stop():
    now = Situation(active=True, blocked=True)
    for event in (
        Event.CLOCK_SET_AT_REST,
        Event.PAUSED,
        Event.RESUMED,
        Event.EMERGENCY_STOP,
        Event.RESET,
        Event.DEACTIVATED,
        Event.ACTIVATED,
    ):
        now = transition(now, event).situation
    assert now.state is State.BLOCKED


def test_the_documentation_shows_this_state_machine():
    text = DOC.read_text()
    assert diagram() in text, "copy state_machine.diagram() into doc/motion.md"
    assert table() in text, "copy state_machine.table() into doc/motion.md"
