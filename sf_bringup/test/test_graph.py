"""Tests of the graph as data: nodes, parameters, messages for unknown arguments."""

import importlib.util

import pytest

from sf_bringup.arguments import ARM_ARGUMENTS, GraphError, parse_arguments
from sf_bringup.graph import GRAPHS, arm_graph, find_policy, find_robot
from sf_bringup.up import command_line, main
from sf_policy_node.contract import load_contract


@pytest.fixture
def checkpoint(tmp_path):
    """Return a directory that looks like a checkpoint."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def named(nodes):
    return {node.name: node for node in nodes}


def test_without_a_policy_the_arm_and_the_executor_run():
    nodes = named(arm_graph(policy="none", seed=7))
    assert list(nodes) == ["sim_arm", "chunk_executor"]
    assert nodes["sim_arm"].parameters["seed"] == 7
    assert "use_sim_time" not in nodes["sim_arm"].parameters  # it publishes the clock
    assert nodes["chunk_executor"].parameters["use_sim_time"] is True


def test_all_arguments_reach_their_node(checkpoint, tmp_path):
    bags = str(tmp_path / "bags")
    arguments = {
        "instruction": "go",
        "seed": 3,
        "record": bags,
        "shadow": True,
        "real_time_factor": 0,
        "robot_state": "false",
        "markers": "false",
    }
    nodes = named(arm_graph(policy=str(checkpoint), **arguments))
    assert list(nodes) == ["sim_arm", "chunk_executor", "policy_node", "recorder"]
    assert nodes["policy_node"].parameters["instruction"] == "go"
    assert nodes["policy_node"].parameters["checkpoint"] == str(checkpoint)
    assert nodes["chunk_executor"].parameters["shadow"] is True
    assert nodes["chunk_executor"].parameters["join"] == "policy"
    assert (
        nodes["recorder"].parameters["directory"] == bags
        and nodes["recorder"].parameters["instruction"] == "go"
    )
    assert (
        nodes["sim_arm"].parameters["depth"] is True
        and nodes["sim_arm"].parameters["real_time_factor"] == 0.0
    )
    assert {node.parameters["contract"] for node in nodes.values()} == {str(find_robot("sim_arm"))}


def test_a_real_robot_has_no_simulated_arm_and_real_time(tmp_path):
    shipped = find_robot("sim_arm")
    contract = tmp_path / "my_arm.yaml"
    contract.write_text(shipped.read_text().replace("robot: sim_arm", "robot: my_arm"))
    (tmp_path / "sim_arm.urdf").write_text(shipped.with_name("sim_arm.urdf").read_text())
    nodes = named(arm_graph(robot=str(contract), policy="none"))
    assert list(nodes) == ["chunk_executor"]
    assert nodes["chunk_executor"].parameters["use_sim_time"] is False
    simulated = named(arm_graph(robot=str(contract), policy="none", sim=True))
    assert list(simulated) == ["sim_arm", "chunk_executor"]
    assert simulated["sim_arm"].parameters["contract"] == str(contract)
    assert simulated["chunk_executor"].parameters["use_sim_time"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"robot": "ur55"}, r"robot: 'ur55' is unknown; known are .*sim_arm"),
        ({"robot": "/nowhere/arm.yaml"}, "robot: /nowhere/arm.yaml does not exist"),
        ({"policy": "gpt"}, r"policy: 'gpt' is unknown; known are .*none"),
        ({"policy": "/nowhere/checkpoint"}, "policy: /nowhere/checkpoint does not exist"),
        ({"policy": "none", "instruction": "go"}, "policy:=none follows no instruction"),
        (
            {"policy": "none", "mapping": "m.yaml"},
            "mapping: m.yaml is for a policy server, and policy:=none is not one",
        ),
        ({"policy": "none", "seed": -1}, "seed: -1 is negative"),
        ({"policy": "none", "real_time_factor": -1.0}, "real_time_factor: -1.0 is negative"),
    ],
)
def test_bad_arguments_give_one_sentence(arguments, message):
    with pytest.raises(GraphError, match=message) as error:
        arm_graph(**arguments)
    assert "\n" not in str(error.value)


def test_a_server_replaces_a_checkpoint_with_its_mapping(tmp_path):
    for policy in ("openpi://gpu:8000", "oft://10.0.0.2"):
        (node,) = (
            node
            for node in arm_graph(policy=policy, mapping=str(tmp_path / "m.yaml"))
            if node.name == "policy_node"
        )
        assert (node.parameters["checkpoint"], node.parameters["mapping"]) == (
            policy,
            str(tmp_path / "m.yaml"),
        )


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(GraphError, match=r"has no config\.json"):
        find_policy(str(tmp_path))


def test_a_broken_contract_names_the_key(tmp_path):
    contract = tmp_path / "arm.yaml"
    contract.write_text(find_robot("sim_arm").read_text().replace("lower: -2.8, ", ""))
    with pytest.raises(GraphError, match="lower: is missing"):
        arm_graph(robot=str(contract), policy="none")


def test_a_copy_of_the_simulated_arm_with_its_name_is_refused(tmp_path, capsys):
    source = find_robot("sim_arm")
    contract = tmp_path / "left_arm.yaml"
    contract.write_text(source.read_text().replace("velocity: 2.0", "velocity: 0.4"))
    (tmp_path / "sim_arm.urdf").write_text(source.with_name("sim_arm.urdf").read_text())
    assert "sim_arm" in named(arm_graph(robot=str(contract), policy="none"))
    output = capsys.readouterr().err
    assert "left_arm.yaml has the name sim_arm, so the simulated arm is started" in output
    arm_graph(robot=str(contract), policy="none", sim=True)
    arm_graph(robot="sim_arm", policy="none")
    assert capsys.readouterr().err == ""


def test_arguments_become_values_of_the_declared_type():
    assert parse_arguments(["join:=Ensemble"])["join"] == "ensemble"
    values = parse_arguments(
        ["seed:=5", "shadow:=True", "instruction:=put a:=b down", "real_time_factor:=2"]
    )
    assert (
        values["seed"] == 5
        and values["shadow"] is True
        and values["instruction"] == "put a:=b down"
    )
    assert values["robot"] == "sim_arm" and values["real_time_factor"] == 2.0
    assert set(values) == {argument.name for argument in ARM_ARGUMENTS}


@pytest.mark.parametrize(
    "word", ["robots:=sim_arm", "robot=sim_arm", "seed:=soon", "shadow:=maybe"]
)
def test_bad_arguments_are_refused(word):
    with pytest.raises(GraphError, match=word.split(":=")[0]):
        parse_arguments([word])


def test_strings_remain_strings_on_command_lines(checkpoint):
    (policy,) = (
        node
        for node in arm_graph(policy=str(checkpoint), instruction="1")
        if node.name == "policy_node"
    )
    words = command_line(policy)
    assert (
        'instruction:="1"' in words
        and "use_sim_time:=true" in words
        and "__node:=policy_node" in words
    )


def test_up_prints_the_arguments_for_help_and_for_an_unknown_one(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(argument.name in text and argument.description in text for argument in ARM_ARGUMENTS)
    assert main(["robt:=sim_arm"]) == 2
    assert "'robt:=sim_arm' is not an argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", sorted(find_robot("sim_arm").parent.glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_contracts_have_relative_topics(path):
    """Two arms of one kind can then run in two namespaces with the same contract."""
    contract = load_contract(path)
    topics = [*contract.topics.model_dump().values(), *contract.command_groups]
    topics += [
        topic
        for camera in contract.cameras
        for topic in (camera.topic, camera.info_topic, camera.depth_topic)
        if topic
    ]
    assert not [topic for topic in topics if topic.startswith("/")]


def test_a_namespace_applies_to_clock_and_frames():
    nodes = arm_graph(policy="none", namespace="left", log_level="debug")
    for node in nodes:
        words = command_line(node)
        assert node.full_name == f"/left/{node.name}"
        assert (
            "__ns:=/left" in words
            and "/clock:=clock" in words
            and "/tf:=tf" in words
            and words[-2:] == ["--log-level", "debug"]
        )
    alone = command_line(arm_graph(policy="none")[0])
    assert not [word for word in alone if word.startswith(("__ns", "/clock", "/tf", "--log"))]


@pytest.mark.parametrize(
    ("variable", "given", "expected"),
    [
        ("left", "", "/left"),
        ("/left/arm/", "", "/left/arm"),
        ("left", "right", "/right"),
        ("left", "/", ""),
        ("/", "", ""),
        ("", "", ""),
    ],
)
def test_nodes_get_the_namespace_of_the_environment_explicitly(
    variable, given, expected, monkeypatch
):
    """ROS 2 does not read ROS_NAMESPACE: without `__ns` the nodes would be in the root."""
    monkeypatch.setenv("ROS_NAMESPACE", variable)
    for node in arm_graph(policy="none", namespace=given):
        words = command_line(node)
        assert [word for word in words if word.startswith("__ns:=")] == [
            f"__ns:={expected}" for _ in range(bool(expected))
        ]
        assert ("/clock:=clock" in words) is bool(expected)
        assert node.full_name == f"{expected}/{node.name}"


def test_a_namespace_of_the_environment_that_ros_refuses_is_named(monkeypatch):
    monkeypatch.setenv("ROS_NAMESPACE", "a-b")
    with pytest.raises(GraphError, match=r"ROS_NAMESPACE: 'a-b' is not a ROS namespace; unset it"):
        arm_graph(policy="none")
    arm_graph(policy="none", namespace="left")


@pytest.mark.parametrize("journey", GRAPHS)
def test_a_lifecycle_manager_can_take_over(journey):
    arguments = {"robot": "piper", "sim": True, "doctor": True}
    for node in GRAPHS[journey](**arguments, autostart=False):
        assert node.parameters.get("autostart") == (False if node.lifecycle else None), node.name
        assert ("autostart:=false" in command_line(node)) is node.lifecycle
    assert not [each for each in GRAPHS[journey](**arguments) if "autostart" in each.parameters]


def test_misspelt_arguments_give_the_correct_one():
    with pytest.raises(
        GraphError, match=r"'shaddow:=true' is not an argument \(did you mean shadow\?\)"
    ):
        parse_arguments(["shaddow:=true"])
    with pytest.raises(GraphError, match=r"namespace: 'a-b' is not a ROS namespace"):
        arm_graph(policy="none", namespace="a-b")
    with pytest.raises(GraphError, match=r"params_file: .*nowhere\.yaml does not exist"):
        arm_graph(policy="none", params_file="/nowhere.yaml")


def test_policy_arguments_reach_the_policy(checkpoint, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**: {ros__parameters: {}}")
    nodes = named(
        arm_graph(
            policy=str(checkpoint),
            device="cpu",
            replan_steps=5,
            params_file=str(file),
            use_sim_time="false",
        )
    )
    assert (
        nodes["policy_node"].parameters["device"] == "cpu"
        and nodes["policy_node"].parameters["replan_steps"] == 5
    )
    assert nodes["policy_node"].parameters["use_sim_time"] is False
    assert command_line(nodes["policy_node"])[-2:] == ["--params-file", str(file)]
    assert "replan_steps" not in named(arm_graph(policy=str(checkpoint)))["policy_node"].parameters


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("robot", "output"),
    [
        ("ur5e_robotiq", "parallel_gripper"),
        ("fr3", "gripper_command"),
        ("xarm7", "gripper_command"),
    ],
)
def test_a_gripper_action_is_simulated_without_control_msgs(
    robot, output, installed, monkeypatch, capsys
):
    found = importlib.util.find_spec("pytest") if installed else None  # any spec: "installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    path = named(arm_graph(robot=robot, policy="none", sim=True))["sim_arm"].parameters["contract"]
    real, simulated = load_contract(find_robot(robot)), load_contract(path)
    assert real.command.gripper.output == output
    assert simulated.command.gripper.output == (output if installed else "forward_command")
    assert simulated.hash == real.hash
    assert ("control_msgs" in capsys.readouterr().err) is not installed


def test_the_frames_of_the_simulated_arm_are_published_when_they_are_recorded_or_wanted(tmp_path):
    publishers = {"robot_state", "robot_state_publisher"}  # the second one if it is installed
    assert not publishers & set(named(arm_graph(policy="none")))
    (recorded,) = (
        node for node in arm_graph(policy="none", record=str(tmp_path)) if node.name in publishers
    )
    (wanted,) = (
        node for node in arm_graph(policy="none", robot_state="true") if node.name in publishers
    )
    assert recorded.parameters == wanted.parameters and not wanted.essential
    assert not publishers & set(
        named(arm_graph(policy="none", record=str(tmp_path), robot_state="false"))
    )


def test_markers_are_published_when_they_are_recorded_or_wanted(tmp_path):
    assert "markers" not in named(arm_graph(policy="none"))
    assert "markers" in named(arm_graph(policy="none", record=str(tmp_path)))
    assert "markers" not in named(arm_graph(policy="none", record=str(tmp_path), markers="false"))
    wanted = named(arm_graph(robot="mock", policy="none", markers="true"))["markers"]
    assert wanted.parameters["contract"] == str(find_robot("mock")) and not wanted.essential


def test_two_arms_are_simulated_with_a_controller_each():
    nodes = named(arm_graph(robot="piper_pair", policy="none", sim=True))
    contract = load_contract(nodes["chunk_executor"].parameters["contract"])
    assert [arm.command.topic for arm in contract.arms.values()] == [
        "left_arm_controller/joint_trajectory",
        "right_arm_controller/joint_trajectory",
    ]
