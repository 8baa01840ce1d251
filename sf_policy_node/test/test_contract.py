"""Tests of the contract: errors name the key's path, equal contracts hash equally."""

import re
import shutil

import pytest
import yaml
from motion_cases import CONTRACT_PATH, sim_arm

from sf_policy_node.contract import ContractError, load_contract, parse_contract
from sf_policy_node.text_files import repeated_keys


def data():
    return yaml.safe_load(CONTRACT_PATH.read_text())


def parse(values):
    return parse_contract(yaml.safe_dump(values, sort_keys=False), sim_arm().urdf_xml, "robot.yaml")


def without(path):
    values = data()
    *parents, last = path
    node = values
    for key in parents:
        node = node[key]
    del node[last]
    return values


def with_value(path, value):
    values = data()
    *parents, last = path
    node = values
    for key in parents:
        node = node[key]
    node[last] = value
    return values


@pytest.mark.parametrize("limit", ["lower", "upper", "velocity", "acceleration", "tracking_error"])
def test_there_is_no_default_limit(limit):
    with pytest.raises(
        ContractError, match=rf"robot\.yaml: joints\.1\.{limit}: is missing; add it"
    ):
        parse(without(["joints", 1, limit]))


@pytest.mark.parametrize(
    "path",
    [
        ["workspace"],
        ["budgets", "chunk_age_s"],
        ["command", "rate_hz"],
        ["cameras"],
        ["base_frame"],
    ],
)
def test_a_missing_key_is_named_with_its_path(path):
    with pytest.raises(ContractError, match=r"\.".join(path) + ": is missing"):
        parse(without(path))


