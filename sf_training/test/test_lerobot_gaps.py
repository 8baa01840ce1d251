"""Tests of LeRobot export around gaps, takeovers and clock jumps."""

import json

import numpy as np
import pytest
from synthetic_episodes import (
    START,
    image,
    joints_at,
    open_writer,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_training.lerobot.command import main
from sf_training.lerobot.dataset_reader import DatasetReader
from sf_training.recording import messages
from sf_training.recording.topics import absolute


def test_short_gaps_are_filled_and_long_ones_split_the_episode(tmp_path, contract, capsys):
    with open_writer(tmp_path / "bags", contract) as writer:
        for frame in range(30):
            if frame not in (5, 6, 15, 16, 17, 18):
                write_cameras(writer, contract, frame, START + frame * 0.1, depth=False)
            for sample in range(5):
                at = START + frame * 0.1 + sample * 0.02
                for topic in (contract.topics.joint_states, contract.topics.teleop_command):
                    write_joints(writer, contract, topic, at, joints_at(at))
        writer.finish("success")
    assert main(["export", str(tmp_path / "bags"), "--out", str(tmp_path / "set")]) == 0
    assert "2 episodes of 1 bags, 26 frames at 10 Hz, 2 of them filled" in capsys.readouterr().out
    reader = DatasetReader(tmp_path / "set")
    first, second = reader.episode(0), reader.episode(1)
    assert len(first.state) == 15 and len(second.state) == 11
    np.testing.assert_array_equal(first.state[5], first.state[4])  # the last received image
    seen = [pixels.mean() for pixels in reader.images(0, "scene")]
    assert abs(seen[5] - seen[4]) < 2 < abs(seen[7] - seen[6])
    sources = json.loads((tmp_path / "set/meta/sf_ros/episodes.json").read_text())
    assert [entry["filled"] for entry in sources] == [2, 0] and len(sources[0]["sha256"]) == 64


def test_only_the_operators_frames_of_a_takeover_are_exported(tmp_path, contract):
    """The policy has control first; the operator's commands meanwhile are no demonstration."""
    store = messages.typestore()
    with open_writer(tmp_path / "bags", contract) as writer:
        for second, source in ((START, 1), (START + 1.0, 2)):
            header = store.types["std_msgs/msg/Header"](
                store.types["builtin_interfaces/msg/Time"](int(second), 0), ""
            )
            change = store.types[messages.CONTROL_SOURCE](header, source, "")
            data = store.serialize_cdr(change, messages.CONTROL_SOURCE)
            writer.write(
                absolute(contract.topics.control_source), data, messages.nanoseconds(second)
            )
        for frame in range(25):
            stamp = START + frame * 0.1
            write_cameras(writer, contract, frame, stamp, depth=False)
            for topic in (contract.topics.joint_states, contract.topics.teleop_command):
                write_joints(writer, contract, topic, stamp, joints_at(stamp))
        writer.finish("success")
    assert main(["export", str(tmp_path / "bags"), "--out", str(tmp_path / "set")]) == 0
    episode = DatasetReader(tmp_path / "set").episode(0)
    assert len(episode.state) == 14 and episode.stamps[0] == pytest.approx(START + 1.0)


def test_a_clock_jump_ends_an_episode(tmp_path, contract):
    with open_writer(tmp_path / "bags", contract) as writer:
        for frame in range(20):
            stamp = START + frame * 0.1 + (30.0 if frame >= 10 else 0.0)
            received = messages.nanoseconds(START + frame * 0.1)
            for index, camera in enumerate(contract.cameras):
                writer.write(
                    absolute(camera.topic),
                    messages.image(stamp, camera.frame, image(frame, index)),
                    received,
                )
            for topic in (contract.topics.joint_states, contract.topics.teleop_command):
                writer.write(
                    absolute(topic),
                    messages.joint_state(stamp, contract.command_joints, joints_at(START)),
                    received,
                )
        writer.finish("success")
    assert main(["export", str(tmp_path / "bags"), "--out", str(tmp_path / "set")]) == 0
    reader = DatasetReader(tmp_path / "set")
    assert reader.episodes == 2 and [len(reader.episode(number).state) for number in range(2)] == [
        9,
        8,
    ]  # the frame of the step is lost
    seen = [pixels.mean() for pixels in reader.images(1, "scene")]
    assert abs(seen[0] - image(11, 0).mean()) < 4


def test_actions_without_an_operator_are_the_measured_joints(tmp_path, contract, capsys):
    write_episode(tmp_path / "bags", contract, labels="none", frames=6)
    assert main(["export", str(tmp_path / "bags"), "--out", str(tmp_path / "set")]) == 2
    assert (
        "no message on /teleop/joint_command; export measured joints with --action measured"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.partial").exists()
    assert (
        main(
            [
                "export",
                str(tmp_path / "bags"),
                "--out",
                str(tmp_path / "set"),
                "--action",
                "measured",
            ]
        )
        == 0
    )
    episode = DatasetReader(tmp_path / "set").episode(0)
    np.testing.assert_allclose(episode.action[:-1], episode.state[1:], atol=1e-6)


def test_the_last_frame_before_a_gap_has_no_measured_action(tmp_path, contract):
    with open_writer(tmp_path / "bags", contract) as writer:
        for frame in range(30):
            stamp = START + frame * 0.1
            if not 10 <= frame < 20:
                write_cameras(writer, contract, frame, stamp)
            write_joints(
                writer, contract, contract.topics.joint_states, stamp, np.full(7, 0.01 * frame)
            )
        writer.finish("success")
    assert (
        main(
            [
                "export",
                str(tmp_path / "bags"),
                "--out",
                str(tmp_path / "set"),
                "--action",
                "measured",
            ]
        )
        == 0
    )
    reader = DatasetReader(tmp_path / "set")
    for number in range(reader.episodes):
        episode = reader.episode(number)
        assert np.abs(episode.action - episode.state).max() < 0.015
