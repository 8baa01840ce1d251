"""Tests of contracts with several arms, and of version 1 read as version 2."""

import re

import numpy as np
import pytest
import yaml
from arm_pair import pair, pair_data, pair_urdf
from motion_cases import CONTRACT_PATH, sim_arm

from sf_policy_node.contract import (
    ColumnKind,
    ContractError,
    load_contract,
    parse_contract,
    urdf_source,
)

JOINT, GRIPPER = ColumnKind.JOINT, ColumnKind.GRIPPER


def parse(data):
    return parse_contract(yaml.safe_dump(data, sort_keys=False), pair_urdf(), "pair.yaml")


def changed(path, value):
    data = pair_data()
    *parents, last = path
    node = data
    for key in parents:
        node = node[key]
    node[last] = value
    return data


def test_joints_are_ordered_by_arm_each_with_its_gripper():
    contract = pair()
    left = [f"left_joint{n}" for n in range(1, 7)] + ["left_gripper"]
    assert list(contract.arms) == ["left", "right"]
    assert contract.command_joints == left + [name.replace("left", "right") for name in left]
    assert contract.arms["right"].command_joints == contract.command_joints[7:]


def test_columns_have_arm_kind_and_unit():
    columns = pair().columns
    seventh, last = columns.action[6], columns.action[13]
    assert (seventh.name, seventh.arm, seventh.kind, seventh.unit) == (
        "left/gripper",
        "left",
        GRIPPER,
        "1",
    )
    assert (last.arm, last.index) == ("right", 13)
    assert columns.action.indices(GRIPPER).tolist() == [6, 13]
    assert columns.action.indices(JOINT, arm="right").tolist() == [7, 8, 9, 10, 11, 12]
    assert columns.commands.mask(GRIPPER).nonzero()[0].tolist() == [6, 13]
    assert columns.commands.units[6] == "m" and columns.commands.units[7] == "rad"
    assert columns.state.names[6:10] == (
        "left/opening",
        "left/tool_x",
        "left/tool_y",
        "left/tool_z",
    )
    assert len(columns.state) == 20


def test_tool_columns_of_several_arms_have_their_names():
    action = pair("ee_delta").columns.action
    assert action.names[4] == "right/x"
    assert action.indices(ColumnKind.TOOL_POSITION, arm="right").tolist() == [4, 5, 6]
    assert action.indices(without=[GRIPPER]).tolist() == [0, 1, 2, 4, 5, 6]


def test_columns_of_one_arm_keep_their_names():
    columns = sim_arm().columns
    assert columns.action.names == ("x", "y", "z", "gripper")
    assert columns.state.names[6:] == ("opening", "tool_x", "tool_y", "tool_z")
    assert {column.arm for column in columns.state} == {"arm"}


def test_a_common_command_applies_to_every_arm():
    contract = pair(topics="common")
    assert {arm.command.topic for arm in contract.arms.values()} == {
        "joint_trajectory_controller/joint_trajectory"
    }
    assert contract.rate_hz == 50


def test_an_arm_without_a_base_frame_uses_the_common_one():
    data = pair_data()
    del data["arms"]["left"]["base_frame"]
    assert parse(data).arms["left"].base_frame == "world"


def test_code_for_one_arm_refuses_several_in_one_sentence():
    for ask in ("joints", "gripper", "tool_frame", "workspace", "home", "command"):
        with pytest.raises(ContractError, match=r"pair has the arms left, right, and this part"):
            getattr(pair(), ask)


