"""Tests of repairing damaged MCAP files of other recorders; the original is unchanged."""

import io
import random

import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from sf_training.recording.recover.file_rescue import RescueError, rescue_file
from sf_training.recording.recover.recovery import main


def another_recorders_file(compression=CompressionType.ZSTD, messages=200):
    out = io.BytesIO()
    writer = Writer(out, chunk_size=400, compression=compression)
    writer.start(profile="ros2", library="another")
    schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
    channels = [
        writer.register_channel(topic, "cdr", schema, {"qos": "x"}) for topic in ("/a", "/b")
    ]
    writer.add_attachment(1, 1, "notes.txt", "text/plain", b"kept")
    for number in range(messages):
        writer.add_message(
            channels[number % 2],
            1000 + number,
            f"message {number:06d} {'x' * (number % 7)}".encode(),
            1000 + number,
        )
    writer.finish()
    return out.getvalue()


def texts(path):
    with path.open("rb") as file:
        return [
            (channel.topic, message.log_time, message.data)
            for _, channel, message in make_reader(file).iter_messages()
        ]


@pytest.fixture(params=[CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE])
def data(request):
    return another_recorders_file(request.param)


def test_a_truncated_file_is_repaired_up_to_its_last_complete_chunk(tmp_path, data, capsys):
    full, torn = tmp_path / "whole.mcap", tmp_path / "torn.mcap"
    full.write_bytes(data)
    torn.write_bytes(data[: len(data) // 2])
    assert main([str(torn)]) == 0
    assert "torn_recovered.mcap" in capsys.readouterr().out
    saved, known = texts(tmp_path / "torn_recovered.mcap"), texts(full)
    assert 20 < len(saved) < len(known) and saved == known[: len(saved)]
    assert torn.read_bytes() == data[: len(data) // 2]
    assert (
        main([str(torn)]) == 1 and "torn_recovered.mcap: already exists" in capsys.readouterr().err
    )


def test_only_a_damaged_chunk_is_dropped(tmp_path):
    data = bytearray(another_recorders_file(CompressionType.NONE))
    position = data.index(b"message 000100")
    data[position + 8] ^= 1
    file = tmp_path / "bad.mcap"
    file.write_bytes(data)
    result = rescue_file(file)
    saved = [content for _, _, content in texts(result.path)]
    assert result.damaged == 1 and 180 < len(saved) == result.messages < 200
    assert saved[0].startswith(b"message 000000") and saved[-1].startswith(b"message 000199")


def test_any_damage_gives_a_file_or_one_sentence(tmp_path):
    full = another_recorders_file(messages=40)
    for seed in range(120):
        rng = random.Random(seed)
        data = bytearray(full[: rng.randrange(1, len(full))] if seed % 2 else full)
        for _ in range(rng.choice((1, 4, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file = tmp_path / f"{seed}.mcap"
        file.write_bytes(data)
        try:
            assert texts(rescue_file(file).path)
        except RescueError as error:
            assert "\n" not in str(error)
    assert not list(tmp_path.glob("*.new"))


def test_a_file_that_is_no_recording_gives_one_sentence(tmp_path):
    (tmp_path / "notes.mcap").write_text("not a recording")
    with pytest.raises(RescueError, match="holds no message that can be read"):
        rescue_file(tmp_path / "notes.mcap")
    with pytest.raises(RescueError, match="cannot be copied"):
        rescue_file(tmp_path / "nowhere.mcap")
    (tmp_path / "take.db3").write_bytes(b"SQLite format 3\0")
    with pytest.raises(RescueError, match=r"sqlite3 bag; recover it with `sqlite3 .*take.db3 .rec"):
        rescue_file(tmp_path / "take.db3")
