"""RViz opens with the frames and the cameras of the robot that was started."""

import json
from pathlib import Path

import pytest
import yaml

from sf_bringup import graph, up
from sf_bringup.graph import GRAPHS, arm_graph, find_robot
from sf_bringup.rviz_config import rviz_config, write_rviz_config
from sf_policy_node.contract import load_contract
from sf_policy_node.nodes import robot_description

ROBOTS = sorted(path.stem for path in find_robot("sim_arm").parent.glob("*.yaml"))


@pytest.fixture(autouse=True)
def with_rviz(monkeypatch, tmp_path):
    """Let rviz2 be installed, and write configurations to a folder of the test."""
    program = tmp_path / "lib" / "rviz2" / "rviz2"
    program.parent.mkdir(parents=True)
    program.touch()
    found = up.get_package_prefix

    def prefix(package: str) -> str:
        return str(tmp_path) if package == "rviz2" else found(package)

    for module in (graph, up):
        monkeypatch.setattr(module, "get_package_prefix", prefix)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def displays(config: dict) -> dict[str, dict]:
    return {each["Name"]: each for each in config["Visualization Manager"]["Displays"]}


@pytest.mark.parametrize("robot", ROBOTS)
def test_frames_and_topics_are_those_of_the_contract(robot):
    contract = load_contract(find_robot(robot))
    config = yaml.safe_load(write_rviz_config(contract).read_text(encoding="utf-8"))
    assert config == rviz_config(contract)
    manager, shown = config["Visualization Manager"], displays(config)
    frames = {
        manager["Global Options"]["Fixed Frame"],
        manager["Views"]["Current"]["Target Frame"],
    }
    assert frames == {contract.base_frame}
    # Links of the URDF are frames without a prefix, whatever the namespace.
    assert contract.description().link_of(contract.base_frame)
    assert shown["Arm"]["TF Prefix"] == ""
    images = [each["Topic"]["Value"] for each in shown.values() if each["Class"].endswith("/Image")]
    assert images == [camera.topic for camera in contract.cameras]
    assert shown["Arm"]["Description Topic"]["Value"] == "robot_description"
    focus = manager["Views"]["Current"]["Focal Point"]
    for arm in contract.arms.values():
        if arm.base_frame == contract.base_frame and len(contract.arms) == 1:
            box = zip("XYZ", arm.workspace.lower, arm.workspace.upper, strict=True)
            assert all(low < focus[axis] < high for axis, low, high in box)


def test_a_camera_that_rviz_cannot_read_is_left_out():
    """RViz takes the transport from the end of the topic's name."""
    contract = load_contract(find_robot("sim_arm"))
    cameras = [
        contract.cameras[0].model_copy(update={"transport": "compressed", "topic": topic})
        for topic in ("scene/image_raw/compressed", "scene/jpeg")
    ]
    shown = displays(rviz_config(contract.model_copy(update={"cameras": cameras})))
    topics = [each["Topic"]["Value"] for each in shown.values() if each["Class"].endswith("/Image")]
    assert topics == ["scene/image_raw/compressed"]


def test_a_description_on_a_topic_is_read_in_the_namespace_and_shown(tmp_path, monkeypatch):
    shipped, asked = load_contract(find_robot("sim_arm")), []
    text = find_robot("sim_arm").read_text(encoding="utf-8")
    path = tmp_path / "arm.yaml"
    path.write_text(text.replace("urdf: sim_arm.urdf", "urdf: topic:arm/description"))

    def receive(topic: str, timeout_s: float) -> str:
        asked.append(topic)
        return shipped.urdf_xml

    monkeypatch.setattr(robot_description, "receive", receive)
    nodes = arm_graph(robot=str(path), policy="none", sim=True, rviz=True, namespace="left")
    assert set(asked) == {"/left/arm/description"}
    [rviz] = [each for each in nodes if each.name == "rviz"]
    config = yaml.safe_load(Path(rviz.arguments[1]).read_text(encoding="utf-8"))
    # Relative: RViz resolves it in the namespace, too.
    assert displays(config)["Arm"]["Description Topic"]["Value"] == "arm/description"


@pytest.mark.parametrize("journey", GRAPHS)
def test_every_journey_opens_the_configuration(journey):
    [rviz] = [
        each
        for each in GRAPHS[journey](robot="fr3", sim=True, rviz=True, namespace="left")
        if each.name == "rviz"
    ]
    words = up.command_line(rviz)
    assert words[1] == "-d" and words[3] == "--ros-args"
    assert "__ns:=/left" in words and "/tf:=tf" in words
    config = yaml.safe_load(Path(words[2]).read_text(encoding="utf-8"))
    assert config["Visualization Manager"]["Global Options"]["Fixed Frame"] == "fr3_link0"


@pytest.mark.parametrize("robot", ["sim_arm", "xarm7"])
def test_launch_files_get_the_same_file(robot, capsys):
    words = ["policy:=none", "sim:=true", f"robot:={robot}"]
    assert graph.main(["arm", *words, "rviz:=true"]) == 0
    given = json.loads(capsys.readouterr().out)["rviz_config"]
    [rviz] = [each for each in arm_graph(robot=robot, sim=True, rviz=True) if each.name == "rviz"]
    assert rviz.arguments == ("-d", given)
    assert graph.main(["arm", *words]) == 0
    assert json.loads(capsys.readouterr().out)["rviz_config"] == ""
