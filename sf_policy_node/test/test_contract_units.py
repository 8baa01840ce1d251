"""Tests of numbers in a wrong unit: the contract is refused with key, value, bound and a guess."""

import copy
import math

import pytest
import yaml
from motion_cases import CONTRACT_PATH, sim_arm

from sf_policy_node.contract import ContractError, parse_contract

DATA = yaml.safe_load(CONTRACT_PATH.read_text())
GRIPPER = {"joint": "jaw", "open": 0.04, "closed": 0.0, "velocity": 0.1, "acceleration": 1.0}


def parse(*path_and_value, **stored):
    """Parse the contract of ``sim_arm``, with a value at a path."""
    values = copy.deepcopy(DATA)
    *parents, key, value = path_and_value
    node = values
    for each in parents:
        node = node.setdefault(each, {}) if isinstance(node, dict) else node[each]
    node[key] = value
    return parse_contract(yaml.safe_dump(values), sim_arm().urdf_xml, "robot.yaml", **stored)


MILLISECONDS = {
    "observation_age_s": (250, 5),
    "camera_skew_s": (50, 2),
    "joint_state_age_s": (100, 5),
    "gripper_age_s": (300, 5),
    "chunk_age_s": (500, 30),
    "emergency_stop_age_s": (400, 10),
    "hold_s": (1500, 60),
    "teleop_age_s": (200, 5),
}


def test_budgets_in_milliseconds_are_refused():
    budgets = {key: value for key, (value, _) in MILLISECONDS.items()}
    with pytest.raises(ContractError) as caught:
        parse("budgets", budgets)
    for key, (value, bound) in MILLISECONDS.items():
        sentence = f"budgets.{key}: {value} s is above {bound} s and looks like milliseconds"
        assert sentence in str(caught.value)
    # Recordings and checkpoints stay usable.
    assert parse("budgets", budgets, stored=True).budgets.hold_s == 1500
    assert parse("budgets", {key: bound for key, (_, bound) in MILLISECONDS.items()})


