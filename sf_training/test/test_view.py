"""Tests of `view`: page, film and Foxglove layout of an episode."""

import base64
import json
import re
from pathlib import Path

import av
import numpy as np
from synthetic_episodes import (
    SIM_ARM,
    START,
    image,
    open_writer,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_policy_node.contract import load_contract
from sf_training.data.episode_reader import EpisodeReader
from sf_training.recording import messages
from sf_training.recording.topics import absolute, context_topics, episode_topics
from sf_training.view.command import main
from sf_training.view.drawing import LEFT, RIGHT
from sf_training.view.episode import load

SHIPPED = Path(__file__).resolve().parents[2] / "sf_bringup/config/foxglove/sim_arm.json"


def frames_of(path):
    with av.open(str(path)) as film:
        return film.streams.video[0].average_rate, [
            frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)
        ]


def test_the_page_is_self_contained(tmp_path, contract, capsys):
    bag = write_episode(
        tmp_path, contract, frames=8, labels="operator", instruction='pick <the> "red" cube'
    )
    assert main([str(bag), "--out", str(tmp_path / "page.html"), "--width", "320"]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    html = (tmp_path / "page.html").read_text()
    assert "pick &lt;the&gt; &quot;red&quot; cube" in html and "<the>" not in html
    assert not re.search(r"(src|href)=.?http", html)
    for joint in contract.command_joints:
        assert joint in html
    film = tmp_path / "inside.mp4"
    film.write_bytes(base64.b64decode(re.search(r"data:video/mp4;base64,([^\"]+)", html)[1]))
    rate, frames = frames_of(film)
    assert rate == 10 and len(frames) == 8
    # Left half: the scene camera; right half: the wrist camera; frame by frame.
    for number, pixels in enumerate(frames):
        for camera, half in enumerate((pixels[60:, :150], pixels[60:, 170:])):
            assert abs(half.mean() - image(number, camera).mean()) < 6


def test_the_film_has_cameras_curves_and_a_moving_cursor(tmp_path, contract):
    bag = write_episode(tmp_path, contract, frames=8, labels="operator")
    assert main([str(bag), "--out", str(tmp_path / "film.mp4"), "--width", "320"]) == 0
    rate, frames = frames_of(tmp_path / "film.mp4")
    assert rate == 10 and len(frames) == 8 and frames[0].shape[1] == 320
    columns = []
    for pixels in (frames[0], frames[-1]):
        curves = pixels[160:].astype(int)
        columns.append(int(np.argmax((curves[..., 0] - curves[..., 1]).clip(0).sum(axis=0))))
    assert abs(columns[0] - LEFT * 320) < 4 and abs(columns[1] - RIGHT * 320) < 4


def test_cameras_of_different_rates_with_gaps_are_shown(tmp_path, contract):
    """The film has the rate of the faster camera; the slower one shows its newest image."""
    with open_writer(tmp_path, contract) as writer:
        for frame in range(12):
            stamp = START + frame * 0.1
            scene, wrist = contract.cameras
            for index, camera in ((0, scene), (1, wrist)):
                if index == 0 or frame % 3 == 0:
                    writer.write(
                        absolute(camera.topic),
                        messages.image(stamp, camera.frame, image(frame, index)),
                        messages.nanoseconds(stamp),
                    )
            write_joints(writer, contract, contract.topics.joint_states, stamp, np.zeros(7))
        bag = writer.finish("success")
    episode = load(EpisodeReader(bag))
    assert episode.fps == 10 and episode.indices[:, 0].tolist() == list(range(12))
    assert episode.indices[:, 1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_events_and_control_sources_are_shown(tmp_path, contract):
    store = messages.typestore()
    control = store.types[messages.CONTROL_SOURCE]
    header = store.types["std_msgs/msg/Header"]
    time = store.types["builtin_interfaces/msg/Time"]
    with open_writer(tmp_path, contract) as writer:
        for frame in range(20):
            stamp = START + frame * 0.1
            write_cameras(writer, contract, frame, stamp, depth=False)
            joints = np.zeros(7)
            joints[6] = 0.035 if frame < 10 else 0.0
            write_joints(writer, contract, contract.topics.joint_states, stamp, joints)
        for second, source in ((1.0, 1), (2.0, 2)):
            message = control(header(time(int(second), 0), ""), source, "")
            data = store.serialize_cdr(message, messages.CONTROL_SOURCE)
            writer.write(
                absolute(contract.topics.control_source), data, messages.nanoseconds(second)
            )
        bag = writer.finish("success")
    episode = load(EpisodeReader(bag))
    assert [(round(begin, 3), round(end, 3), who) for begin, end, who in episode.control] == [
        (0.0, 1.0, "policy"),
        (1.0, 1.9, "teleoperation"),
    ]
    assert ("gripper closes", 1.0) in [(event.text, round(event.at, 2)) for event in episode.events]


def test_the_foxglove_layout_shows_the_recorded_topics(tmp_path, contract):
    robot = tmp_path / "robot.yaml"
    robot.write_text(contract.to_yaml())
    (tmp_path / contract.urdf).write_text(contract.urdf_xml)
    assert main([str(robot), "--out", str(tmp_path / "layout.json")]) == 0
    layout = json.loads((tmp_path / "layout.json").read_text())
    panels = layout["configById"]

    def placed(node):
        return [node] if isinstance(node, str) else placed(node["first"]) + placed(node["second"])

    assert sorted(placed(layout["layout"])) == sorted(
        panels
    )  # every panel once, none without settings
    recorded = [*episode_topics(contract), *context_topics(contract)]
    known = {topic.name for topic in recorded} | {"/recorder/status"}
    shown = set(re.findall(r"/[A-Za-z0-9_/]+", json.dumps(panels)))
    assert shown <= known
    assert {absolute(camera.topic) for camera in contract.cameras} <= shown
    assert {"/robot_description", "/markers"} <= set(panels["3D!arm"]["topics"])
    joints = [
        path for path in panels["Plot!joints"]["paths"] if path["value"].startswith("/joint_states")
    ]
    assert [path["label"] for path in joints] == contract.command_joints


def test_the_shipped_layout_matches_the_simulated_arm():
    from sf_training.view.foxglove import layout

    again = f"write it anew: sf_training view {SIM_ARM.name} --out {SHIPPED.name}"
    assert json.loads(SHIPPED.read_text()) == layout(load_contract(SIM_ARM)), again


def test_bad_input_gives_one_sentence(tmp_path, contract, capsys):
    bag = write_episode(tmp_path, contract, frames=3)
    assert main([str(bag), "--out", str(tmp_path / "page.gif")]) == 2
    assert "its name must end in .html or .mp4" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist; check the path" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(bag), "--out", str(tmp_path / "file/page.html")]) == 2
    assert "choose another --out" in capsys.readouterr().err
