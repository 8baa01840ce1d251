"""Map keys and gamepad buttons to service calls of the recorder, depending on its state. No rclpy
and no terminal here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sf_training.recording.session.recording_session import State


class Press(StrEnum):
    """What the operator requests with a key or a button."""

    START = "start"
    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    UNDO = "undo"
    INSTRUCTION = "instruction"  # type a new one
    QUIT = "quit"


KEYS: dict[str, Press] = {
    " ": Press.START,
    "s": Press.SUCCESS,
    "f": Press.FAILURE,
    "d": Press.DISCARD,
    "u": Press.UNDO,
    "i": Press.INSTRUCTION,
    "q": Press.QUIT,
}
# With `drive`, where most letters and the space bar move the arm (teleoperation/keys.py).
DRIVING_KEYS: dict[str, Press] = {
    "\r": Press.START,
    "\n": Press.START,
    "1": Press.SUCCESS,
    "2": Press.FAILURE,
    "3": Press.DISCARD,
    "4": Press.UNDO,
    "5": Press.INSTRUCTION,
    "q": Press.QUIT,
}
# Button numbers of SDL and game_controller_node, the same for every brand: right shoulder, then up,
# down, left and right of the pad. The shipped device file of a gamepad uses none of them, so that
# no button both closes a gripper and ends an episode.
DEFAULT_BUTTONS = {
    Press.START: 10,
    Press.SUCCESS: 11,
    Press.FAILURE: 12,
    Press.DISCARD: 13,
    Press.UNDO: 14,
}
_OUTCOMES = {Press.SUCCESS: "success", Press.FAILURE: "failure", Press.DISCARD: "discarded"}


class Service(StrEnum):
    """Names of the recorder's services."""

    START = "start_episode"
    END = "end_episode"
    LABEL = "label_episode"


@dataclass(frozen=True)
class ServiceCall:
    """A service of the recorder, and the fields of its request."""

    service: Service
    fields: Mapping[str, object]


@dataclass(frozen=True)
class Refusal:
    """Why a press calls no service; one sentence."""

    sentence: str


def service_call(
    press: Press, state: State, *, countdown_s: float, instruction: str = ""
) -> ServiceCall | Refusal:
    """Return the service call for a press.

    During an episode an outcome ends it; between episodes it relabels the last one. START during an
    episode ends it as a success, so one key is enough for a series of successes. START during a
    countdown cancels it.
    """
    if state == State.INACTIVE:
        return Refusal("the recorder is not active yet; wait until it is")
    if press == Press.UNDO:
        return ServiceCall(Service.LABEL, {"undo": True})
    if state == State.FINISHING:
        return Refusal("the episode is being completed; wait a moment")
    running = state in (State.COUNTDOWN, State.RECORDING)
    if press == Press.START:
        if state == State.COUNTDOWN:
            return ServiceCall(Service.END, {"outcome": "discarded"})
        if running:
            return ServiceCall(Service.END, {"outcome": "success"})
        return ServiceCall(Service.START, {"countdown_s": countdown_s, "instruction": instruction})
    if press in _OUTCOMES:
        return ServiceCall(Service.END if running else Service.LABEL, {"outcome": _OUTCOMES[press]})
    return Refusal(f"the recorder has no service for {press}")


class Buttons:
    """Detect when gamepad buttons are pressed (rising edges).

    Args:
        numbers: index of the button in ``sensor_msgs/Joy`` for each press; negative means none.

    Raises:
        ValueError: two presses share a button; the message names both.
    """

    def __init__(self, numbers: Mapping[Press, int]) -> None:
        self._numbers = {press: number for press, number in numbers.items() if number >= 0}
        for press, number in self._numbers.items():
            others = [
                other
                for other, taken in self._numbers.items()
                if taken == number and other != press
            ]
            if others:
                raise ValueError(
                    f"{press} and {others[0]} are both on button {number}; give each its own, or -1"
                    " for none"
                )
        self._down: list[int] | None = None

    def read(self, buttons: Sequence[int]) -> list[Press]:
        """Return what was pressed since the previous message. Buttons that are down in the first
        message do not count.
        """
        before, self._down = self._down, list(buttons)
        if before is None:
            return []
        went_down = {
            number
            for number, down in enumerate(buttons)
            if down and not (number < len(before) and before[number])
        }
        return [press for press, number in self._numbers.items() if number in went_down]

    def missing(self, buttons: Sequence[int]) -> list[str]:
        """Return the presses whose button this gamepad does not have."""
        return [str(press) for press, number in self._numbers.items() if number >= len(buttons)]