WRONG = {
    "a joint of both arms": (
        ["arms", "right", "joints", 0, "name"],
        "left_joint1",
        "joints: left_joint1 is named twice",
    ),
    "home of another arm": (["arms", "left", "home"], [0.0], "arms.left.home: has 1 values"),
    "two rates": (
        ["arms", "right", "command", "rate_hz"],
        100,
        "arms.right.command.rate_hz: is 100.0, and that of left 50.0",
    ),
    "a column of nobody": (
        ["action", "names", 0],
        "middle_joint1",
        "action.names: middle_joint1 is no column of this robot",
    ),
    "a column without its arm": (["action", "names", 6], "gripper", "gripper is no column"),
    "a missing joint": (
        ["action", "names"],
        ["left_joint1"],
        "needs all joints of left in order",
    ),
    "keys of version 1": (["joints"], [], "joints: belongs to an arm since schema_version 2"),
    "a limit": (["arms", "left", "joints", 1, "velocity"], -1.0, "arms.left.joints.1.velocity"),
    "an arm that cannot be a name": (["arms"], {"left arm": {}}, "arms.left arm: use letters"),
    "no arm": (["arms"], {}, "arms"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_with_its_path(case):
    path, value, message = WRONG[case]
    with pytest.raises(ContractError, match=re.escape(message)):
        parse(changed(path, value))


def test_a_tool_controller_commands_one_arm_only():
    data = pair_data(topics="common")
    grippers = {"output": "forward_command", "topic": "grippers"}
    data["command"] |= {"output": "servo_twist", "gripper": grippers}
    with pytest.raises(ContractError, match="servo_twist commands one tool, and there are 2 arms"):
        parse(data)


def test_an_unused_common_command_is_refused():
    data = pair_data()
    data["command"] = data["arms"]["left"]["command"]
    with pytest.raises(ContractError, match="command: every arm has a command of its own"):
        parse(data)


def test_columns_are_ordered_by_arm():
    data = pair_data()
    names = data["action"]["names"]
    data["action"]["names"] = names[7:] + names[:7]
    with pytest.raises(ContractError, match="one arm after another"):
        parse(data)


# ---- version 1 ----


def test_version_1_is_read_as_one_arm_with_the_same_hash():
    old = yaml.safe_load(CONTRACT_PATH.read_text())
    assert old["schema_version"] == 1, "this test needs a file of version 1"
    contract = sim_arm()
    assert list(contract.arms) == ["arm"] and contract.schema_version == 2
    # Digests from before version 2: older policies and bags must still match.
    assert contract.hash == "7f3054a58b62fe05"
    new = parse_contract(contract.to_yaml(), contract.urdf_xml)
    assert new.model_dump() == contract.model_dump() and new.hash == contract.hash
    renamed = yaml.safe_load(contract.to_yaml())
    renamed["arms"] = {"left": renamed["arms"]["arm"]}
    assert parse_contract(yaml.safe_dump(renamed), contract.urdf_xml).hash == contract.hash


def test_version_1_with_arms_names_the_cure():
    data = pair_data() | {"schema_version": 1}
    with pytest.raises(ContractError, match="arms: belongs to schema_version 2"):
        parse(data)


# ---- hashes ----


def test_training_options_do_not_change_the_hash_of_recordings():
    for key, value in (("horizon", 50), ("step_s", 1 / 30)):
        other = parse(changed(["action", key], value))
        assert other.hash != pair().hash and other.robot_hash == pair().robot_hash
        assert pair().difference(other) and not pair().difference(other, action=False)
    assert pair("ee_delta").robot_hash == pair().robot_hash


def test_another_pose_of_the_second_arm_changes_the_hash():
    wider = pair(apart=0.5)
    assert wider.robot_hash != pair().robot_hash
    assert any("right" in line for line in pair().difference(wider))


def test_arms_in_another_order_do_not_fit():
    data = pair_data()
    data["arms"] = dict(reversed(data["arms"].items()))
    names = data["action"]["names"]
    data["action"]["names"] = [*names[len(names) // 2 :], *names[: len(names) // 2]]
    other = parse(data)
    assert other.robot_hash == pair().robot_hash
    assert not other.fits(pair(), action=False)
    assert other.difference(pair(), action=False)[0].startswith("joints: order right")


def test_limits_do_not_change_the_hash():
    tuned = parse(changed(["arms", "right", "joints", 0, "velocity"], 0.5))
    assert tuned.hash == pair().hash


def test_a_changed_copy_has_another_hash():
    contract = sim_arm()
    assert contract.hash
    copy = contract.model_copy(update={"tool_frame": "hand"})
    assert copy.arms["arm"].tool_frame == "hand" and copy.hash != contract.hash


# ---- grippers of several joints ----


def two_fingers(**changes):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    finger = {"joint": "right_finger_joint", "open": -0.035, "closed": 0.0}
    data["gripper"] |= {"fingers": [finger], **changes}
    return parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml, "arm.yaml")


def test_separately_commanded_fingers_are_one_column_and_several_joints():
    contract = two_fingers(binary=False)
    assert contract.command_joints[6:] == ["gripper", "right_finger_joint"]
    assert contract.gripper.to_joints(0.5) == pytest.approx([0.0175, -0.0175])
    assert contract.gripper.mean_opening([0.035, 0.0]) == pytest.approx(0.5)
    assert contract.columns.commands.indices(GRIPPER).tolist() == [6, 7]
    assert contract.columns.action.indices(GRIPPER).tolist() == [3]
    assert contract.hash != sim_arm().hash
    assert np.isclose(contract.joint_ages_s, contract.budgets.joint_state_age_s).all()


def with_gripper_command(command, **gripper):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["gripper"] |= gripper
    data["command"]["gripper"] = {"topic": "gripper_action", **command}
    return parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml, "arm.yaml")


@pytest.mark.parametrize("output", ["parallel_gripper", "gripper_command"])
def test_an_action_of_one_joint_cannot_command_two_fingers(output):
    fingers = [{"joint": "f2", "open": 0.1, "closed": 0.0}]
    with pytest.raises(
        ContractError, match=f"{output} commands one joint, and the gripper has gripper, f2"
    ):
        with_gripper_command({"output": output}, fingers=fingers)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ({"output": "parallel_gripper", "open": 0.08}, "takes the positions of the joint; remove"),
        ({"output": "forward_command", "closed": 0.0}, "takes the positions of the joint; remove"),
        ({"output": "forward_command", "replaces_goals": False}, "forward_command has no goals"),
        ({"output": "gripper_command", "open": 0.0}, "open and closed must differ"),
        ({"output": "gripper_command", "open": 1.0, "closed": 1.0}, "open and closed must differ"),
    ],
)
def test_keys_of_a_gripper_command_that_contradict_each_other_are_refused(command, sentence):
    with pytest.raises(ContractError, match=rf"command\.gripper.*{sentence}"):
        with_gripper_command(command)


