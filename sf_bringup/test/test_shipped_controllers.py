"""Tests of the shipped controllers and robots by the rules of ``sf_policy_node/doc/outputs.md``."""

from pathlib import Path

import pytest
import yaml

from sf_policy_node.contract import load_contract
from sf_policy_node.controller.requirements import limiter_remarks, objections, remarks

CONFIG = Path(__file__).parents[1] / "config"
CONTROLLERS = sorted((CONFIG / "controllers").glob("*.yaml"))
# The simulated arm has no controller manager, so nothing cuts its commands.
ROBOTS = sorted(path for path in (CONFIG / "robots").glob("*.yaml") if path.stem != "sim_arm")
# Parameters that decide, with their defaults.
DEFAULTS = {
    "4.x (Jazzy)": {"open_loop_control": False},
    "5.x (Kilted)": {},
    "6.8 and 6.9": {"allow_trajectory_replacement": True},
    "after 6.9": {"allow_trajectory_replacement": True, "positions_upsampling.enable": False},
}


def parameters_of(path):
    """Return the trajectory controllers of a file, by name, and the manager's update rate [Hz]."""
    data = yaml.safe_load(path.read_text())
    manager = data["controller_manager"]["ros__parameters"]
    kind = "joint_trajectory_controller/JointTrajectoryController"
    names = [
        name
        for name, each in manager.items()
        if isinstance(each, dict) and each.get("type") == kind
    ]
    return {name: flat(data[name]["ros__parameters"]) for name in names}, manager["update_rate"]


def flat(values, prefix=""):
    found = {}
    for name, value in values.items():
        found |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def judge(contract, values, defaults):
    """Return what the executor says about a controller of a version with these defaults."""
    if "allow_trajectory_replacement" not in defaults:  # unknown, so the controller ignores it
        values = {k: v for k, v in values.items() if k != "allow_trajectory_replacement"}
    values = {**defaults, **values}
    tracking = {joint.name: joint.tracking_error for joint in contract.joints}
    return objections(values, contract.command_joints, tracking) + remarks(values)


@pytest.mark.parametrize("path", CONTROLLERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", DEFAULTS)
def test_a_shipped_controller_follows_every_rule(path, version):
    contract = load_contract(CONFIG / "robots" / path.name)
    controllers, rate = parameters_of(path)
    assert {f"{name}/joint_trajectory" for name in controllers} == set(contract.command_groups)
    assert 50 <= rate <= 1000
    for values in controllers.values():
        values["update_rate"] = rate
        assert judge(contract, values, DEFAULTS[version]) == []
        assert {"position", "velocity"} <= set(values["state_interfaces"])
        assert values["command_interfaces"] == ["position"]
        # Explicit, because its default differs between versions.
        assert values["allow_trajectory_replacement"] is False
        without = {k: v for k, v in values.items() if k != "allow_trajectory_replacement"}
        is_default = not DEFAULTS[version].get("allow_trajectory_replacement")
        assert (judge(contract, without, DEFAULTS[version]) == []) is is_default


@pytest.mark.parametrize("path", ROBOTS, ids=lambda path: path.stem)
def test_the_velocities_of_a_shipped_robot_leave_a_margin_to_its_urdf(path):
    contract = load_contract(path)
    streamed = {
        name: speed
        for arm in contract.arms.values()
        for name, speed in [
            *((joint.name, joint.velocity) for joint in arm.joints),
            # A gripper with an action is not sampled by the executor: its controller moves it.
            *(
                (name, arm.gripper.velocity)
                for name in arm.gripper_joints
                if not (arm.command.gripper and arm.command.gripper.action)
            ),
        ]
    }
    assert limiter_remarks(contract.urdf_xml, streamed) == []


def test_every_controller_belongs_to_a_robot():
    assert CONTROLLERS and {path.name for path in CONTROLLERS} <= {path.name for path in ROBOTS}
