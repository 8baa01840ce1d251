"""Recordings that were cut off become episodes; finished ones never change unseen."""

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
    """Messages on two topics, a chunk for every EACH of them."""
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
    """What was said, from a finished bag, as any reader sees it."""
    with AnyReader([bag]) as reader:
        said = [
            reader.deserialize(data, c.msgtype).data
            for c, _, data in reader.messages()
            if c.topic == "/instruction"
        ]
        assert sum(c.topic == "/joint_states" for c, _, _ in reader.messages()) == len(said)
    return [int(text.split()[1]) for text in said]


def custom_data(bag):
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]


class CutOff(tuple):
    """Not printed in full when a test fails."""

    def __repr__(self):
        return "the file and its chunks"


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """Bytes of the file of a recorder that was killed, with places where its chunks end."""
    folder = tmp_path_factory.mktemp("cut_off")
    writer = open_writer(folder)
    ends = [writer.size]
    for chunk in range(CHUNKS):
        write_messages(writer, chunk * EACH, EACH)
        ends.append(writer.size)
    data = (folder / "episode.partial" / "episode_0.mcap").read_bytes()
    writer.abort()
    return CutOff((data, ends))


def lay_down(folder, data):
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
def test_wherever_it_was_cut_all_whole_chunks_are_recovered(cut_off, tmp_path, share):
    data, ends = cut_off
    begin = ends[0] - 200
    size = round(begin + share * (len(data) - begin))
    partial = lay_down(tmp_path, data[:size])
    whole = sum(end <= size for end in ends[1:])
    if not sum(scan_mcap(partial / "episode_0.mcap").counts.values()):
        with pytest.raises(RecoveryError, match=r"nothing was recorded|no complete chunk"):
            recover_episode(partial)
        assert (partial / "episode_0.mcap").stat().st_size == size, "nothing was changed"
        return
    recovered = recover_episode(partial)
    said = numbers(recovered.path)
    # A chunk whose index alone is cut off is whole too.
    assert said in (list(range(whole * EACH)), list(range((whole + 1) * EACH)))
    assert recovered.messages == 2 * len(said) and not partial.exists()
    assert custom_data(recovered.path)["outcome"] == "discarded"
    verify_episode(recovered.path)


def test_what_was_recorded_beside_the_messages_is_kept(cut_off, tmp_path):
    recovered = recover_episode(lay_down(tmp_path, cut_off[0][:-7]))
    custom = custom_data(recovered.path)
    assert (custom["instruction"], custom["operator"], custom["verdict"]) == (
        "pick",
        "anna",
        "WARN",
    )
    assert custom["note"].startswith("unfinished") and "end is missing" in custom["reasons"]
    with AnyReader([recovered.path]) as reader:
        said = next(
            connection for connection in reader.connections if connection.topic == "/instruction"
        )
        assert said.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"


def test_zeros_behind_a_power_cut_are_cut_away(cut_off, tmp_path):
    data, ends = cut_off
    partial = lay_down(tmp_path, data[: ends[3]] + bytes(5000))
    recovered = recover_episode(partial)
    assert numbers(recovered.path) == list(range(3 * EACH)) and recovered.cut_bytes == 5000


def test_a_damaged_chunk_ends_what_is_recovered(cut_off, tmp_path):
    data, ends = cut_off
    damaged = bytearray(data)
    damaged[(ends[2] + ends[3]) // 2] ^= 0xFF
    recovered = recover_episode(lay_down(tmp_path, bytes(damaged)))
    assert numbers(recovered.path) == list(range(2 * EACH))


@pytest.mark.parametrize("cut", [0, 1, 30, 300, 3000])
def test_an_episode_that_was_ended_keeps_its_outcome(tmp_path, cut):
    """Killed between the end and the new name, or while that was written."""
    with open_writer(tmp_path) as writer:
        write_messages(writer)
        bag = writer.finish("failure", note="dropped it")
    data = (bag / "episode_0.mcap").read_bytes()
    recovered = recover_episode(lay_down(tmp_path, data[: len(data) - cut]))
    assert numbers(recovered.path) == list(range(CHUNKS * EACH))
    custom = custom_data(recovered.path)
    assert (custom["outcome"], custom["note"]) == ("failure", "dropped it") or cut == 3000


def test_a_recorder_that_lives_is_left_alone(tmp_path):
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
def test_what_is_no_recording_says_so(tmp_path, data, message):
    with pytest.raises(RecoveryError, match=message):
        recover_episode(lay_down(tmp_path, data))
    assert (tmp_path / "episode.partial" / "episode_0.mcap").read_bytes() == data


def test_the_command_recovers_a_folder_and_counts_what_it_could_not(cut_off, tmp_path, capsys):
    lay_down(tmp_path, cut_off[0])
    (tmp_path / "empty.partial").mkdir()
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"episode: {2 * CHUNKS * EACH} messages" in said.out and "outcome discarded" in said.out
    assert "empty.partial: holds 0 .mcap files" in said.err
    (tmp_path / "empty.partial").rmdir()
    assert main([str(tmp_path)]) == 2
    assert "no recording was interrupted there" in capsys.readouterr().err


def test_the_command_gives_the_outcome_it_is_told(cut_off, tmp_path):
    partial = lay_down(tmp_path, cut_off[0])
    assert main([str(partial), "--outcome", "success"]) == 0
    assert custom_data(tmp_path / "episode")["outcome"] == "success"


def test_finished_episodes_are_read_only_and_every_changed_bit_is_found(tmp_path):
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


def test_a_full_disk_keeps_what_was_written_where_that_is_wanted(tmp_path):
    """A real limit on the file's size in a process of its own: the kernel refuses the write as a
    full disk does.
    """
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
        f" free some space and then `sf_training recover {partial}`"
    )
    said = numbers(recover_episode(partial).path)
    assert len(said) >= EACH and said == list(range(len(said)))


def test_recorders_that_want_the_same_name_both_get_one(tmp_path, monkeypatch):
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


def test_verify_counts_what_was_never_finished_but_not_what_is_being_written(tmp_path, capsys):
    with open_writer(tmp_path / "day", "whole") as writer:
        write_messages(writer)
        writer.finish("success")
    assert verification.main([str(tmp_path)]) == 0 and "1 of 1 episodes" in capsys.readouterr().out
    left = tmp_path / "day/torn.partial"
    left.mkdir()
    (left / "torn_0.mcap").write_bytes(b"half")
    assert verification.main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "1 of 1 episodes match their checksum; 1 unfinished" in said.out
    assert (
        "torn.partial: was never finished; recover with"
        f" `{command('sf_training sf_training', 'sf_training')} recover {left}`" in said.err
    )
    shutil.rmtree(left)
    with open_writer(tmp_path / "day", "now"):
        assert verification.main([str(tmp_path)]) == 0 and not recovery.find_interrupted(
            tmp_path / "day"
        )
