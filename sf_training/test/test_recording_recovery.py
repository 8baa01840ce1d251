"""Tests of recovering interrupted recordings, and of checksums of finished ones."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from synthetic_episodes import tiny_contract

from sf_policy_node.programs import command
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.recording import messages
from sf_training.recording.recover import recovery, verification
from sf_training.recording.recover.recovery import RecoveryError, main, recover_episode
from sf_training.recording.recover.verification import ChecksumError, verify_episode
from sf_training.recording.topics import Delivery
from sf_training.recording.writer.episode_writer import EpisodeWriteError, EpisodeWriter
from sf_training.recording.writer.mcap_scan import scan_mcap
from sf_training.recording.writer.qos_profiles import offered_qos

CHUNKS, EACH = 6, 5
rng = np.random.default_rng(0)


def write_messages(writer, begin=0, count=CHUNKS * EACH):
    """Write messages on two topics, one chunk for every EACH of them."""
    for number in range(begin, begin + count):
        writer.write(
            "/joint_states", messages.joint_state(number, ["a"], rng.normal(size=1)), number + 1
        )
        writer.write("/instruction", messages.string(f"say {number}"), number + 1)
        if number % EACH == EACH - 1:
            writer.flush()


def open_writer(folder, name="episode", **options):
    writer = EpisodeWriter(
        folder, tiny_contract(), instruction="pick", operator="anna", name=name, **options
    )
    writer.add_topic("/joint_states", messages.JOINT_STATE)
    writer.add_topic("/instruction", messages.STRING, offered_qos(Delivery.LATCHED))
    return writer


def numbers(bag):
    """Return the recorded texts of a finished bag, as any reader gets them."""
    with AnyReader([bag]) as reader:
        texts = [
            reader.deserialize(data, channel.msgtype).data
            for channel, _, data in reader.messages()
            if channel.topic == "/instruction"
        ]
        assert sum(channel.topic == "/joint_states" for channel, _, _ in reader.messages()) == len(
            texts
        )
    return [int(text.split()[1]) for text in texts]


def custom_data(bag):
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]


class Truncated(tuple):
    """A value that is not printed in full when a test fails."""

    def __repr__(self):
        return "the file and its chunks"


@pytest.fixture(scope="module")
def truncated(tmp_path_factory):
    """Return the bytes of a killed recorder's file, with the positions where its chunks end."""
    folder = tmp_path_factory.mktemp("truncated")
    writer = open_writer(folder)
    ends = [writer.size]
    for chunk in range(CHUNKS):
        write_messages(writer, chunk * EACH, EACH)
        ends.append(writer.size)
    data = (folder / "episode.partial" / "episode_0.mcap").read_bytes()
    writer.abort()
    return Truncated((data, ends))


def write_file(folder, data):
    partial = folder / "episode.partial"
    shutil.rmtree(folder / "episode", ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / "episode_0.mcap").write_bytes(data)
    return partial


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(share=st.floats(0, 1))
def test_all_complete_chunks_are_recovered_at_any_cut(truncated, tmp_path, share):
    data, ends = truncated
    begin = ends[0] - 200
    size = round(begin + share * (len(data) - begin))
    partial = write_file(tmp_path, data[:size])
    complete = sum(end <= size for end in ends[1:])
    if not sum(scan_mcap(partial / "episode_0.mcap").counts.values()):
        with pytest.raises(RecoveryError, match=r"nothing was recorded|no complete chunk"):
            recover_episode(partial)
        assert (partial / "episode_0.mcap").stat().st_size == size, "nothing was changed"
        return
    recovered = recover_episode(partial)
    recorded = numbers(recovered.path)
    # A chunk without its index is complete too.
    assert recorded in (list(range(complete * EACH)), list(range((complete + 1) * EACH)))
    assert recovered.messages == 2 * len(recorded) and not partial.exists()
    assert custom_data(recovered.path)["outcome"] == "discarded"
    verify_episode(recovered.path)


def test_attachments_and_metadata_are_recovered(truncated, tmp_path):
    recovered = recover_episode(write_file(tmp_path, truncated[0][:-7]))
    custom = custom_data(recovered.path)
    assert (custom["instruction"], custom["operator"], custom["verdict"]) == (
        "pick",
        "anna",
        "WARN",
    )
    assert custom["note"].startswith("unfinished") and "end is missing" in custom["reasons"]
    with AnyReader([recovered.path]) as reader:
        channel = next(
            connection for connection in reader.connections if connection.topic == "/instruction"
        )
        assert channel.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"


def test_trailing_zeros_of_a_power_cut_are_removed(truncated, tmp_path):
    data, ends = truncated
    partial = write_file(tmp_path, data[: ends[3]] + bytes(5000))
    recovered = recover_episode(partial)
    assert numbers(recovered.path) == list(range(3 * EACH)) and recovered.cut_bytes == 5000