def test_a_gripper_command_survives_the_way_through_a_file():
    command = {"output": "gripper_command", "open": 0.039, "replaces_goals": False}
    contract = with_gripper_command(command)
    again = parse_contract(contract.to_yaml(), contract.urdf_xml)
    assert again.command.gripper == contract.command.gripper
    # How commands reach the gripper does not change the data of a policy.
    assert again.hash == with_gripper_command({"output": "forward_command"}).hash


# ---- where the URDF comes from ----


def beside_a_contract(folder, urdf):
    path = folder / "arm.yaml"
    text = CONTRACT_PATH.read_text()
    path.write_text(text.replace("urdf: sim_arm.urdf", f"urdf: {urdf}"))
    return path


def test_a_urdf_of_a_package_is_found_and_embedded_by_its_file_name(tmp_path, monkeypatch):
    position = tmp_path / "prefix" / "share" / "my_arm" / "urdf"
    position.mkdir(parents=True)
    (position / "arm.urdf").write_text(sim_arm().urdf_xml)
    path = beside_a_contract(tmp_path, "package://my_arm/urdf/arm.urdf")
    with pytest.raises(ContractError, match="no package 'my_arm' on AMENT_PREFIX_PATH; source"):
        load_contract(path)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    contract = load_contract(path)
    assert contract.urdf == "arm.urdf" and contract.hash == sim_arm().hash
    assert contract.mesh_folders == [position]
    assert parse_contract(contract.to_yaml(), contract.urdf_xml).hash == contract.hash


def fake_xacro(folder, monkeypatch, script):
    program = folder / "bin" / "xacro"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_a_xacro_file_is_expanded_with_its_arguments(tmp_path, monkeypatch):
    (tmp_path / "arm.urdf.xacro").write_text(sim_arm().urdf_xml)
    path = beside_a_contract(tmp_path, "arm.urdf.xacro prefix:=left_")
    # Mock of xacro: only the call is tested, not the expansion.
    fake_xacro(tmp_path, monkeypatch, 'echo "$2" > "$(dirname "$1")/arguments"; cat "$1"')
    contract = load_contract(path)
    assert contract.urdf == "arm.urdf" and contract.hash == sim_arm().hash
    assert (tmp_path / "arguments").read_text() == "prefix:=left_\n"


def test_missing_or_failing_xacro_gives_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "arm.xacro").write_text("<robot/>")
    path = beside_a_contract(tmp_path, "arm.xacro")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ContractError, match="the program xacro is not installed; install ros-"):
        load_contract(path)
    fake_xacro(tmp_path, monkeypatch, 'echo "No such macro: leg" >&2; exit 2')
    with pytest.raises(ContractError, match=r"xacro failed \(No such macro: leg\)"):
        load_contract(path)
    program = tmp_path / "bin" / "xacro"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(urdf_source, "_XACRO_S", 0.2)
    with pytest.raises(ContractError, match=r"arm\.xacro: xacro did not end within 0\.2 s; run it"):
        load_contract(path)