SLOW = {"lower": -2.8, "upper": 2.8, "velocity": 0.5, "acceleration": 2.0, "tracking_error": 0.05}
RAIL = SLOW | {"name": "joint1", "unit": "m", "lower": 0.0, "upper": 1.0, "step": 0.05}
SLOW |= {"name": "joint1", "step": 0.05}
WRONG = {
    "period as step": (["action", "step_s"], 100, "action.step_s: 100 s", "milliseconds or a rate"),
    "camera period": (
        ["cameras", 1, "rate_hz"],
        0.033,
        "cameras.wrist.rate_hz: 0.033",
        "time between",
    ),
    "camera mHz": (["cameras", 0, "rate_hz"], 30000, "cameras.scene.rate_hz: 30000 Hz", "1000 Hz"),
    "command period": (["command", "rate_hz"], 0.02, "command.rate_hz", "time between"),
    "tracking error": (
        ["joints", 0],
        SLOW | {"tracking_error": 2.87},
        "joints.joint1.tracking_error: 2.87 rad is above 0.5 rad",
        "degrees",
    ),
    "step": (
        ["joints", 0],
        SLOW | {"step": 2.87},
        "joints.joint1.step: 2.87 rad is above 1 rad",
        "degrees",
    ),
    "acceleration": (
        ["joints", 0],
        SLOW | {"acceleration": 114.6},
        "joints.joint1.acceleration: 114.6 rad/s.2 is above 100 rad/s.2",
        "degrees",
    ),
    "acceleration of a faster joint": (
        ["joints", 0],
        SLOW | {"velocity": 3.0, "acceleration": 114.6},
        "joints.joint1.acceleration: 114.6 rad/s.2 is above 111.111 rad/s.2",
        "degrees",
    ),
    "rail's tracking error": (
        ["joints", 0],
        RAIL | {"tracking_error": 5},
        "joints.joint1.tracking_error: 5 m is above 0.4 m",
        "millimetres",
    ),
    "rail's acceleration": (
        ["joints", 0],
        RAIL | {"acceleration": 2000},
        "joints.joint1.acceleration: 2000 m/s.2",
        "millimetres",
    ),
    "tool speed": (
        ["workspace", "tool_speed"],
        500,
        "workspace.tool_speed: 500 m/s is above 15 m/s",
        "millimetres",
    ),
    "slow tool speed": (["workspace", "tool_speed"], 250, "workspace.tool_speed", "millimetres"),
    "fast tool speed": (["workspace", "tool_speed"], 1000, "workspace.tool_speed", "millimetres"),
    "box": (
        ["workspace", "lower"],
        [-120, -300, -6],
        "workspace: -300 m is above 20 m",
        "millimetres",
    ),
    "home": (["home"], [0, 23, 80, 74, 0, 0], "home: joint2 at 23 is outside", "in degrees"),
    "rest": (["rest"], [0, -45, 0, 0, 0, 0], "rest: joint2 at -45 is outside", "in degrees"),
    "margin": (["collision", "margin"], 5, "collision.margin: .* equal to 0.2", "in millimetres"),
    "capsules": (
        ["collision", "capsule_radius"],
        30,
        "collision.capsule_radius: 30 m is above 0.5 m",
        "millimetres",
    ),
    "collision box": (
        ["collision", "boxes"],
        [{"name": "table", "lower": [-300, -800, -50], "upper": [900, 800, -4]}],
        "collision.boxes.table: 900 m is above 50 m",
        "millimetres",
    ),
    "table": (["simulation", "table_height"], 720, "simulation.table_height: 720 m", "millimetres"),
    "camera mount": (
        ["simulation", "cameras"],
        {"scene": {"frame": "base_link", "position": [920, 0, 620], "look_at": [0.3, 0, 0]}},
        "simulation.cameras.scene.position: 920 m",
        "millimetres",
    ),
    "field of view": (
        ["simulation", "cameras"],
        {
            "scene": {
                "frame": "base_link",
                "position": [1, 0, 1],
                "look_at": [0, 0, 0],
                "field_of_view": 0.9,
            }
        },
        "simulation.cameras.scene.field_of_view: .* than 5 degrees",
        "in radians",
    ),
    "gripper in mm": (
        ["gripper"],
        {
            "joint": "jaw",
            "in_urdf": False,
            "open": 35,
            "closed": 0,
            "velocity": 100,
            "acceleration": 1000,
        },
        "gripper.open: 35 m is above 1 m .* gripper.velocity: 100 m/s .* gripper.acceleration",
        "millimetres",
    ),
    "gripper without unit": (
        ["gripper"],
        GRIPPER | {"open": 0.8},
        "gripper.open: 0.8 m",
        "unit: rad",
    ),
    "gripper in percent": (
        ["gripper"],
        GRIPPER | {"in_urdf": False, "open": 100},
        "gripper.open: 100 m is above 1 m",
        "percentage",
    ),
    "gripper in degrees": (
        ["gripper"],
        GRIPPER | {"in_urdf": False, "unit": "rad", "open": 45},
        "gripper.open: 45 rad is above 12.5664 rad",
        "degrees",
    ),
    "finger in mm": (
        ["gripper"],
        GRIPPER | {"in_urdf": False, "fingers": [{"joint": "other", "open": -40, "closed": 0}]},
        "gripper.fingers.other.open: -40 m",
        "millimetres",
    ),
    "effort": (
        ["command", "gripper"],
        {"output": "parallel_gripper", "topic": "gripper/gripper_cmd", "max_effort": 20000},
        "command.gripper.max_effort: 20000 N is above 2000 N",
        "give newtons",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_number_in_a_wrong_unit_is_refused(case):
    path, value, sentence, guess = WRONG[case]
    with pytest.raises(ContractError, match=rf"robot\.yaml: {sentence}.*{guess}"):
        parse(*path, value)


def test_a_slow_arm_with_strong_motors_and_a_fast_one_are_accepted():
    assert parse("joints", 0, SLOW | {"velocity": 0.1, "acceleration": 20.0})
    assert parse("joints", 0, SLOW | {"velocity": 2 * math.pi, "acceleration": 150.0})
    assert parse("joints", 0, RAIL)
    assert parse("joints", 0, SLOW | {"velocity": 1.0, "acceleration": 100.0})
    assert parse("joints", 0, SLOW | {"velocity": 6.0, "tracking_error": 1.2})


def test_slow_cameras_delta_robots_and_normalised_grippers_are_accepted():
    assert parse("cameras", 0, "rate_hz", 0.05)
    assert parse("workspace", "tool_speed", 15.0)
    opening = {"in_urdf": False, "open": 1.0, "velocity": 5.0, "acceleration": 50.0}
    assert parse("gripper", GRIPPER | opening)


def test_hold_s_may_outlast_a_long_chunk():
    action = DATA["action"] | {"step_s": 2.0, "horizon": 50}
    budgets = DATA["budgets"] | {"hold_s": 100.5}
    assert parse_contract(
        yaml.safe_dump(DATA | {"action": action, "budgets": budgets}), sim_arm().urdf_xml
    )
    with pytest.raises(ContractError, match=r"budgets\.hold_s: 100\.5 s is above 60 s"):
        parse("budgets", budgets)
