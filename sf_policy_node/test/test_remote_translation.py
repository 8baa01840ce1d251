"""Tests of mappings from the contract to a server's keys, units and gripper values."""

import numpy as np
import pytest
from motion_cases import HOME, contract_for, sim_arm

from sf_policy_node.contract import ActionSpace
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.vla.remote.mapping import MappingError, load_mapping
from sf_policy_node.vla.remote.translation import Translation

TOOL = """
images: {scene: observation/image, wrist: images.cam_wrist}
image_size: [32, 48]
state:
  observation/state: [tool_x, tool_rz, zero, {name: joint2, unit: deg}, {name: joint3, sign: -1}, {name: gripper, open: 0, closed: 255}]
space: ee_delta
step_s: 0.1
columns: [ignore, {name: y, unit: mm}, x, {name: z, sign: -1}, {name: gripper, open: -1, closed: 1}]
"""  # noqa: E501
IMAGES = {
    name: np.full((240, 320, 3), 60 + index, np.uint8)
    for index, name in enumerate(("scene", "wrist"))
}


def translation(tmp_path, text=TOOL, contract=None):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    return Translation(contract or sim_arm(), load_mapping(path), str(path))


def test_an_observation_has_the_servers_keys_order_and_units(tmp_path):
    joints = HOME.copy()
    joints[-1] = 0.035
    found = translation(tmp_path).observation(IMAGES, joints, "pick the red cube")
    assert set(found) == {"observation/image", "images", "observation/state", "prompt"}
    assert found["prompt"] == "pick the red cube" and set(found["images"]) == {"cam_wrist"}
    image = found["observation/image"]
    assert image.shape == (32, 48, 3) and image.dtype == np.uint8
    assert (image[:, :2] == 0).all() and (image[16, 24] == 60).all()  # bars beside a 4:3 image
    pose = Kinematics(sim_arm()).forward(joints[:6])
    state = found["observation/state"]
    assert state[0] == pose.position[0] and state[2] == 0.0
    assert state[3:] == pytest.approx([np.degrees(joints[1]), -joints[2], 0.0])  # an open gripper
    angle = np.linalg.norm(found["observation/state"][1])
    assert angle <= np.pi


def test_images_may_be_channels_first_in_the_cameras_size(tmp_path):
    text = TOOL.replace("image_size: [32, 48]", "image_layout: chw")
    image = translation(tmp_path, text).observation(IMAGES, HOME, "go")["images"]["cam_wrist"]
    assert image.shape == (3, 240, 320) and image.flags.c_contiguous and (image == 61).all()


def test_a_chunk_is_converted_to_the_contracts_order_and_units(tmp_path):
    rows = np.zeros((12, 5), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = 99.0, 20.0, 0.01 * np.arange(12), 0.5
    rows[:, 4] = np.linspace(-1.0, 1.2, 12)
    found = translation(tmp_path).chunk({"actions": rows})
    assert found.shape == (8, 4)
    assert found[:, 0] == pytest.approx(0.01 * np.arange(8), abs=1e-7)
    assert found[:, 1] == pytest.approx(0.02) and found[:, 2] == pytest.approx(-0.5)
    assert found[:, 3] == pytest.approx(
        np.clip(0.5 - np.linspace(-1.0, 1.2, 12)[:8] / 2, 0, 1), abs=1e-6
    )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"actions": np.zeros((7, 5))}, r"shape \(7, 5\); .* at least 8 rows"),
        ({"actions": np.zeros((8, 4))}, r"shape \(8, 4\); .* needs 5 columns"),
        ({"actions": np.zeros((1, 8, 5))}, r"shape \(1, 8, 5\)"),
        ({"action": np.zeros((8, 5))}, "no 'actions' .*it has action"),
        (np.zeros((8, 5)), "it has ndarray"),
        ({"actions": [["a"]]}, "not a table of numbers"),
        ({"actions": [[1.0], [1.0, 2.0]]}, "not a table of numbers"),
        ({"actions": np.full((8, 5), np.nan)}, "holds nan"),
        (
            {"actions": np.full((8, 5), 57.0)},
            r"moves gripper to -28, its range is 0 to 1: check open and closed of gripper",
        ),
    ],
)
def test_a_reply_that_is_no_chunk_is_refused(tmp_path, reply, reason):
    with pytest.raises(ValueError, match=reason):
        translation(tmp_path).chunk(reply)


def test_degrees_mistaken_for_radians_are_refused_by_name(tmp_path):
    contract = contract_for(ActionSpace.JOINT_POSITION)
    names = ", ".join(contract.arm_joints)
    text = (
        f"images: {{scene: a}}\nspace: joint_position\nstep_s: {contract.action.step_s}\ncolumns:"
        f" [{names}GRIPPER]\n"
    )
    text = text.replace(
        "GRIPPER",
        ", {name: gripper, open: 1, closed: 0}" if "gripper" in contract.action.names else "",
    )
    ours = translation(tmp_path, text, contract)
    rows = np.tile(
        np.append(HOME[:6], 1.0)[: len(contract.action.names)], (contract.action.horizon, 1)
    )
    assert ours.chunk({"actions": rows}) == pytest.approx(rows)
    with pytest.raises(
        ValueError, match=r"moves joint\d to .*, its range is .*: check unit, sign and order"
    ):
        ours.chunk({"actions": np.degrees(rows) * np.append(np.ones(6), 0.017)[: rows.shape[1]]})


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            "scene: ",
            "front: ",
            r"images.front: the contract has no such camera; it has scene, wrist",
        ),
        (
            "space: ee_delta",
            "space: joint_position",
            "space: joint_position, the contract's is ee_delta",
        ),
        ("step_s: 0.1", "step_s: 0.02", "step_s: 0.02 s, the contract's is 0.1 s"),
        ("tool_x", "elbow", "state.observation/state: elbow is unknown; known are"),
        (
            "{name: joint2, unit: deg}",
            "{name: joint2, unit: mm}",
            "joint2: unit mm does not fit, the contract's is rad",
        ),
        (
            "{name: joint2, unit: deg}",
            "{name: joint2, open: 0, closed: 1}",
            "joint2: open and closed are for the gripper",
        ),
        (
            "{name: gripper, open: -1, closed: 1}",
            "gripper",
            "give the server's values of open and closed; there is no default",
        ),
        (
            "{name: gripper, open: -1, closed: 1}",
            "{name: gripper, open: 1, closed: 1}",
            "give open and closed, two different values",
        ),
        ("[ignore, ", "[speed, ", "speed is not an action of the contract"),
        ("[ignore, ", "[x, ", "x must be there once, it is 2 times"),
        ("{name: z, sign: -1}, ", "", "z must be there once, it is 0 times"),
        ("step_s: 0.1\n", "", "step_s: is missing; add it"),
        ("space:", "spaces: 1\nspace:", "spaces: is not a known key"),
        ("image_size: [32, 48]", "image_size: [0, 48]", "image_size: must be 1 to 4096 pixels"),
        ("images: {", "images: [", "is not YAML"),
    ],
)
def test_an_incompatible_mapping_is_refused_with_its_key(tmp_path, before, after, reason):
    assert before in TOOL
    with pytest.raises(MappingError, match=reason):
        translation(tmp_path, TOOL.replace(before, after, 1))


def test_a_missing_mapping_is_named(tmp_path):
    with pytest.raises(MappingError, match=r"cannot be read .*check the path of the mapping"):
        load_mapping(tmp_path / "none.yaml")
