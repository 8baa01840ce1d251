"""What a key or a button means to the recorder, in the state it is in. No rclpy and no terminal
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sf_training.recording.session.recording_session import State


class Press(StrEnum):
    """What a person wants."""

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
# Beside the keys that move the arm (teleoperation/keys.py), which take most letters and the space
# bar.
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
# As SDL and game_controller_node number every make: right shoulder, then up, down, left and right
# of the pad. The shipped device file of a gamepad uses none of them: one press must not close a
# gripper and end an episode.
DEFAULT_BUTTONS = {
    Press.START: 10,
    Press.SUCCESS: 11,
    Press.FAILURE: 12,
    Press.DISCARD: 13,
    Press.UNDO: 14,
}
_OUTCOMES = {Press.SUCCESS: "success", Press.FAILURE: "failure", Press.DISCARD: "discarded"}


class Service(StrEnum):
    """Services of the recorder."""

    START = "start_episode"
    END = "end_episode"
    LABEL = "label_episode"


@dataclass(frozen=True)
class Order:
    """A call of the recorder: the service and the fields of its request."""

    service: Service
    fields: Mapping[str, object]


@dataclass(frozen=True)
class Refusal:
    """Nothing to call; one sentence about why."""

    sentence: str


def order(
    press: Press, state: State, *, countdown_s: float, instruction: str = ""
) -> Order | Refusal:
    """The call that a press stands for.

    While an episode is recorded, an outcome ends it; between two episodes it labels the last one
    again. Starting while one is recorded ends it as a success, so that one key is enough for a good
    series.
    """
    if state == State.INACTIVE:
        return Refusal("the recorder is not active yet")
    if press == Press.UNDO:
        return Order(Service.LABEL, {"undo": True})
    if state == State.FINISHING:
        return Refusal("the episode is being completed; wait a moment")
    running = state in (State.COUNTDOWN, State.RECORDING)
    if press == Press.START:
        if state == State.COUNTDOWN:
            return Order(Service.END, {"outcome": "discarded"})
        if running:
            return Order(Service.END, {"outcome": "success"})
        return Order(Service.START, {"countdown_s": countdown_s, "instruction": instruction})
    if press in _OUTCOMES:
        return Order(Service.END if running else Service.LABEL, {"outcome": _OUTCOMES[press]})
    return Refusal(f"{press} is not for the recorder")


class Buttons:
    """Presses of a gamepad's buttons: the moment at which one goes down.

    Args:
        numbers: button of each press, as ``sensor_msgs/Joy`` numbers them; negative: none.

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
        """What was pressed since the message before; buttons held in the first one count for
        nothing.
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
        """Presses whose button this gamepad does not have."""
        return [str(press) for press, number in self._numbers.items() if number >= len(buttons)]
