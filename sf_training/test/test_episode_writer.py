"""Tests of the bag writer: independent readers, and errors of the disk."""

import errno
import os
import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, make_reader
from mcap.writer import CompressionType, Writer
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from synthetic_episodes import (
    HEIGHT,
    START,
    WIDTH,
    image,
    open_writer,
    write_cameras,
    write_episode,
)

from sf_policy_node.contract import parse_contract
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.recording import messages
from sf_training.recording.writer.episode_writer import EpisodeWriteError, EpisodeWriter
from sf_training.recording.writer.mcap_file import McapFile


def test_rosbags_reads_the_bag(tmp_path, contract):
    bag = write_episode(tmp_path, contract, frames=3)
    with AnyReader([bag]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert (
            counts["/scene_camera/image_raw"] == 3
            and counts["/expert/action_chunk"] == 6
            and counts["/joint_states"] == 15
        )
        assert reader.start_time == messages.nanoseconds(START)
        images, chunks = [], []
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic == "/wrist_camera/image_raw":
                images.append(message.data.reshape(HEIGHT, WIDTH, 3))
            if connection.msgtype == messages.ACTION_CHUNK:
                chunks.append(message)
    np.testing.assert_array_equal(images, [image(frame, 1) for frame in range(3)])
    assert [chunk.instruction for chunk in chunks] == [
        "pick the red cube",
        "pick the green cube",
    ] * 3
    assert chunks[-1].rows == 8 and chunks[-1].data[0] == 12.0


def test_mcap_ros2_support_reads_the_file_and_its_checksums(tmp_path, contract):
    bag = write_episode(tmp_path, contract, frames=3)
    with (bag / "episode_0.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        decoded = [
            (channel.topic, message) for _, channel, _, message in reader.iter_decoded_messages()
        ]
        attachments = {entry.name: entry.data.decode() for entry in reader.iter_attachments()}
        records = {entry.name: entry.metadata for entry in reader.iter_metadata()}
        header = reader.get_header()
    assert header.profile == "ros2" and len(decoded) == len([topic for topic, _ in decoded])
    poses = [message for topic, message in decoded if topic == "/scene_camera/pose"]
    assert poses[2].pose.position.z == 2.0 and poses[2].header.frame_id == "base_link"
    assert (
        parse_contract(attachments["contract.yaml"], attachments["sim_arm.urdf"]).hash
        == contract.hash
    )
    assert (
        records["sf_episode"]["outcome"] == "success"
        and records["sf_episode"]["contract_hash"] == contract.hash
    )
    assert yaml.safe_load(records["rosbag2"]["serialized_metadata"])["message_count"] == len(
        decoded
    )


def test_metadata_describes_the_episode(tmp_path, contract):
    qos = "- {history: keep_last, depth: 5, reliability: best_effort, durability: volatile}"
    with open_writer(tmp_path, contract) as writer:
        writer.add_topic("/extra", messages.STRING, qos)
        writer.write("/extra", messages.string("hello"), 2_000_000_000)
        writer.write("/extra", messages.string("again"), 5_000_000_000)
        writer.set_instruction("pick the blue cube")
        bag = writer.finish("failure", note="dropped it", drops={"/extra": 3})
    information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["version"] == 9 and information["storage_identifier"] == "mcap"
    assert information["relative_file_paths"] == ["episode_0.mcap"]
    assert information["starting_time"]["nanoseconds_since_epoch"] == 2_000_000_000
    assert information["duration"]["nanoseconds"] == 3_000_000_000
    extra = next(
        entry
        for entry in information["topics_with_message_count"]
        if entry["topic_metadata"]["name"] == "/extra"
    )
    assert (
        extra["message_count"] == 2
        and extra["topic_metadata"]["offered_qos_profiles"][0]["reliability"] == "best_effort"
    )
    custom = information["custom_data"]
    assert (custom["outcome"], custom["note"], custom["instruction"], custom["operator"]) == (
        "failure", "dropped it", "pick the blue cube", "test",
    )  # fmt: skip
    assert yaml.safe_load(custom["drops"])["/extra"] == 3 and "mcap" in custom["software"]
    assert (
        subprocess.check_output(["sha256sum", bag / "episode_0.mcap"], text=True).split()[0]
        == custom["sha256"]
    )


def test_an_unfinished_episode_has_no_final_name(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        write_cameras(writer, contract, 0, START)
        assert [path.name for path in tmp_path.iterdir()] == ["episode.partial"]
        writer.finish("success")
    assert [path.name for path in tmp_path.iterdir()] == ["episode"]


def test_an_error_while_recording_leaves_nothing(tmp_path, contract):
    with (
        pytest.raises(RuntimeError, match="robot fell over"),
        open_writer(tmp_path, contract) as writer,
    ):
        write_cameras(writer, contract, 0, START)
        raise RuntimeError("robot fell over")
    assert not list(tmp_path.iterdir())


def test_calls_that_would_lose_data_are_refused(tmp_path, contract):
    write_episode(tmp_path, contract, frames=1)
    with pytest.raises(EpisodeWriteError, match="episode: already exists; choose another name"):
        open_writer(tmp_path, contract)
    with open_writer(tmp_path, contract, "second") as writer:
        with pytest.raises(EpisodeWriteError, match="another recorder writes it"):
            open_writer(tmp_path, contract, "second")
        with pytest.raises(EpisodeWriteError, match="/nowhere: is not declared"):
            writer.write("/nowhere", b"", 1)
        with pytest.raises(EpisodeWriteError, match="type made_up/msg/Thing is unknown"):
            writer.add_topic("/thing", "made_up/msg/Thing")
        with pytest.raises(EpisodeWriteError, match="already recorded as std_msgs/msg/String"):
            writer.add_topic("/instruction", messages.BOOL)
        with pytest.raises(ValueError, match="outcome: must be one of success, failure, discarded"):
            writer.finish("splendid")
        with pytest.raises(EpisodeWriteError, match="no message arrived"):
            writer.finish("success")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode"]


def test_a_full_disk_is_reported_before_recording(tmp_path, contract, monkeypatch):
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda _: SimpleNamespace(f_bavail=10, f_frsize=4096, f_blocks=1000, f_bfree=10),
    )
    with pytest.raises(
        EpisodeWriteError,
        match=r"only 0 MB are free, an episode needs at least 67 MB; free some disk space",
    ):
        open_writer(tmp_path, contract)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_gives_one_sentence_and_leaves_no_file(tmp_path, contract):
    """A limit on the file's size in a separate process acts like a full disk."""
    code = (
        f"import resource, signal, sys, numpy as np\nsys.path[:0] = {sys.path!r}\nfrom pathlib"
        " import Path\nfrom synthetic_episodes import *\n"
        "from sf_training.recording.writer.episode_writer"
        " import EpisodeWriteError\nsignal.signal(signal.SIGXFSZ,"
        " signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\nrng"
        " = np.random.default_rng(0)\ncontract = tiny_contract()\ntry:\n    with"
        f" open_writer(Path({str(tmp_path)!r}), contract) as writer:\n        for n in"
        " range(100):\n            noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)\n  "
        "          writer.write('/scene_camera/image_raw', messages.image(1.0 + n, 'c', noise),"
        " n)\nexcept EpisodeWriteError as error:\n    sys.exit(f'recorder: {error}')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        == f"recorder: {tmp_path}/episode: the disk is full, the episode was deleted; free some"
        " space and record it again"
    )
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_named(tmp_path, contract):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        EpisodeWriteError,
        match=r"file/episode: cannot be written \(File exists\); check the directory",
    ):
        open_writer(tmp_path / "file", contract)


