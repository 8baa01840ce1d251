"""Tests of the parameters that are read from a controller, and of refusals."""

import pytest

from sf_policy_node.controller.parameters import ControllerParameters, Replacement
from sf_policy_node.controller.requirements import (
    objections,
    read_parameters,
    remarks,
    version,
    wanted_parameters,
)

JOINTS = ("shoulder", "elbow")
ERRORS = {"shoulder": 0.2, "elbow": 0.3}
KILTED = {
    "joints": ["elbow", "shoulder"],
    "command_interfaces": ["position"],
    "allow_partial_joints_goal": False,
    "interpolate_from_desired_state": False,
    "interpolation_method": "splines",
    "cmd_timeout": 0.0,
    "constraints.goal_time": 0.0,
    "constraints.stopped_velocity_tolerance": 0.01,
    "constraints.decelerate_on_cancel": False,
    "constraints.elbow.trajectory": 0.0,
    "constraints.elbow.goal": 0.0,
    "update_rate": 100,
}
JAZZY = {**KILTED, "open_loop_control": False}
LYRICAL = {**KILTED, "allow_trajectory_replacement": True}
NEXT = {**LYRICAL, "positions_upsampling.enable": False}


def refused(values):
    return objections(values, JOINTS, ERRORS)


@pytest.mark.parametrize(
    ("values", "name", "replacement"),
    [
        (JAZZY, "4.x (Jazzy)", Replacement.REPLACE),
        (KILTED, "5.0 to 6.7 (Kilted)", Replacement.REPLACE),
        (LYRICAL, "6.8 or 6.9", Replacement.DEFER),
        ({**LYRICAL, "allow_trajectory_replacement": False}, "6.8 or 6.9", Replacement.REPLACE),
        (NEXT, "after 6.9.0", Replacement.RETIME),
        ({**NEXT, "allow_trajectory_replacement": False}, "after 6.9.0", Replacement.REPLACE),
        ({}, "unknown", Replacement.REPLACE),
    ],
)
def test_the_version_follows_from_the_declared_parameters(values, name, replacement):
    assert version(values) == name
    assert read_parameters(values).replacement is replacement
    assert bool(refused(values)) is (replacement is Replacement.RETIME)


def test_missing_parameters_have_their_defaults():
    assert read_parameters(KILTED) == read_parameters({}) == ControllerParameters()
    assert read_parameters({"open_loop_control": True}).interpolate_from_desired_state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation_method": "none"}, "interpolation_method is none"),
        ({"constraints.elbow.trajectory": 0.25}, "constraints.elbow.trajectory is 0.25"),
        ({"joints": ["elbow"]}, "joints are elbow, and the contract commands shoulder, elbow"),
        (
            {"joints": ["elbow", "shoulder", "rail"], "allow_partial_joints_goal": True},
            "has rail besides",
        ),
        ({"command_interfaces": ["velocity"]}, "command_interfaces is ['velocity']"),
    ],
)
def test_incompatible_parameters_are_refused_with_the_cure(change, message):
    (sentence,) = refused({**KILTED, **change})
    assert message in sentence and (
        "set it" in sentence or "make" in sentence or "give" in sentence
    )


@pytest.mark.parametrize(
    "change",
    [
        {"constraints.elbow.trajectory": 0.3},
        {"constraints.other.trajectory": 0.01},
        {"interpolate_from_desired_state": True},
        {"cmd_timeout": 0.5},
        {"allow_nonzero_velocity_at_trajectory_end": True},
        {"command_interfaces": ["position", "velocity"]},
    ],
)
def test_tolerable_parameters_are_accepted(change):
    assert not refused({**KILTED, **change}) and not remarks({**KILTED, **change})


def test_notable_parameters_give_a_remark():
    assert "before an upgrade" in remarks(LYRICAL)[0]
    assert "update_rate is 20 Hz" in remarks({**KILTED, "update_rate": 20})[0]
    goal = {"constraints.goal_time": 0.5, "constraints.elbow.goal": 0.01}
    assert "set goal_time to 0" in remarks({**KILTED, **goal})[0]


def test_only_judged_parameters_are_read():
    assert wanted_parameters(["use_sim_time", "joints", "gains.elbow.p", *KILTED]) == sorted(
        [*KILTED, "joints"]
    )