WRONG = {
    "unknown key": (["budgets", "chunk_agee_s"], 1.0, "budgets.chunk_agee_s: is not a known key"),
    "negative limit": (["joints", 0, "velocity"], -1.0, "joints.0.velocity"),
    "infinite limit": (["joints", 0, "upper"], float("inf"), "joints.0.upper"),
    "not a number limit": (["joints", 0, "acceleration"], float("nan"), "joints.0.acceleration"),
    "limits swapped": (["joints", 2, "lower"], 9.0, r"joints.2: lower \(9.0\) must be below upper"),
    "workspace swapped": (["workspace", "lower"], [1.0, 0.0, 0.0], "workspace: lower x"),
    "gripper that does not move": (
        ["gripper", "open"],
        0.0,
        "gripper: open and closed must differ",
    ),
    "columns": (
        ["action", "names"],
        ["x", "z", "y", "gripper"],
        "action.names: ee_delta needs x y z",
    ),
    "joint columns": (
        ["action", "space"],
        "joint_delta",
        "action.names: joint_delta needs all joints in order",
    ),
    "no orientation": (
        ["action", "tool_orientation"],
        None,
        "action.tool_orientation: give the fixed tool orientation",
    ),
    "unknown space": (["action", "space"], "wiggle", "action.space"),
    "schema": (["schema_version"], 2, "schema_version"),
    "camera twice": (["cameras", 1, "name"], "scene", "cameras: scene is named twice"),
    "bad topic": (["topics", "joint_states"], "joint states", "topics.joint_states"),
    "topic part that is a number": (
        ["topics", "teleop_command"],
        "/arm/2nd/command",
        "topics.teleop_command: .* '2nd' begins",
    ),
    "topic that ends with a slash": (
        ["command", "topic"],
        "/arm/",
        "command.topic: is not a topic name",
    ),
    "one topic for two cameras": (
        ["cameras", 1, "depth_topic"],
        "scene_camera/image_raw",
        "cameras.wrist.depth_topic: .* cameras.scene.topic",
    ),
    "the arm as its own leader": (
        ["topics", "teleop_command"],
        "/joint_states",
        "topics.teleop_command: .* topics.joint_states",
    ),
    "frame with a slash first": (
        ["cameras", 0, "frame"],
        "/camera",
        "cameras.0.frame: .* write camera",
    ),
    "joint name with spaces around it": (
        ["joints", 0, "name"],
        "joint1 ",
        "joints.0.name: a name needs visible",
    ),
    "joint name without quotes": (
        ["joints", 0, "name"],
        1,
        "joints.0.name: 1 is not a text; write it in quotes",
    ),
    "urdf in a folder": (
        ["urdf"],
        "urdf/arm.urdf",
        "urdf: is not the name of a file beside the contract",
    ),
    "quaternion of no rotation": (
        ["action", "tool_orientation"],
        [0.0, 0.0, 0.0, 0.0],
        "tool_orientation: .* length 0",
    ),
    "quaternion in degrees": (
        ["action", "tool_orientation"],
        [0.0, 180.0, 0.0, 0.0],
        "tool_orientation: .* length 180",
    ),
    "rate": (["command", "rate_hz"], 5, "command.rate_hz"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_with_its_path(case):
    path, value, message = WRONG[case]
    with pytest.raises(ContractError, match=message) as caught:
        parse(with_value(path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "robot: sim_arm\n",
            "robot: sim_arm\nurdf: other.urdf\n",
            r"robot.yaml: urdf: is given twice \(lines 5 and 6\); keep one",
        ),
        ("joint: gripper,", "joint: gripper, open: 0.1,", r"gripper.open: is given twice"),
        (
            "    rate_hz: 30\n  - name: wrist",
            "    rate_hz: 30\n    'topic': /b\n  - name: wrist",
            r"cameras.0.topic: is given twice",
        ),
    ],
)
def test_a_repeated_key_is_refused(old, new, message):
    text = CONTRACT_PATH.read_text()
    assert old in text
    with pytest.raises(ContractError, match=message):
        parse_contract(text.replace(old, new, 1), "", "robot.yaml")


def test_anchors_and_merged_keys_are_not_repeated_keys():
    text = "a: &one {x: 1}\nb: {<<: *one, x: 2}\nc: *one\nd: &circle [*circle]"
    assert repeated_keys(text) == []


@pytest.mark.parametrize("name", ["3", "left/arm-joint.1", "Joint 1", "Schulter_ä"])
def test_any_urdf_joint_name_is_accepted(name):
    values = data()
    values["joints"][2]["name"] = name
    assert parse(values).arm_joints[2] == name


def test_a_gripper_column_needs_a_gripper():
    with pytest.raises(ContractError, match="add a gripper section"):
        parse(without(["gripper"]))


def test_every_error_is_listed():
    values = without(["workspace"])
    values["speed"] = 1
    with pytest.raises(ContractError) as caught:
        parse(values)
    assert "speed: is not a known key" in str(caught.value) and "workspace: is missing" in str(
        caught.value
    )


def test_broken_yaml_and_other_files_are_refused():
    with pytest.raises(ContractError, match="not valid YAML"):
        parse_contract("joints: [", "")
    with pytest.raises(ContractError, match="expected keys and values"):
        parse_contract("just text", "")


def test_a_missing_file_and_a_missing_urdf_are_named(tmp_path):
    with pytest.raises(ContractError, match=r"nobody\.yaml: cannot be read"):
        load_contract(tmp_path / "nobody.yaml")
    shutil.copy(CONTRACT_PATH, tmp_path / "arm.yaml")
    with pytest.raises(ContractError, match=r"urdf: .*sim_arm\.urdf: cannot be read"):
        load_contract(tmp_path / "arm.yaml")


def test_the_hash_does_not_depend_on_the_order_of_keys_and_survives_embedding():
    turned = dict(reversed(data().items()))
    turned["joints"] = [dict(reversed(joint.items())) for joint in turned["joints"]]
    assert parse(turned).hash == sim_arm().hash
    assert parse_contract(sim_arm().to_yaml(), sim_arm().urdf_xml).hash == sim_arm().hash


CHANGES = {
    "order of cameras": ["cameras"],
    "action space": ["action", "step_s"],
    "tool frame": ["tool_frame"],
    "gripper": ["gripper", "open"],
}


@pytest.mark.parametrize("case", CHANGES)
def test_the_hash_depends_on_the_inputs_of_a_policy(case):
    path, values = CHANGES[case], data()
    old = values
    for key in path:
        old = old[key]
    new = list(reversed(old)) if isinstance(old, list) else old * 2
    changed = parse(with_value(path, new))
    assert changed.hash != sim_arm().hash and sim_arm().difference(changed)


def test_an_unusable_urdf_is_compared_by_its_text():
    contracts = [
        parse_contract(CONTRACT_PATH.read_text(), urdf)
        for urdf in ("<robot/>", "<robot/>", "<robot name='a'/>")
    ]
    assert contracts[0].hash == contracts[1].hash != contracts[2].hash
    assert contracts[0].difference(contracts[2])[0].startswith("urdf: text")


@pytest.mark.parametrize(
    "path",
    [
        ["joints", 0, "velocity"],
        ["joints", 0, "tracking_error"],
        ["budgets", "chunk_age_s"],
        ["command", "rate_hz"],
    ],
)
def test_limits_and_budgets_may_be_tuned_without_retraining(path):
    value = data()
    for key in path:
        value = value[key]
    tuned = parse(with_value(path, 0.5 * value))
    assert tuned.hash == sim_arm().hash and sim_arm().difference(tuned) == []


def test_the_difference_lists_the_keys_that_differ():
    other = parse(with_value(["action", "step_s"], 0.2))
    assert sim_arm().difference(other) == ["action.step_s: 0.1 here, 0.2 there"]
    assert sim_arm().difference(sim_arm()) == []


def test_the_gripper_maps_its_opening_to_the_joint_and_back():
    gripper = sim_arm().gripper
    assert gripper.to_joint(0.0) == 0.0 and gripper.to_joint(2.0) == 0.035
    assert gripper.to_opening(gripper.to_joint(0.25)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"collision": {"boxes": [{"name": "t", "lower": [0, 0, 1], "upper": [1, 1, 0]}]}},
            "collision.boxes.0: lower z",
        ),
        (
            {"collision": {"boxes": [{"name": "t", "lower": [0, 0, 0], "upper": [1, 1, 1]}] * 2}},
            "boxes: t is named twice",
        ),
        ({"collision": {"margin": -0.1}}, "collision.margin"),
        ({"collision": {"allowed": [["hand"]]}}, "collision.allowed.0"),
        ({"home": [0.0, 0.4]}, "home: has 2 values"),
        ({"home": [0.0, 0.4, 1.4, 1.3, 0.0, 9.0]}, "home: joint6 at 9 is outside"),
        (
            {
                "simulation": {
                    "cameras": {
                        "side": {"frame": "hand", "position": [0, 0, 0], "look_at": [1, 0, 0]}
                    }
                }
            },
            "side is no camera",
        ),
        (
            {
                "simulation": {
                    "cameras": {
                        "scene": {"frame": "hand", "position": [0, 0, 0], "look_at": [0, 0, 1]}
                    }
                }
            },
            "up is along",
        ),
    ],
)
def test_surroundings_are_checked(section, sentence):
    with pytest.raises(ContractError, match=re.escape(sentence)):
        parse(data() | section)


def test_surroundings_do_not_change_the_hash():
    here = {
        "home": [0.0, 0.4, 1.4, 1.3, 0.0, 0.0],
        "collision": {"check": False},
        "simulation": {"table_height": 0.1},
    }
    changed = parse(data() | here)
    assert changed.hash == sim_arm().hash
    assert parse_contract(changed.to_yaml(), sim_arm().urdf_xml) == changed
