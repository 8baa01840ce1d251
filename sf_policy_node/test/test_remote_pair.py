"""Tests of policy servers for two arms, and for grippers with several fingers."""

import threading

import numpy as np
import pytest
import yaml
from arm_pair import PAIR_HOME, pair, pair_data, pair_urdf

from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.types import Join
from sf_policy_node.vla.remote.mapping import Mapping, MappingError
from sf_policy_node.vla.remote.policy import load_remote
from sf_policy_node.vla.remote.server import PolicyServer
from sf_policy_node.vla.remote.translation import Translation

IMAGES = {name: np.zeros((240, 320, 3), np.uint8) for name in ("scene", "wrist")}


def fingered():
    """Return the pair whose left gripper has a second finger, with the left joints first."""
    data = pair_data()
    gripper = data["arms"]["left"]["gripper"] | {"in_urdf": False}
    gripper["fingers"] = [{"joint": "left_thumb", "open": -0.02, "closed": 0.0}]
    data["arms"]["left"]["gripper"] = gripper
    return parse_contract(yaml.safe_dump(data), pair_urdf(), "pair")


class Scripted:
    """A policy whose chunk is the same each time, and that stores the joints that it got."""

    policy_id, join = "scripted", Join.BLEND

    def __init__(self, chunk):
        self.chunk, self.joints = chunk, []

    def predict(self, images, joints, instruction):
        self.joints.append(joints)
        return self.chunk


@pytest.mark.parametrize("make", [pair, lambda: pair("ee_delta"), fingered])
def test_a_served_policy_of_two_arms_gets_all_joints_and_its_chunk_arrives(make):
    contract = make()
    layout = contract.columns.action
    random = np.random.default_rng(0)
    chunk = random.uniform(0.0, 0.2, (contract.action.horizon, len(layout)))
    chunk[:, layout.grippers] = random.uniform(0.0, 1.0, (len(chunk), 2))
    scripted = Scripted(chunk)
    server = PolicyServer(scripted, contract, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        policy = load_remote(f"openpi://127.0.0.1:{server.port}", contract)
        policy.warm_up()
        joints = random.uniform(-0.02, 0.03, len(contract.command_joints))
        assert policy.predict(IMAGES, joints, "go") == pytest.approx(chunk, abs=1e-12)
        assert np.array_equal(scripted.joints[-1], joints)
        policy.close()
    finally:
        server.close()
        thread.join()


def mapping(contract, state, **changes):
    columns = [
        {"name": name, "open": 0.0, "closed": 1.0} if name.endswith("gripper") else name
        for name in reversed(contract.action.names)
    ]
    keys = {"images": {"scene": "image"}, "space": "joint_position", "step_s": 0.1}
    return Mapping(**{**keys, "state": {"state": state}, "columns": columns, **changes})


def test_a_mapping_names_tools_and_grippers_of_each_arm():
    contract = pair()
    state = [
        "right/tool_y",
        "left/tool_x",
        {"name": "left/gripper", "open": 1.0, "closed": -1.0},
        {"name": "right_joint2", "unit": "deg"},
        {"name": "joint:left_gripper", "unit": "mm"},
    ]
    ours = Translation(contract, mapping(contract, state))
    joints = PAIR_HOME.copy()
    joints[6] = 0.035  # of the left gripper
    found = ours.observation(IMAGES, joints, "go")["state"]
    poses = {
        name: each.forward(joints[at : at + 6]).position
        for (name, each), at in zip(kinematics_of(contract).items(), (0, 7), strict=True)
    }
    assert found == pytest.approx(
        [poses["right"][1], poses["left"][0], 1.0, np.degrees(joints[8]), 35.0]
    )
    rows = np.tile(joints, (8, 1))
    rows[:, [6, 13]] = [0.2, 0.9]
    theirs = rows.copy()
    theirs[:, [6, 13]] = 1.0 - rows[:, [6, 13]]
    assert ours.chunk({"actions": theirs[:, ::-1]}) == pytest.approx(rows)
    theirs[:, 13] = 5.0
    with pytest.raises(ValueError, match=r"moves right/gripper to -4, .* closed of right/gripper"):
        ours.chunk({"actions": theirs[:, ::-1]})
    with pytest.raises(MappingError, match="right/gripper: give the server's values of open"):
        Translation(contract, mapping(contract, ["right/gripper"]))
    with pytest.raises(MappingError, match="gripper is unknown; known are left/gripper"):
        Translation(contract, mapping(contract, ["gripper"]))


def test_an_opening_is_the_mean_of_all_fingers():
    contract = fingered()
    ours = Translation(
        contract, mapping(contract, [{"name": "left/gripper", "open": 1.0, "closed": 0.0}])
    )
    joints = np.zeros(len(contract.command_joints))
    names = contract.command_joints
    joints[names.index("left_gripper")], joints[names.index("left_thumb")] = 0.035, -0.01
    assert ours.observation(IMAGES, joints, "go")["state"] == pytest.approx([0.75])