def test_recovery_ends_at_a_damaged_chunk(truncated, tmp_path):
    data, ends = truncated
    damaged = bytearray(data)
    damaged[(ends[2] + ends[3]) // 2] ^= 0xFF
    recovered = recover_episode(write_file(tmp_path, bytes(damaged)))
    assert numbers(recovered.path) == list(range(2 * EACH))


@pytest.mark.parametrize("cut", [0, 1, 30, 300, 3000])
def test_an_ended_episode_keeps_its_outcome(tmp_path, cut):
    """The kill comes between the end and the final name, or while that is written."""
    with open_writer(tmp_path) as writer:
        write_messages(writer)
        bag = writer.finish("failure", note="dropped it")
    data = (bag / "episode_0.mcap").read_bytes()
    recovered = recover_episode(write_file(tmp_path, data[: len(data) - cut]))
    assert numbers(recovered.path) == list(range(CHUNKS * EACH))
    custom = custom_data(recovered.path)
    assert (custom["outcome"], custom["note"]) == ("failure", "dropped it") or cut == 3000


def test_the_file_of_a_running_recorder_is_not_touched(tmp_path):
    with open_writer(tmp_path) as writer:
        write_messages(writer)
        with pytest.raises(
            RecoveryError, match="a recorder is still writing it; stop that recorder first"
        ):
            recover_episode(tmp_path / "episode.partial")
        write_messages(writer, CHUNKS * EACH)
        assert numbers(writer.finish("success")) == list(range(2 * CHUNKS * EACH))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not an MCAP file"),
        (b"hello there", "is not an MCAP file"),
        (b"\x89MCAP0\r\n", "nothing was recorded"),
    ],
)
def test_a_file_that_is_no_recording_is_named(tmp_path, data, message):
    with pytest.raises(RecoveryError, match=message):
        recover_episode(write_file(tmp_path, data))
    assert (tmp_path / "episode.partial" / "episode_0.mcap").read_bytes() == data


def test_the_command_recovers_a_folder_and_counts_what_it_could_not(truncated, tmp_path, capsys):
    write_file(tmp_path, truncated[0])
    (tmp_path / "empty.partial").mkdir()
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert (
        f"episode: {2 * CHUNKS * EACH} messages" in output.out and "outcome discarded" in output.out
    )
    assert "empty.partial: holds 0 .mcap files" in output.err
    (tmp_path / "empty.partial").rmdir()
    assert main([str(tmp_path)]) == 2
    assert "no recording was interrupted there" in capsys.readouterr().err


def test_the_command_sets_the_given_outcome(truncated, tmp_path):
    partial = write_file(tmp_path, truncated[0])
    assert main([str(partial), "--outcome", "success"]) == 0
    assert custom_data(tmp_path / "episode")["outcome"] == "success"


def test_finished_episodes_are_read_only_and_every_changed_bit_is_detected(tmp_path):
    with open_writer(tmp_path) as writer:
        write_messages(writer)
        bag = writer.finish("success")
    file = bag / "episode_0.mcap"
    assert {path.stat().st_mode & 0o222 for path in bag.iterdir()} == {0}
    verify_episode(bag)
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        ChecksumError, match=r"episode_0.mcap: was changed after recording \(checksum differs\)"
    ):
        verify_episode(bag)
    file.unlink()
    with pytest.raises(ChecksumError, match="cannot be read"):
        verify_episode(bag)


def test_on_a_full_disk_written_messages_are_saved_if_requested(tmp_path):
    """A limit on the file's size in a separate process acts like a full disk."""
    code = (
        "import resource, signal, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from test_recording_recovery import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"writer = open_writer(Path({str(tmp_path)!r}), keep=True)\n"
        "limit = writer.size + 6000\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    write_messages(writer, count=1000)\n"
        "except EpisodeWriteError as error:\n"
        "    sys.exit(str(error))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    partial = tmp_path / "episode.partial"
    assert (
        result.stderr.strip()
        == f"{tmp_path}/episode: the disk is full, the messages written so far are in {partial};"
        f" free some space and then `{command('sf_training sf_training', 'sf_training')} recover"
        f" {partial}`"
    )
    recorded = numbers(recover_episode(partial).path)
    assert len(recorded) >= EACH and recorded == list(range(len(recorded)))


def test_two_recorders_with_the_same_name_get_different_files(tmp_path, monkeypatch):
    from sf_training.recording.writer import episode_writer

    class Stopped(episode_writer.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, tzinfo=tz)

    monkeypatch.setattr(episode_writer, "datetime", Stopped)
    with open_writer(tmp_path, None) as first, open_writer(tmp_path, None) as second:
        for writer in (first, second):
            write_messages(writer)
        paths = [writer.finish("success") for writer in (first, second)]
    assert len(set(paths)) == 2 and all(
        numbers(path) == list(range(CHUNKS * EACH)) for path in paths
    )
    with pytest.raises(EpisodeWriteError, match="already exists"):
        open_writer(tmp_path, paths[0].name)


def test_verify_counts_interrupted_but_not_running_recordings(tmp_path, capsys):
    with open_writer(tmp_path / "day", "whole") as writer:
        write_messages(writer)
        writer.finish("success")
    assert verification.main([str(tmp_path)]) == 0 and "1 of 1 episodes" in capsys.readouterr().out
    left = tmp_path / "day/torn.partial"
    left.mkdir()
    (left / "torn_0.mcap").write_bytes(b"half")
    assert verification.main([str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "1 of 1 episodes match their checksum; 1 unfinished" in output.out
    assert (
        "torn.partial: was never finished; recover with"
        f" `{command('sf_training sf_training', 'sf_training')} recover {left}`" in output.err
    )
    shutil.rmtree(left)
    with open_writer(tmp_path / "day", "now"):
        assert verification.main([str(tmp_path)]) == 0 and not recovery.find_interrupted(
            tmp_path / "day"
        )
