"""Tests of editing finished episodes: relabel, cut, join, with unchanged messages."""

import json

import foreign_recordings as foreign
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from synthetic_episodes import START, STEP, tiny_contract, write_episode

from sf_training.data.episode_reader import EpisodeReader
from sf_training.recording import messages
from sf_training.recording.edit import command as edit_command
from sf_training.recording.edit.editing import write
from sf_training.recording.edit.finished_episode import EditError, open_finished
from sf_training.recording.labels import LabelError, add_label, read_labels
from sf_training.recording.recover.verification import verify_episode
from sf_training.recording.topics import Delivery
from sf_training.recording.writer.episode_writer import EpisodeWriter
from sf_training.recording.writer.qos_profiles import offered_qos

FRAMES = 20
JOINTS, SAID, SOURCE = "/joint_states", "/instruction", "/control_source"


def record(
    folder, contract, name="take", begin=100.0, texts=((0.0, "stack"),), outcome="success", **finish
):
    """Record joint states at 10 Hz for two seconds, and instructions over time.

    A latched source and camera info come at the beginning.
    """
    with EpisodeWriter(
        folder, contract, instruction=texts[0][1], operator="anna", name=name
    ) as writer:
        writer.add_topic(SAID, messages.STRING, offered_qos(Delivery.LATCHED))
        writer.add_topic(JOINTS, messages.JOINT_STATE, offered_qos(Delivery.SENSOR))
        writer.add_topic("/scene_camera/camera_info", messages.CAMERA_INFO)
        writer.add_topic("/tf_static", messages.TF, offered_qos(Delivery.STATIC))
        for frame in range(2):  # two publishers
            writer.write(
                "/tf_static", b"\0\1\0\0" + bytes([frame]) * 4, messages.nanoseconds(begin)
            )
        info = messages.camera_info(begin, "c", 32, 24, np.eye(3))
        writer.write("/scene_camera/camera_info", info, messages.nanoseconds(begin))
        for frame in range(FRAMES):
            now = begin + 0.1 * frame
            for at, text in texts:
                if round(at * 10) == frame:
                    writer.write(SAID, messages.string(text), messages.nanoseconds(now))
            writer.write(
                JOINTS,
                messages.joint_state(now, contract.command_joints, [float(frame)] * 7),
                messages.nanoseconds(now),
            )
        return writer.finish(outcome, **finish)


def read(bag):
    """Return by topic the seconds from the first message and the messages, in recorded order."""
    found = {}
    with AnyReader([bag]) as reader:
        begin = reader.start_time
        for connection, time, data in reader.messages():
            found.setdefault(connection.topic, []).append(
                (round((time - begin) * 1e-9, 6), bytes(data))
            )
    return found


def joints(bag):
    return [
        messages.deserialize(data, messages.JOINT_STATE).position[0]
        for _, data in read(bag)[JOINTS]
    ]


def instructions_of(bag):
    return [
        (time, messages.deserialize(data, messages.STRING).data)
        for time, data in read(bag).get(SAID, [])
    ]


def custom(bag):
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]


@pytest.fixture
def take(tmp_path, contract):
    bag = record(
        tmp_path / "day",
        contract,
        texts=((0.0, "stack"), (0.8, "rinse"), (1.4, "dry")),
        verdict="WARN",
        reasons=["slow"],
    )
    before = {path.name: path.read_bytes() for path in bag.iterdir()}
    yield bag
    assert {
        path.name: path.read_bytes() for path in bag.iterdir() if path.name != "labels.json"
    } == before, "the original was touched"


def test_a_cut_keeps_latched_messages_from_before_it(take, tmp_path, capsys):
    assert (
        edit_command.trim(
            [str(take), "--begin", "1.0", "--end", "1.55", "--out", str(tmp_path / "out")]
        )
        == 0
    )
    bag = tmp_path / "out/take_trimmed"
    assert str(bag) in capsys.readouterr().out
    verify_episode(bag)
    assert joints(bag) == list(range(10, 16))
    assert instructions_of(bag) == [(0.0, "rinse"), (0.4, "dry")]
    kept = read(bag)
    assert len(kept["/scene_camera/camera_info"]) == 1 and [
        data[4] for _, data in kept["/tf_static"]
    ] == [0, 1]
    custom_data = custom(bag)
    assert (
        custom_data["instruction"],
        custom_data["operator"],
        custom_data["outcome"],
        custom_data["verdict"],
    ) == (
        "rinse",
        "anna",
        "success",
        "WARN",
    )
    assert json.loads(custom_data["edited_from"]) == [
        {"episode": "take", "from_s": 1.0, "to_s": 1.55}
    ]
    assert json.loads(custom_data["reasons"]) == ["slow"]


def test_cuts_contain_every_message_once_and_merge_back(take, tmp_path):
    out = tmp_path / "out"
    assert edit_command.split([str(take), "--at", "0.45", "1.3", "--out", str(out)]) == 0
    parts = [out / f"take_part{number}" for number in (1, 2, 3)]
    assert [joints(part) for part in parts] == [
        list(range(5)),
        list(range(5, 13)),
        list(range(13, 20)),
    ]
    assert [custom(part)["instruction"] for part in parts] == ["stack", "stack", "rinse"]
    assert (
        edit_command.merge([*map(str, reversed(parts)), "--name", "whole", "--out", str(out)]) == 0
    )
    assert joints(out / "whole") == list(range(FRAMES)) and instructions_of(
        out / "whole"
    ) == instructions_of(take)


