"""The executor's state machine: one enum of states, one transition function, no clock and no arm.

A :class:`Situation` holds the conditions that outlive a motion (active, latched, paused, ...); the
:class:`State` is derived from it, so that no two flags can disagree. :func:`transition` says for
every event what the situation becomes, how the arm stops, what is forgotten and from when chunks
count. ``doc/motion.md`` shows the diagram that :func:`diagram` draws from this code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

from sf_policy_node.motion.types import ControlSource


class State(Enum):
    """What the executor is doing."""

    INACTIVE = auto()
    HOLDING = auto()
    FOLLOWING = auto()
    TELEOPERATION = auto()
    REPLAY = auto()
    HOMING = auto()
    PAUSED = auto()
    BLOCKED = auto()
    SETTLING = auto()
    STOPPED = auto()


class Event(Enum):
    """What can happen to the executor."""

    ACTIVATED = auto()
    DEACTIVATED = auto()
    PAUSED = auto()
    RESUMED = auto()
    EMERGENCY_STOP = auto()
    RESET = auto()
    CHUNK = auto()
    POLICY_ENDED = auto()
    TELEOPERATION = auto()
    REPLAY = auto()
    HOME = auto()
    LEADER_SILENT = auto()
    MOTION_ENDED = auto()
    JOINT_STATES_LOST = auto()
    OBSTACLE = auto()
    ARM_ELSEWHERE = auto()
    SENSOR_FAULT = auto()
    CONTROLLER_LOST = auto()
    CLOCK_SET_AT_REST = auto()
    CLOCK_SET_IN_MOTION = auto()
    SETTLED = auto()
    STREAM_STALLED = auto()


class Stop(Enum):
    """How the motion under way ends."""

    NONE = auto()
    BRAKE = auto()
    """Brake along the commanded path."""
    GIVE_WAY = auto()
    """Brake, then return to where the arm is measured, so that it does not push."""
    MEET = auto()
    """Lead the controller from wherever it stands to where the arm is measured."""
    FREEZE = auto()
    """Streamed commands only: repeat the last command."""
    CLOCK = auto()
    """The commanded path has the wrong time: see ``Guard.after_clock_jump``."""


class Memory(Enum):
    """What an event makes the executor forget."""

    PATH = auto()
    """What the controller was told last."""
    MOTION = auto()
    """Which steps of which chunks were executed."""
    ORDER = auto()
    """Epoch and sequence of the last chunk."""


@dataclass(frozen=True)
class Situation:
    """The conditions from which the state follows.

    ``blocked``: chunks need a new instruction, and a leader must release its dead-man switch first.
    ``settling``: the clock was set during a motion that has not been seen to end.
    """

    active: bool = False
    latched: bool = False
    paused: bool = False
    blocked: bool = False
    settling: bool = False
    source: ControlSource = ControlSource.NOBODY

    @property
    def state(self) -> State:
        """Derived; the first condition that holds decides."""
        if self.latched:
            return State.STOPPED
        if not self.active:
            return State.INACTIVE
        if self.source is not ControlSource.NOBODY:
            return _STATE_OF[self.source]
        if self.paused:
            return State.PAUSED
        if self.settling:
            return State.SETTLING
        return State.BLOCKED if self.blocked else State.HOLDING

    @property
    def moves(self) -> bool:
        """Somebody's motion is being executed."""
        return self.source is not ControlSource.NOBODY

    @property
    def is_led(self) -> bool:
        """Joint commands of an operator, of a replay or of the way home are followed."""
        return self.source in _LEADERS


@dataclass(frozen=True)
class Step:
    """One edge: the next situation and what has to be done on the way.

    ``accept_from_now``: chunks observed earlier are refused from now on.
    """

    situation: Situation
    stop: Stop = Stop.NONE
    forget: frozenset[Memory] = frozenset()
    accept_from_now: bool = False


class ImpossibleEvent(RuntimeError):
    """An event that cannot happen in this situation: a defect of the caller."""


_STATE_OF = {
    ControlSource.POLICY: State.FOLLOWING,
    ControlSource.TELEOPERATION: State.TELEOPERATION,
    ControlSource.REPLAY: State.REPLAY,
    ControlSource.HOME: State.HOMING,
}
_LEADERS = (ControlSource.TELEOPERATION, ControlSource.REPLAY, ControlSource.HOME)
_MOTION = frozenset({Memory.MOTION})


