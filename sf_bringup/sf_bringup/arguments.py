"""Declare the arguments of the journeys, and parse words such as ``shadow:=true``.

Launch files import this module under the system's Python: it uses the standard library alone and
runs from Python 3.10 on.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union

Value = Union[bool, int, float, str]  # noqa: UP007 - evaluated at run time, also by Python 3.10

NO_POLICY = "none"
SIM_ROBOT = "sim_arm"  # this robot is always simulated
NAMESPACE_VARIABLE = "ROS_NAMESPACE"
BOOLEANS = ("true", "false")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_NAMESPACE = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
# Ratio of difflib from which two names count as similar: "shaddow" and "shadow" do, "policy" and
# "policies" do not.
_SIMILAR = 0.85


class GraphError(ValueError):
    """Raised for an argument that cannot be used; the message gives the values that can."""


@dataclass(frozen=True)
class Argument:
    """Describe one ``name:=value`` argument of a journey. ``default`` also gives its type."""

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()

    @property
    def default_text(self) -> str:
        """Return the default as a user would write it."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def parse(self, text: str) -> Value:
        """Convert the text after ``:=``. Choices are compared without regard to case.

        Raises:
            GraphError: the text is not of this argument's type, or not one of its choices.
        """
        if self.choices and text.lower() not in self.choices:
            raise GraphError(f"{self.name}: {text!r} is not one of {', '.join(self.choices)}")
        if isinstance(self.default, bool):
            return text.lower() == "true"
        try:
            return type(self.default)(text.lower() if self.choices else text)
        except ValueError:
            raise GraphError(f"{self.name}: {text!r} is not a number like {self.default}") from None


_ROBOT = Argument("robot", SIM_ROBOT, "a robot of config/robots, or the path of a contract YAML")
_SIM = Argument(
    "sim", False, "simulate the robot from its contract and URDF instead of its drivers", BOOLEANS
)
_SEED = Argument("seed", 0, "scene of the simulated arm")
_SPEED = Argument("real_time_factor", 1.0, "speed of the simulated arm; 0 is as fast as possible")
_POLICY = (
    Argument(
        "device", "auto", "device of the policy: auto (a GPU if there is one), cpu, cuda or cuda:N"
    ),
    Argument(
        "replan_steps",
        0,
        "steps of a chunk until the next one is predicted; 0: the default of policy_node",
    ),
)
_EVERY_JOURNEY = (
    Argument(
        "namespace",
        "",
        "namespace of all nodes; relative topics of the contract resolve in it; empty: the"
        f" variable {NAMESPACE_VARIABLE}",
    ),
    Argument(
        "params_file",
        "",
        "YAML with ROS parameters for all nodes; overrides what the launch file sets",
    ),
    Argument("log_level", "info", "lowest severity that the nodes log", LOG_LEVELS),
    Argument(
        "use_sim_time",
        "auto",
        "nodes take the time from /clock; auto: with the simulated arm",
        ("auto", *BOOLEANS),
    ),
    Argument(
        "autostart",
        True,
        "lifecycle nodes configure and activate themselves; false: a lifecycle manager does it",
        BOOLEANS,
    ),
    Argument(
        "robot_state",
        "auto",
        "publish robot_description and /tf; auto: of the simulated arm, when it is recorded or"
        " viewed",
        ("auto", *BOOLEANS),
    ),
    Argument(
        "markers",
        "auto",
        "publish the workspace box and the tool's planned path; auto: when recorded or viewed",
        ("auto", *BOOLEANS),
    ),
    Argument("rviz", False, "start RViz with the arm, its cameras, frames and markers", BOOLEANS),
    Argument(
        "doctor",
        False,
        "compare the contract with the running graph once, and print what is wrong",
        BOOLEANS,
    ),
    Argument("foxglove", False, "start foxglove_bridge for Foxglove Studio", BOOLEANS),
)