def test_cuts_inherit_labels(take, tmp_path):
    add_label(take, outcome="failure", segments=[(0.0, "open"), (1.0, "close")])
    assert edit_command.trim([str(take), "--begin", "0.5", "--name", "tail"]) == 0
    bag = take.with_name("tail")
    assert (
        instructions_of(bag) == [(0.0, "open"), (0.5, "close")]
        and custom(bag)["outcome"] == "failure"
    )


def test_a_cut_is_usable_for_training(tmp_path, contract):
    bag = write_episode(tmp_path, contract, frames=12, labels="operator")
    assert edit_command.trim([str(bag), "--begin", "0.35", "--name", "tail"]) == 0
    before, after = EpisodeReader(bag, contract), EpisodeReader(tmp_path / "tail", contract)
    from sf_training.data.episode_arrays import load_episode

    full, tail = (load_episode(reader, 24, depth=False) for reader in (before, after))
    np.testing.assert_allclose(tail.stamps, START + STEP * np.arange(4, 12))
    np.testing.assert_array_equal(tail.images, full.images[4:])
    np.testing.assert_array_equal(tail.intrinsics[0], full.intrinsics[0])
    np.testing.assert_allclose(tail.pairs.targets[:3], full.pairs.targets[4:7])


def test_episodes_are_relabelled_without_a_recorder(take, tmp_path, contract, capsys):
    other = record(tmp_path / "day", contract, "other", begin=300.0)
    assert (
        edit_command.relabel(
            [
                str(tmp_path / "day"),
                "--outcome",
                "failure",
                "--note",
                "slipped",
                "--operator",
                "ben",
            ]
        )
        == 0
    )
    assert {read_labels(bag).outcome for bag in (take, other)} == {"failure"} and read_labels(
        other
    ).operator == "ben"
    assert edit_command.relabel([str(other), "--at", "0", "open the lid", "1.2", "close it"]) == 0
    assert (
        read_labels(other).segments == ((0.0, "open the lid"), (1.2, "close it"))
        and read_labels(other).outcome == "failure"
    )
    assert read_labels(other).instruction == "open the lid"
    assert (
        edit_command.relabel([str(other), "--instruction", "tidy up"]) == 0
        and read_labels(other).segments == ()
    )
    assert edit_command.relabel([str(other), "--undo"]) == 0 and read_labels(other).segments[1] == (
        1.2,
        "close it",
    )
    capsys.readouterr()
    for words, sentence in (
        (["--at", "0", "a", "9", "b"], "lasts 1.90 s, but a segment begins at 9 s"),
        (["--at", "0.5", "a"], "begin the first at 0"),
        (["--at", "0", "a", "--instruction", "b"], "an instruction and segments"),
        (["--undo", "--note", "b"], "--undo only removes a label"),
        ([], "the label is empty"),
    ):
        assert edit_command.relabel([str(other), *words]) == 1
        assert sentence in capsys.readouterr().err
    assert edit_command.relabel([str(tmp_path / "nowhere"), "--outcome", "success"]) == 1


def test_a_bag_of_another_recorder_gets_instructions_in_time(tmp_path, capsys):
    """Only cutting it is refused."""
    bag = foreign.write_bag(tmp_path / "theirs", foreign.recording(1.0))
    assert edit_command.relabel([str(bag), "--at", "0", "open the lid", "0.5", "close it"]) == 0
    data = foreign.loaded([bag], foreign.contract())
    assert list(data.instructions) == ["open the lid", "close it"]
    assert len(set(data.pair_instruction.tolist())) == 2
    capsys.readouterr()
    assert edit_command.relabel([str(bag), "--at", "0", "a", "3", "b"]) == 1
    assert "lasts 0.98 s, but a segment begins at 3 s" in capsys.readouterr().err
    assert edit_command.trim([str(bag), "--begin", "0.2"]) == 1
    text = capsys.readouterr().err
    assert "was not recorded by sf_training, only its own" in text and len(text.splitlines()) == 1
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    assert edit_command.relabel([str(bag), "--at", "0", "a"]) == 1
    assert "names no duration" in capsys.readouterr().err


def test_impossible_edits_give_one_sentence(take, tmp_path, contract, capsys):
    day = tmp_path / "day"
    late = record(day, contract, "late", begin=101.0)
    failed = record(day, contract, "failed", begin=200.0, outcome="failure")
    other = record(day, tiny_contract(robot="other_arm"), "other", begin=300.0)
    (day / "cut.partial").mkdir()

    def refused(verb, *words):
        assert verb(list(map(str, words))) == 1
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1
        return text

    assert "lasts 1.90 s, so it has no 1 to 5 s" in refused(
        edit_command.trim, take, "--begin", 1, "--end", 5
    )
    assert "shorter than 0.1 s" in refused(edit_command.trim, take, "--begin", 1, "--end", 1.05)
    assert "not strictly increasing" in refused(edit_command.split, take, "--at", 1.0, 0.5)
    assert "take: already exists" in refused(edit_command.trim, take, "--name", "take")
    assert "give two or more" in refused(edit_command.merge, take)
    assert "begins before" in refused(edit_command.merge, take, late)
    assert "choose one with --outcome" in refused(edit_command.merge, take, failed)
    assert "another contract" in refused(edit_command.merge, take, other)
    assert "recover it first" in refused(edit_command.trim, day / "cut.partial")
    assert "is not a finished episode" in refused(edit_command.trim, day)
    file = late / "late_0.mcap"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-30])
    assert "was changed after recording" in refused(edit_command.trim, late)
    with pytest.raises(EditError, match="outcomes differ"):
        write([*map(full, (take, failed))], day, "x")
    with pytest.raises(LabelError, match="increasing order"):
        add_label(take, segments=[(0.0, "a"), (1.0, "b"), (1.0, "c")])


def full(path):
    from sf_training.recording.edit.editing import window

    return window(open_finished(path), 0.0, None)