def test_everything_before_the_last_chunk_survives_a_kill(tmp_path, contract):
    """Read the file on the disk in the middle of a recording."""
    with open_writer(tmp_path, contract) as writer:
        for frame in range(3):
            write_cameras(writer, contract, frame, START + frame)
        writer.flush()
        write_cameras(writer, contract, 3, START + 3)  # still in memory
        data = (tmp_path / "episode.partial" / "episode_0.mcap").read_bytes()
    seen = []
    with pytest.raises(EndOfFile):
        for _, channel, _ in NonSeekingReader(BytesIO(data)).iter_messages(log_time_order=False):
            seen.append(channel.topic)
    assert seen.count("/scene_camera/image_raw") == 3


def test_files_of_the_writer_equal_those_of_the_mcap_library(tmp_path):
    """Compare statistics, indexes and offsets of the summary with the library's writer."""
    ours = McapFile(tmp_path / "ours.mcap", "test")
    with (tmp_path / "theirs.mcap").open("wb") as file:
        theirs = Writer(file, compression=CompressionType.ZSTD)
        theirs.start(profile="ros2", library="test")
        schema = theirs.register_schema("a/msg/B", "ros2msg", b"int32 x")
        assert ours.add_schema("a/msg/B", "int32 x") == schema
        assert ours.add_channel("/b", schema, {"k": "v"}) == theirs.register_channel(
            "/b", "cdr", schema, {"k": "v"}
        )
        for time in range(5):
            ours.write(1, bytes([time] * 9), time * 10, time)
            theirs.add_message(1, time * 10, bytes([time] * 9), time, time)
        ours.add_metadata("m", {"a": "b"})
        theirs.add_metadata("m", {"a": "b"})
        ours.close()
        theirs.finish()
    summaries, messages_read = [], []
    for name in ("ours", "theirs"):
        with (tmp_path / f"{name}.mcap").open("rb") as file:
            reader = make_reader(file, validate_crcs=True)
            summaries.append(reader.get_summary())
            messages_read.append(
                [
                    (message.sequence, message.log_time, message.publish_time, message.data)
                    for _, _, message in reader.iter_messages()
                ]
            )
    assert messages_read[0] == messages_read[1]
    assert summaries[0].statistics == summaries[1].statistics
    assert (
        summaries[0].channels == summaries[1].channels
        and summaries[0].schemas == summaries[1].schemas
    )
    assert [entry.name for entry in summaries[0].metadata_indexes] == ["m"]
    assert len(summaries[0].chunk_indexes) == len(summaries[1].chunk_indexes) == 1


def test_default_names_do_not_collide(tmp_path, contract):
    names = set()
    for _ in range(5):
        with EpisodeWriter(tmp_path, contract, instruction="", operator="") as writer:
            names.add(writer.name)
    assert len(names) == 5 and all(name.startswith("sim_arm_") for name in names)


def test_other_disk_errors_are_told_apart(tmp_path, contract, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_writer(tmp_path, contract) as writer:
        monkeypatch.setattr(os, "fsync", broken)
        write_cameras(writer, contract, 0, START)
        with pytest.raises(EpisodeWriteError, match=r"cannot be written \(Input/output error\)"):
            writer.finish("success")
    assert not list(tmp_path.iterdir())
