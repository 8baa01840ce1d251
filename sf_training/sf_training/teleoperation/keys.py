"""Convert key events to the axes and buttons of a ``sensor_msgs/Joy``. A terminal reports key
presses and repeats, but no releases. No ROS and no terminal here.
"""

from __future__ import annotations

import math

TOPIC = "teleop/keys"
HOLD, OPEN, CLOSE, RESUME, STOP = range(5)  # buttons of the Joy
MOTIONS = {  # key: axis (x y z rx ry rz) and direction
    "w": (0, 1.0),
    "s": (0, -1.0),
    "a": (1, 1.0),
    "d": (1, -1.0),
    "r": (2, 1.0),
    "f": (2, -1.0),
    "j": (3, -1.0),
    "l": (3, 1.0),
    "i": (4, 1.0),
    "k": (4, -1.0),
    "u": (5, 1.0),
    "o": (5, -1.0),
}
HELD_S = 0.12  # a key counts as down for this long after an event: three repeats of most keyboards
GRIPPER_HELD_S = 1.0  # a gripper key is tapped: time in which the fingers move
REPEAT_DELAY_S = 0.8  # longer than the delay of any keyboard before the first repeat
SPEEDS = (0.1, 0.2, 0.35, 0.6, 1.0)

HELP = """Hold a key to move, let go to stop.
  w s   away, back        r f   up, down       [ ]  gripper: open, close
  a d   left, right       j l   roll           + -  faster, slower
  i k   pitch             u o   yaw            p    let the policy continue
  x     emergency stop          q  quit (which stops too)
  SPACE the dead-man switch of another device: hold it"""


class Keys:
    """State of axes and buttons from key events. Times [s] on a monotonic clock.

    A motion key is its own dead-man switch: its first event moves the arm for :data:`HELD_S`, and
    repeats keep it moving. The space bar counts as held from its second event on, so that a tap
    does not.
    """

    def __init__(self) -> None:
        self._axes = [0.0] * 6
        self._motion_until = self._hold_until = self._gripper_until = self._resume_until = (
            self._stop_until
        ) = -math.inf
        self._gripper_button = OPEN
        self._space_pressed_at = -math.inf
        self._speed = 1
        self.quit = False

    def press(self, key: str, now: float) -> None:
        """Handle a press or a repeat of a key."""
        key = key.lower()
        if key in MOTIONS:
            axis, direction = MOTIONS[key]
            self._axes = [direction if each == axis else 0.0 for each in range(6)]
            self._motion_until = now + HELD_S
            self._gripper_until = -math.inf
        elif key == " ":
            since = now - self._space_pressed_at
            if since <= (HELD_S if self._hold_until > now else REPEAT_DELAY_S):
                self._hold_until = now + HELD_S
            self._space_pressed_at = now
        elif key in "[]":
            self._gripper_button, self._gripper_until = (
                (OPEN if key == "[" else CLOSE),
                now + GRIPPER_HELD_S,
            )
        elif key == "p":
            self._resume_until = now + HELD_S
        elif key == "x":
            self._stop_until = now + HELD_S
            self._motion_until = self._hold_until = self._gripper_until = -math.inf
        elif key in "+=":
            self._speed = min(self._speed + 1, len(SPEEDS) - 1)
        elif key in "-_":
            self._speed = max(self._speed - 1, 0)
        elif key in ("q", "\x03", "\x04", "\x1b"):
            self.quit = True

    def joy(self, now: float) -> tuple[list[float], list[int]]:
        """Return the axes x y z rx ry rz in -1 to 1, and the buttons hold, open, close, resume,
        stop.
        """
        moves, grips = now < self._motion_until, now < self._gripper_until
        axes = [SPEEDS[self._speed] * each if moves else 0.0 for each in self._axes]
        buttons = [0] * 5
        buttons[HOLD] = int(moves or grips or now < self._hold_until)
        if grips:
            buttons[self._gripper_button] = 1
        buttons[RESUME], buttons[STOP] = int(now < self._resume_until), int(now < self._stop_until)
        return axes, buttons

    @property
    def speed(self) -> float:
        """Selected share of the device's speed."""
        return SPEEDS[self._speed]