# The output of xacro 2.1.1; test_xacro.py runs the program itself where it is installed.
XACRO_OUTPUT = {
    "unknown macro name: xacro:leg, when processing file: a.xacro": """\
error: \x1b[31munknown macro name: xacro:leg\x1b[0m
when processing file: a.xacro
""",
    "Undefined parameters [q], when instantiating macro: m (a.xacro), in file: a.xacro": """\
warning: deprecated
error: Undefined parameters [q]
when instantiating macro: m (a.xacro)
in file: a.xacro
in file: other.xacro
""",
    "XML parsing error: mismatched tag: line 1, column 77, when processing file: a.xacro": """\
XML parsing error: mismatched tag: line 1, column 77
when processing file: a.xacro

Check that:
 - Your XML is well-formed
""",
}


@pytest.mark.parametrize("reason", XACRO_OUTPUT)
def test_reason_of_xacro_is_quoted(tmp_path, monkeypatch, reason):
    (tmp_path / "arm.xacro").write_text("<robot/>")
    (tmp_path / "output").write_text(XACRO_OUTPUT[reason])
    fake_xacro(tmp_path, monkeypatch, f'cat "{tmp_path}/output" >&2; exit 2')
    with pytest.raises(ContractError) as refused:
        load_contract(beside_a_contract(tmp_path, "arm.xacro"))
    assert f"arm.xacro: xacro failed ({reason}); correct the file" in str(refused.value)


@pytest.mark.ros
def test_a_robot_description_is_read_from_its_topic(graph, tmp_path, monkeypatch):
    from std_msgs.msg import String

    from sf_policy_node.nodes.lifecycle import LATCHED

    path = beside_a_contract(tmp_path, "/cell/robot_description")
    monkeypatch.setattr(urdf_source, "_TOPIC_S", 0.2)
    with pytest.raises(ContractError, match="no robot description came within"):
        load_contract(path)
    monkeypatch.setattr(urdf_source, "_TOPIC_S", 10.0)
    publisher = graph.peer.create_publisher(String, "/cell/robot_description", LATCHED)
    publisher.publish(String(data=sim_arm().urdf_xml))
    contract = load_contract(path)
    assert contract.urdf == "robot_description.urdf" and contract.hash == sim_arm().hash


@pytest.mark.parametrize(
    ("urdf", "namespace", "expected"),
    [
        ("topic:robot_description", "/left", "/left/robot_description"),
        ("topic:robot_description", "left/arm", "/left/arm/robot_description"),
        ("topic:robot_description", "/", "robot_description"),
        ("topic:cell/robot_description", "/left", "/left/cell/robot_description"),
        ("topic:/robot_description", "/left", "/robot_description"),
        ("/robot_description", "/left", "/robot_description"),
    ],
)
def test_a_relative_topic_resolves_in_the_namespace(
    tmp_path, monkeypatch, urdf, namespace, expected
):
    from sf_policy_node.nodes import robot_description

    asked = []

    def receive(topic: str, timeout_s: float) -> str:
        asked.append(topic)
        return sim_arm().urdf_xml

    monkeypatch.setattr(robot_description, "receive", receive)
    contract = load_contract(beside_a_contract(tmp_path, urdf), namespace=namespace)
    assert asked == [expected]
    assert contract.urdf == "robot_description.urdf" and contract.hash == sim_arm().hash
    assert contract.description_topic == urdf.removeprefix("topic:")


@pytest.mark.parametrize("urdf", ["topic:", "topic:robot-description", "topic: 1st"])
def test_a_relative_topic_that_ros_refuses_is_named(tmp_path, urdf):
    with pytest.raises(ContractError, match="is not a topic name that ROS 2 allows"):
        load_contract(beside_a_contract(tmp_path, f"'{urdf}'"), namespace="/left")


@pytest.mark.ros
def test_a_description_of_another_namespace_is_not_taken(graph, tmp_path, monkeypatch):
    from std_msgs.msg import String

    from sf_policy_node.nodes.lifecycle import LATCHED

    path = beside_a_contract(tmp_path, "topic:robot_description")
    publisher = graph.peer.create_publisher(String, "/left/robot_description", LATCHED)
    publisher.publish(String(data=sim_arm().urdf_xml))
    monkeypatch.setattr(urdf_source, "_TOPIC_S", 10.0)
    assert load_contract(path, namespace="/left").hash == sim_arm().hash
    # Without a namespace of the caller that of the process counts.
    monkeypatch.setattr("sys.argv", ["node", "robot:=a", "--ros-args", "-r", "__ns:=/left"])
    assert load_contract(path).hash == sim_arm().hash
    monkeypatch.setattr("sys.argv", ["up", "robot:=a"])
    monkeypatch.setattr(urdf_source, "_TOPIC_S", 0.5)
    for namespace in ("/right", ""):
        with pytest.raises(ContractError, match="robot_description: no robot description came"):
            load_contract(path, namespace=namespace)