ARM_ARGUMENTS = (
    _ROBOT,
    Argument(
        "policy",
        "nano",
        "a policy of config/policies, a checkpoint directory, openpi://HOST:8000, oft://HOST:8777,"
        f" or {NO_POLICY}",
    ),
    Argument(
        "mapping",
        "",
        "YAML with the keys, units and gripper values of a policy server that is not ours",
    ),
    Argument("instruction", "", "first instruction; empty: the policy waits for one"),
    _SIM,
    _SEED,
    Argument(
        "record",
        "",
        "directory for episodes, started by recorder/start and ended by recorder/stop; empty: no"
        " recorder",
    ),
    Argument(
        "join",
        "policy",
        "blending mode of the chunks; policy: the one of the checkpoint",
        ("policy", "blend", "ensemble", "rtc"),
    ),
    Argument("shadow", False, "shadow mode: compute everything, command nothing", BOOLEANS),
    _SPEED,
    *_POLICY,
    *_EVERY_JOURNEY,
)

RECORD_ARGUMENTS = (
    _ROBOT,
    Argument(
        "task",
        "",
        "instruction of the episodes, until a topic or a key gives another one",
    ),
    Argument("directory", "out/episodes", "where episodes are written"),
    Argument("operator", "", "name of the operator; stored in every episode"),
    Argument(
        "image_codec",
        "raw",
        "h264 records raw colour images at a tenth of their size, with a small error",
        ("raw", "h264"),
    ),
    Argument(
        "teleop",
        "",
        "a device of config/teleoperation, or the path of its YAML; empty: you start one yourself",
    ),
    Argument(
        "gamepad",
        False,
        "control the recorder by a gamepad too; needs a publisher of sensor_msgs/Joy",
        BOOLEANS,
    ),
    Argument("countdown", 3.0, "seconds before an episode begins"),
    Argument("policy", NO_POLICY, "a policy to take over from (DAgger), as for arm.launch.py"),
    _SIM,
    _SEED,
    _SPEED,
    *_POLICY,
    *_EVERY_JOURNEY,
)

TELEOP_ARGUMENTS = (
    _ROBOT,
    Argument("teleop", "keyboard", "a device of config/teleoperation, or the path of its YAML"),
    _SIM,
    _SEED,
    _SPEED,
    *_EVERY_JOURNEY,
)


def parse_arguments(
    words: Sequence[str], arguments: Sequence[Argument] = ARM_ARGUMENTS
) -> dict[str, Any]:
    """Return a value for every argument from words such as ``robot:=sim_arm``.

    Raises:
        GraphError: an unknown name, or a value of another type.
    """
    known = {argument.name: argument for argument in arguments}
    values: dict[str, Any] = {argument.name: argument.default for argument in arguments}
    for word in words:
        name, assigned, text = word.partition(":=")
        if not assigned or name not in known:
            raise GraphError(
                f"{word!r} is not an argument{did_you_mean(name, known)}; write name:=value with"
                f" one of {', '.join(known)}"
            )
        values[name] = known[name].parse(text)
    return values


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean ...?)`` when a known name is similar, else an empty text."""
    near = difflib.get_close_matches(name, list(known), 1, _SIMILAR)
    return f" (did you mean {near[0]}?)" if near else ""


def check_namespace(namespace: str) -> str:
    """Return the namespace as given.

    Raises:
        GraphError: it is not a ROS namespace.
    """
    if namespace not in ("", "/") and not _NAMESPACE.fullmatch(namespace):
        raise GraphError(
            f"namespace: {namespace!r} is not a ROS namespace; use letters, digits and _, with /"
            " between parts"
        )
    return namespace


def resolve_namespace(given: str) -> str:
    """Return the namespace that the nodes of a graph get: ``given``, else ROS_NAMESPACE of the
    environment; empty for the root namespace (also ``given="/"``).

    ROS 2 does not read this variable (neither rcl 10.1.3 nor rclpy 9.1.2), so every starter and
    client resolves it here and passes the result on.

    Raises:
        GraphError: it is not a ROS namespace.
    """
    if given:
        return check_namespace(given).rstrip("/")
    found = os.environ.get(NAMESPACE_VARIABLE, "").rstrip("/")
    if found and not _NAMESPACE.fullmatch(found):
        raise GraphError(
            f"{NAMESPACE_VARIABLE}: {found!r} is not a ROS namespace; unset it, or use letters,"
            " digits and _, with / between parts"
        )
    return found
