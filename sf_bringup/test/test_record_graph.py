"""Tests of the record journey as data: nodes, parameters, messages for unknown arguments."""

import pytest

from sf_bringup.arguments import RECORD_ARGUMENTS, GraphError, parse_arguments
from sf_bringup.graph import find_device, record_graph
from sf_bringup.record import main
from sf_bringup.up import command_line


def named(nodes):
    return {node.name: node for node in nodes}


def test_every_argument_reaches_its_node(tmp_path):
    words = [
        f"directory:={tmp_path}",
        "task:=pick the red cube",
        "operator:=anna",
        "image_codec:=h264",
        "teleop:=gamepad",
        "gamepad:=true",
        "countdown:=5",
        "seed:=4",
    ]
    nodes = named(
        record_graph(
            **parse_arguments([*words, "robot_state:=false", "markers:=false"], RECORD_ARGUMENTS)
        )
    )
    assert list(nodes) == ["sim_arm", "chunk_executor", "recorder", "teleoperation", "recorder_joy"]
    recorder = nodes["recorder"].parameters
    assert (recorder["instruction"], recorder["operator"], recorder["directory"]) == (
        "pick the red cube",
        "anna",
        str(tmp_path),
    )
    assert recorder["image_codec"] == "h264"
    assert nodes["sim_arm"].parameters["depth"] is True and nodes["sim_arm"].parameters["seed"] == 4
    assert nodes["teleoperation"].parameters["device"] == str(find_device("gamepad"))
    assert nodes["recorder_joy"].parameters["countdown_s"] == 5.0
    assert {node.parameters["use_sim_time"] for node in nodes.values() if node.lifecycle} == {True}
    assert all(command_line(node) for node in nodes.values())


def test_one_button_never_has_two_functions(tmp_path):
    device = tmp_path / "mine.yaml"
    device.write_text(
        find_device("gamepad").read_text().replace("slow_button: 8", "slow_button: 12")
    )
    with pytest.raises(
        GraphError,
        match=(
            r"gamepad: button 12 is failure for the recorder and motion\.slow_button in mine\.yaml"
        ),
    ):
        record_graph(teleop=str(device), gamepad=True)
    record_graph(teleop=str(device))
    record_graph(teleop="spacemouse", gamepad=True)  # its buttons come from another topic


def test_by_default_there_is_an_arm_and_a_recorder_and_no_policy():
    assert list(named(record_graph(robot_state="false", markers="false"))) == [
        "sim_arm",
        "chunk_executor",
        "recorder",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["teleop:=joystick"], "teleop: 'joystick' is unknown; known are .*gamepad"),
        (["countdown:=-1"], "countdown: -1 is not between 0 and 60"),
        (["countdown:=soon"], "countdown: 'soon' is not a number"),
        (["directory:="], "directory: is empty"),
        (["robot:=ur55"], "robot: 'ur55' is unknown"),
        (
            ["instruction:=go"],
            "'instruction:=go' is not an argument; write name:=value with one of robot, task",
        ),
    ],
)
def test_unusable_arguments_are_named(words, message, capsys):
    with pytest.raises(GraphError, match=message):
        record_graph(**parse_arguments(words, RECORD_ARGUMENTS))
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("record: ")


def test_help_names_all_arguments(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert (
        all(f"  {argument.name}" in text for argument in RECORD_ARGUMENTS)
        and "python3 -m sf_bringup.record" in text
    )
