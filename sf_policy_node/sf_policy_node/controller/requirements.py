"""Checks the parameters of a ``joint_trajectory_controller`` and derives its version from them.

``doc/outputs.md`` describes how each rule was found. The version follows from which parameters a
controller has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from sf_policy_node.controller.parameters import ControllerParameters, Replacement

LIMITER_MARGIN = 1.25
"""Ratio of the URDF's to the contract's velocity from which the limiter clips almost nothing."""
_WANTED = frozenset(
    {
        "joints",
        "allow_partial_joints_goal",
        "allow_trajectory_replacement",
        "allow_nonzero_velocity_at_trajectory_end",
        "cmd_timeout",
        "command_interfaces",
        "interpolate_from_desired_state",
        "interpolation_method",
        "open_loop_control",
        "positions_upsampling.enable",
        "set_last_command_interface_value_as_state_on_activation",
        "update_rate",
    }
)
# Added three days after retiming, before any release, so it shows that the controller retimes.
_RETIMING = "positions_upsampling.enable"


def wanted_parameters(names: Iterable[str]) -> list[str]:
    """Return those of a controller's parameter names that the checks need, sorted."""
    return sorted(name for name in names if name in _WANTED or name.startswith("constraints."))


def read_parameters(values: Mapping[str, Any]) -> ControllerParameters:
    """Convert parameter names and values, as read from a controller, to the model's parameters."""
    constraints = {
        name.removeprefix("constraints."): value
        for name, value in values.items()
        if name.startswith("constraints.") and isinstance(value, (int, float))
    }
    tolerances = {
        kind: {
            name.removesuffix(f".{kind}"): float(value)
            for name, value in constraints.items()
            if name.endswith(f".{kind}") and value > 0
        }
        for kind in ("trajectory", "goal")
    }
    defaults = ControllerParameters()
    given = {
        name: values[name]
        for name in (
            "interpolation_method",
            "allow_nonzero_velocity_at_trajectory_end",
            "set_last_command_interface_value_as_state_on_activation",
            "cmd_timeout",
        )
        if values.get(name) is not None
    }
    return ControllerParameters(
        **given,
        interpolate_from_desired_state=bool(
            values.get("interpolate_from_desired_state") or values.get("open_loop_control")
        ),
        goal_time=float(constraints.get("goal_time", defaults.goal_time)),
        trajectory_tolerance=tolerances["trajectory"],
        goal_tolerance=tolerances["goal"],
        replacement=_replacement(values),
    )


def version(values: Mapping[str, Any]) -> str:
    """Return the versions of the controller that have these parameters, as a text."""
    if not values:
        return "unknown"
    if values.get(_RETIMING) is not None:
        return "after 6.9.0"
    if values.get("allow_trajectory_replacement") is not None:
        return "6.8 or 6.9"
    return "4.x (Jazzy)" if values.get("open_loop_control") is not None else "5.0 to 6.7 (Kilted)"


def objections(
    values: Mapping[str, Any], joints: Sequence[str], tracking_error: Mapping[str, float]
) -> list[str]:
    """Return why a controller is unsuitable, one sentence with the cure each; empty if it is
    suitable.

    Args:
        values: names and values of its parameters.
        joints: that are commanded, in any order.
        tracking_error: how far each joint may be from its command before the executor stops.
    """
    parameters, found = read_parameters(values), []
    if "joints" in values and set(values["joints"]) != set(joints):
        found.append(_other_joints(values, joints))
    if parameters.replacement is Replacement.RETIME:
        found.append(
            "allow_trajectory_replacement is true: this version then starts every trajectory when "
            "it arrives and ignores its stamp; set it to false"
        )
    if parameters.interpolation_method == "none":
        found.append(
            "interpolation_method is none: the arm jumps from point to point; set it to splines"
        )
    for joint, tolerance in parameters.trajectory_tolerance.items():
        allowed = tracking_error.get(joint)
        if allowed is not None and tolerance < allowed:
            found.append(
                f"constraints.{joint}.trajectory is {tolerance:g}, less than the contract's "
                f"tracking_error of {allowed:g}: the controller would abort motions on its own; "
                "set it above that, or to 0"
            )
    if "command_interfaces" in values and "position" not in values["command_interfaces"]:
        found.append(
            f"command_interfaces is {list(values['command_interfaces'])}: the controller's PID "
            "would break the acceleration limits; give it position interfaces"
        )
    return found


def remarks(values: Mapping[str, Any]) -> list[str]:
    """Return warnings about a suitable controller, one sentence each."""
    parameters, found = read_parameters(values), []
    if parameters.replacement is Replacement.DEFER:
        found.append(
            "allow_trajectory_replacement is true: harmless in 6.8 and 6.9, but refused in later "
            "versions; set it to false before an upgrade"
        )
    rate = values.get("update_rate")
    if isinstance(rate, int) and 0 < rate < 50:
        found.append(
            f"update_rate is {rate} Hz: motion is only verified from 50 Hz; set it to 50 or more"
        )
    if parameters.goal_tolerance and parameters.goal_time > 0:
        found.append(
            f"constraints.goal_time is {parameters.goal_time:g} s with goal tolerances: an arm "
            "that ends further away is commanded to hold that position; set goal_time to 0"
        )
    return found


def limiter_remarks(urdf_xml: str, velocity: Mapping[str, float]) -> list[str]:
    """Return a warning about joints that ``enforce_command_limits`` of a controller manager clips.

    It limits each step to the URDF's velocity times the period of the cycle. At full speed the step
    of a late cycle is clipped, and the controller, which is not informed, lags behind. Empty when
    every joint has a margin of 25 %.

    Args:
        urdf_xml: the robot description.
        velocity: the contract's speed limit of each joint [per s].
    """
    tight = []
    for joint in ElementTree.fromstring(urdf_xml).iter("joint"):
        limit, wanted = joint.find("limit"), velocity.get(joint.get("name", ""))
        top = None if limit is None else limit.get("velocity")
        if wanted and top and float(top) < LIMITER_MARGIN * wanted * (1.0 - 1e-6):
            tight.append(f"{joint.get('name')} ({wanted:g} of {float(top):g})")
    if not tight:
        return []
    share = f"{100 / LIMITER_MARGIN:.0f} % of the URDF's"
    sentence = (
        f"enforce_command_limits is on, and the contract's velocity of {', '.join(tight)} is more "
        f"than {share}, so commands of late cycles are cut; lower the contract's velocity"
    )
    return [sentence]


def _replacement(values: Mapping[str, Any]) -> Replacement:
    if not values.get("allow_trajectory_replacement"):
        return Replacement.REPLACE
    return Replacement.RETIME if values.get(_RETIMING) is not None else Replacement.DEFER


def _other_joints(values: Mapping[str, Any], joints: Sequence[str]) -> str:
    own, sent = set(values["joints"]), set(joints)
    if sent < own and values.get("allow_partial_joints_goal"):
        more = ", ".join(sorted(own - sent))
        return (
            f"joints has {more} besides the contract's: this needs partial goals, which are not "
            "supported; give the controller the contract's joints only"
        )
    return (
        f"joints are {', '.join(values['joints'])}, and the contract commands {', '.join(joints)}: "
        "every trajectory would be refused; give both the same joints"
    )
