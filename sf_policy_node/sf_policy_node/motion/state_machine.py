"""The executor's state machine: states, events and one transition function, without clock and arm.

A :class:`Situation` holds the conditions that outlast a motion (active, latched, paused, ...). The
:class:`State` is derived from it, so that flags cannot contradict each other. :func:`transition`
returns for every event the next situation, how the arm stops, what is forgotten and whether earlier
chunks are refused. ``doc/motion.md`` shows the output of :func:`diagram`.
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
    ENDING = auto()
    STOPPED = auto()


class Event(Enum):
    """The events that change the executor's situation."""

    ACTIVATED = auto()
    DEACTIVATED = auto()
    SHUTDOWN = auto()
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
    """How the current motion ends."""

    NONE = auto()
    BRAKE = auto()
    """Brake along the commanded path."""
    RETREAT = auto()
    """Brake, then move back to where the arm is measured, so that it does not press on an
    obstacle."""
    MEET = auto()
    """Move the controller, whatever its state, to where the arm is measured."""
    FREEZE = auto()
    """Streamed commands only: repeat the last command."""
    CLOCK = auto()
    """The commanded path has the wrong time: see ``Guard.after_clock_jump``."""


class Memory(Enum):
    """The memory that an event clears."""

    PATH = auto()
    """The commanded path."""
    MOTION = auto()
    """Which steps of which chunks were executed."""
    ORDER = auto()
    """Epoch and sequence number of the last chunk."""


@dataclass(frozen=True)
class Situation:
    """The conditions from which the state is derived.

    Attributes:
        active: the executor has been activated.
        latched: an emergency stop is latched.
        paused: only an operator may move the arm.
        blocked: chunks need a new instruction, and a leader must release its dead-man switch first.
        settling: the clock jumped during a motion, and the arm has not been stationary since.
        ending: the process ends on request; only homing (to the rest pose) may move the arm.
        source: the source that controls the arm.
    """

    active: bool = False
    latched: bool = False
    paused: bool = False
    blocked: bool = False
    settling: bool = False
    ending: bool = False
    source: ControlSource = ControlSource.NOBODY

    @property
    def state(self) -> State:
        """The state; the first condition that holds decides."""
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
        if self.ending:
            return State.ENDING
        return State.BLOCKED if self.blocked else State.HOLDING

    @property
    def moves(self) -> bool:
        """Whether a source controls the arm."""
        return self.source is not ControlSource.NOBODY

    @property
    def is_teleoperated(self) -> bool:
        """Whether joint commands of an operator, of a replay or of homing are followed."""
        return self.source in _JOINT_COMMANDS


@dataclass(frozen=True)
class Step:
    """One transition: the next situation and the actions that belong to it.

    Attributes:
        situation: the next situation.
        stop: how the current motion ends.
        forget: the memory to clear.
        accept_from_now: refuse chunks with an earlier observation from now on.
    """

    situation: Situation
    stop: Stop = Stop.NONE
    forget: frozenset[Memory] = frozenset()
    accept_from_now: bool = False


class ImpossibleEvent(RuntimeError):
    """An event that is impossible in this situation: a programming error of the caller."""


_STATE_OF = {
    ControlSource.POLICY: State.FOLLOWING,
    ControlSource.TELEOPERATION: State.TELEOPERATION,
    ControlSource.REPLAY: State.REPLAY,
    ControlSource.HOME: State.HOMING,
}
TAKES_OVER = {
    ControlSource.TELEOPERATION: Event.TELEOPERATION,
    ControlSource.REPLAY: Event.REPLAY,
    ControlSource.HOME: Event.HOME,
}
"""The event with which a source of joint commands takes control."""
_JOINT_COMMANDS = (ControlSource.TELEOPERATION, ControlSource.REPLAY, ControlSource.HOME)
_MOTION = frozenset({Memory.MOTION})


def transition(now: Situation, event: Event) -> Step:
    """Return the transition of an event in the situation ``now``.

    Raises:
        ImpossibleEvent: the situation does not permit the event.
    """
    still = replace(now, source=ControlSource.NOBODY)
    brake = Stop.BRAKE if now.moves else Stop.NONE
    match event:
        case Event.ACTIVATED:
            forget = frozenset({Memory.MOTION, Memory.ORDER})
            activated = replace(still, active=True, paused=False, ending=False)
            return Step(activated, Stop.NONE, forget, True)
        case Event.DEACTIVATED:
            return Step(replace(still, active=False), brake, _MOTION)
        case Event.SHUTDOWN:
            _require(now.active, now, event)
            return Step(replace(still, ending=True), brake, _MOTION, True)
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
            _require(may_be_teleoperated(now), now, event)
            return Step(replace(now, source=ControlSource.TELEOPERATION), forget=_MOTION)
        case Event.REPLAY:
            allowed = may_be_teleoperated(now) and not now.paused
            _require(allowed and now.source is not ControlSource.TELEOPERATION, now, event)
            return Step(replace(now, source=ControlSource.REPLAY), forget=_MOTION)
        case Event.HOME:
            _require(may_go_home(now), now, event)
            return Step(replace(now, source=ControlSource.HOME), forget=_MOTION)
        case Event.POLICY_ENDED:
            policy = now.source is ControlSource.POLICY
            return Step(still, Stop.BRAKE) if policy else Step(now)
        case Event.LEADER_SILENT:
            _require(now.is_teleoperated, now, event)
            return Step(still, Stop.BRAKE, accept_from_now=True)
        case Event.MOTION_ENDED:
            return Step(still if now.source is ControlSource.POLICY else now)
        case Event.JOINT_STATES_LOST:
            return Step(still, brake)
        case Event.SENSOR_FAULT:
            return Step(replace(still, blocked=True), brake, _MOTION)
        case Event.OBSTACLE:
            stop = Stop.RETREAT if now.moves else Stop.NONE
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
    """Return whether a chunk may move the arm; the follower checks whether its epoch is blocked."""
    return may_be_teleoperated(now) and not now.paused and not now.is_teleoperated


def may_be_teleoperated(now: Situation) -> bool:
    """Return whether an operator may move the arm."""
    return may_move(now) and not now.ending


def may_go_home(now: Situation) -> bool:
    """Return whether homing may start: neither an operator nor a replay controls the arm."""
    other = now.source in (ControlSource.TELEOPERATION, ControlSource.REPLAY)
    return may_move(now) and not now.paused and not other


def may_move(now: Situation) -> bool:
    """Return whether any source may move the arm."""
    return now.active and not now.latched and not now.settling


def _require(holds: bool, now: Situation, event: Event) -> None:
    if not holds:
        raise ImpossibleEvent(f"{event.name} cannot happen in {now}")


def situations() -> list[Situation]:
    """Return every situation that a new executor can reach, in the order of discovery."""
    found = [Situation()]
    for now in found:
        for _, step in edges(now):
            if step.situation not in found:
                found.append(step.situation)
    return found


def edges(now: Situation) -> Iterator[tuple[Event, Step]]:
    """Yield every event that is possible in a situation, with its transition."""
    for event in Event:
        try:
            yield event, transition(now, event)
        except ImpossibleEvent:
            continue


def diagram() -> str:
    """Return the state machine as a Mermaid diagram, with one arrow for all events between two
    states.
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
    """Return every transition as a Markdown table, with its actions."""
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