def transition(now: Situation, event: Event) -> Step:
    """Return what an event makes of a situation.

    Raises:
        ImpossibleEvent: the event needs a permission that the situation does not give.
    """
    still = replace(now, source=ControlSource.NOBODY)
    brake = Stop.BRAKE if now.moves else Stop.NONE
    match event:
        case Event.ACTIVATED:
            forget = frozenset({Memory.MOTION, Memory.ORDER})
            return Step(replace(still, active=True, paused=False), Stop.NONE, forget, True)
        case Event.DEACTIVATED:
            return Step(replace(still, active=False), brake, _MOTION)
        case Event.PAUSED | Event.RESUMED:
            _require(now.active, now, event)
            paused = event is Event.PAUSED
            if now.source is ControlSource.TELEOPERATION:
                return Step(replace(now, paused=paused), accept_from_now=True)
            return Step(replace(still, paused=paused), brake, accept_from_now=True)
        case Event.EMERGENCY_STOP:
            return Step(replace(still, latched=True), Stop.BRAKE)
        case Event.RESET:
            _require(now.latched, now, event)
            return Step(replace(still, latched=False), accept_from_now=True)
        case Event.CHUNK:
            _require(may_follow_chunks(now), now, event)
            return Step(replace(now, source=ControlSource.POLICY, blocked=False))
        case Event.TELEOPERATION:
            _require(may_be_led(now), now, event)
            return Step(replace(now, source=ControlSource.TELEOPERATION), forget=_MOTION)
        case Event.REPLAY:
            allowed = may_be_led(now) and not now.paused
            _require(allowed and now.source is not ControlSource.TELEOPERATION, now, event)
            return Step(replace(now, source=ControlSource.REPLAY), forget=_MOTION)
        case Event.HOME:
            _require(may_go_home(now), now, event)
            return Step(replace(now, source=ControlSource.HOME), forget=_MOTION)
        case Event.POLICY_ENDED:
            policy = now.source is ControlSource.POLICY
            return Step(still, Stop.BRAKE) if policy else Step(now)
        case Event.LEADER_SILENT:
            _require(now.is_led, now, event)
            return Step(still, Stop.BRAKE, accept_from_now=True)
        case Event.MOTION_ENDED:
            return Step(still if now.source is ControlSource.POLICY else now)
        case Event.JOINT_STATES_LOST:
            return Step(still, brake)
        case Event.SENSOR_FAULT:
            return Step(replace(still, blocked=True), brake, _MOTION)
        case Event.OBSTACLE:
            stop = Stop.GIVE_WAY if now.moves else Stop.NONE
            return Step(replace(still, blocked=True), stop)
        case Event.ARM_ELSEWHERE:
            stop = Stop.MEET if now.moves else Stop.NONE
            return Step(replace(still, blocked=True), stop, _MOTION)
        case Event.CONTROLLER_LOST:
            forget = frozenset({Memory.PATH, Memory.MOTION})
            return Step(replace(still, blocked=now.blocked or now.moves), forget=forget)
        case Event.CLOCK_SET_AT_REST | Event.CLOCK_SET_IN_MOTION:
            settling = now.settling or event is Event.CLOCK_SET_IN_MOTION
            forget = frozenset({Memory.MOTION, Memory.ORDER})
            return Step(replace(still, settling=settling), Stop.CLOCK, forget, True)
        case Event.SETTLED:
            return Step(replace(now, settling=False))
        case Event.STREAM_STALLED:
            return Step(still, Stop.FREEZE, _MOTION, True)
    raise AssertionError(event)


def may_follow_chunks(now: Situation) -> bool:
    """A chunk may move the arm. Whether its instruction is new is the follower's question."""
    return may_be_led(now) and not now.paused and not now.is_led


def may_be_led(now: Situation) -> bool:
    """An operator may move the arm."""
    return now.active and not now.latched and not now.settling


def may_go_home(now: Situation) -> bool:
    """The arm may be sent home: nobody else leads it."""
    led = now.source in (ControlSource.TELEOPERATION, ControlSource.REPLAY)
    return may_be_led(now) and not now.paused and not led


def _require(holds: bool, now: Situation, event: Event) -> None:
    if not holds:
        raise ImpossibleEvent(f"{event.name} cannot happen in {now}")


def situations() -> list[Situation]:
    """Every situation that can be reached from a new executor, in the order of discovery."""
    found = [Situation()]
    for now in found:
        for _, step in edges(now):
            if step.situation not in found:
                found.append(step.situation)
    return found


def edges(now: Situation) -> Iterator[tuple[Event, Step]]:
    """Every event that can happen in a situation, with its step."""
    for event in Event:
        try:
            yield event, transition(now, event)
        except ImpossibleEvent:
            continue


def diagram() -> str:
    """Return the machine as a Mermaid state diagram: edges between states, events that agree
    merged.

    Edges that lead to the same state for every source (such as the emergency stop) are drawn from
    ``any state``.
    """
    arrows: dict[tuple[State, State], set[Event]] = {}
    for now in situations():
        for event, step in edges(now):
            if step.situation.state is not now.state:
                arrows.setdefault((now.state, step.situation.state), set()).add(event)
    lines = ["stateDiagram-v2", "    [*] --> INACTIVE"]
    for (start, end), events in sorted(arrows.items(), key=_order):
        names = ", ".join(e.name.lower() for e in sorted(events, key=lambda e: e.value))
        lines.append(f"    {start.name} --> {end.name}: {names}")
    return "\n".join(lines)


def _order(arrow: tuple[tuple[State, State], set[Event]]) -> tuple[int, int]:
    (start, end), _ = arrow
    return start.value, end.value


def table() -> str:
    """Return every edge between states as a Markdown table, with what is done on it."""
    rows = {}
    for now, event in itertools.product(situations(), Event):
        try:
            step = transition(now, event)
        except ImpossibleEvent:
            continue
        forgotten = ", ".join(sorted(memory.name.lower() for memory in step.forget))
        row = (event, step.stop.name.lower(), forgotten, "yes" if step.accept_from_now else "")
        ends = rows.setdefault(row, {})
        ends.setdefault(step.situation.state, set()).add(now.state)
    lines = ["| event | stop | forgets | chunks from now | leads to |", "|---|---|---|---|---|"]
    for (event, stop, forgotten, accepts), ends in sorted(
        rows.items(), key=lambda r: r[0][0].value
    ):
        names = ", ".join(state.name for state in sorted(ends, key=lambda s: s.value))
        lines.append(f"| {event.name.lower()} | {stop} | {forgotten} | {accepts} | {names} |")
    return "\n".join(lines)
