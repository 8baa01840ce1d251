"""Tests of storage formats: each gives the same training data.

Formats are rosbag2 folders and bare files; split, indexed and compressed or not.
"""

import shutil
import tracemalloc

import numpy as np
import pytest
import zstandard
from foreign_recordings import (
    ALL,
    BEGIN,
    HAND,
    LEADER,
    SECOND_NS,
    STATES,
    TOP,
    Entry,
    contract,
    describe,
    entry,
    joints,
    pose_at,
    recording,
    text,
    write_bag,
    write_mcap,
)
from mcap.writer import CompressionType, IndexType
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from synthetic_episodes import tiny_contract, write_episode

from sf_training.data.bag_files import BagError, find_episodes, single_episode, unfinished_episodes
from sf_training.data.cache_folder import cache_folder
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lint.checks import check_episode
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages
from sf_training.view.episode import load as view_episode

ENTRIES = recording(1.0)
SPLIT_AT = len(ENTRIES) // 3


@pytest.fixture(scope="module")
def robot():
    return contract()


def load(path, robot):
    return load_dataset([path], robot, size=8, workers=1, progress=False, depth=False)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, robot):
    return load(write_bag(tmp_path_factory.mktemp("plain") / "take", ENTRIES), robot)


def split(folder):
    for number, part in enumerate((ENTRIES[:SPLIT_AT], ENTRIES[SPLIT_AT:])):
        write_mcap(folder / f"take/take_{number}.mcap", part)
    return folder / "take"


def split_and_described(folder):
    path = split(folder)
    for number in range(2):
        (path / f"take_{number}.mcap").rename(path / f"part {1 - number}.mcap")
    describe(path, ["part 1.mcap", "part 0.mcap"])
    return path


def described(folder, *names, others=()):
    path = write_mcap(folder / "take/take_0.mcap", ENTRIES).parent
    for other in others:
        shutil.copy(path / "take_0.mcap", path / other)
    describe(path, names)
    return path


def packed_file(folder):
    path = described(folder, "take_0.mcap.zstd")
    file = path / "take_0.mcap"
    (path / "take_0.mcap.zstd").write_bytes(zstandard.ZstdCompressor().compress(file.read_bytes()))
    file.unlink()
    describe(path, ["take_0.mcap.zstd"], compression_mode="FILE", compression_format="zstd")
    return path


def no_metadata(path):
    (path / "metadata.yaml").unlink()
    return path


def in_order(folder, key, **options):
    """Write a file whose messages are not in the order of receipt."""
    return write_mcap(folder / "take.mcap", sorted(ENTRIES, key=key), chunk_size=9000, **options)


def by_topic(each):
    return (TOPICS.index(each.topic), each.log)


TOPICS = [LEADER, TOP, HAND, STATES]
SQLITE, ZSTD = StoragePlugin.SQLITE3, CompressionFormat.ZSTD
WAYS = {
    "sqlite3": lambda folder: write_bag(folder / "take", ENTRIES, SQLITE),
    "sqlite3 without metadata": lambda folder: no_metadata(
        write_bag(folder / "take", ENTRIES, SQLITE)
    ),
    "sqlite3 file": lambda folder: next(write_bag(folder / "take", ENTRIES, SQLITE).glob("*.db3")),
    "topic by topic": lambda folder: in_order(folder, by_topic),
    "topic by topic, no chunks": lambda folder: in_order(folder, by_topic, use_chunking=False),
    "messages packed": lambda folder: write_bag(
        folder / "take", ENTRIES, compression=(CompressionMode.MESSAGE, ZSTD)
    ),
    "sqlite3 messages packed": lambda folder: write_bag(
        folder / "take", ENTRIES, SQLITE, compression=(CompressionMode.MESSAGE, ZSTD)
    ),
    "file packed": packed_file,
    "split, no metadata": split,
    "split, other names": split_and_described,
    "a second file beside": lambda folder: described(
        folder, "take_0.mcap", others=["copy.mcap", "b.mcap"]
    ),
    "renamed file": lambda folder: described(folder, "before_0.mcap"),
    "old path": lambda folder: described(folder, "take/take_0.mcap"),
    "no index": lambda folder: write_mcap(
        folder / "a.mcap", ENTRIES, index_types=IndexType.NONE, chunk_size=9000
    ),
    "only messages indexed": lambda folder: write_mcap(
        folder / "a.mcap", ENTRIES, index_types=IndexType.MESSAGE, chunk_size=9000
    ),
    "no statistics": lambda folder: write_mcap(folder / "a.mcap", ENTRIES, use_statistics=False),
    "no summary": lambda folder: write_mcap(
        folder / "a.mcap",
        ENTRIES,
        use_statistics=False,
        index_types=IndexType.NONE,
        repeat_channels=False,
        repeat_schemas=False,
        use_summary_offsets=False,
    ),
    "no repeated channels": lambda folder: write_mcap(
        folder / "a.mcap", ENTRIES, repeat_channels=False, repeat_schemas=False
    ),
    "no repeated schemas": lambda folder: write_mcap(
        folder / "a.mcap", ENTRIES, repeat_schemas=False, compression=CompressionType.LZ4
    ),
    "no chunks, no summary": lambda folder: write_mcap(
        folder / "a.mcap",
        ENTRIES,
        use_chunking=False,
        use_statistics=False,
        repeat_channels=False,
        index_types=IndexType.NONE,
    ),
    "no checksums": lambda folder: write_mcap(
        folder / "a.mcap", ENTRIES, enable_crcs=False, compression=CompressionType.NONE
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_storage_format_gives_the_same_data(tmp_path, robot, expected, way):
    path = WAYS[way](tmp_path)
    assert len(find_episodes(path)) == 1
    found = load(path, robot)
    for name in ("images", "joint_positions", "stamps", "pair_frame", "pair_target"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.instructions == ["stack the bowls"]
    assert [path.name for path in tmp_path.rglob(".cache")] == []


@pytest.mark.parametrize("way", ["no index", "sqlite3", "split, no metadata"])
def test_lint_and_view_read_the_same_formats_as_training(tmp_path, robot, way):
    path = WAYS[way](tmp_path)
    measure = measure_episode(path, Thresholds(), 4, robot)
    assert {finding.check for finding in check_episode(measure, Thresholds())} <= {"rate"}
    assert measure.messages == len(ENTRIES) and measure.usable == 10
    assert view_episode(EpisodeReader(path, robot)).duration_s == pytest.approx(0.9)


def test_a_folder_with_several_files_is_refused_with_their_names(tmp_path, robot):
    for name in ("left", "right"):
        write_mcap(tmp_path / f"{name}.mcap", ENTRIES)
    assert len(find_episodes(tmp_path)) == 2
    with pytest.raises(BagError, match=r"holds 2 bags; give one of left.mcap, right.mcap"):
        EpisodeReader(tmp_path, robot)
    with pytest.raises(BagError, match=r"holds 2 episodes; give one of left.mcap, right.mcap"):
        single_episode(tmp_path)
    take = write_bag(tmp_path / "deep/er/take", ENTRIES)
    assert (
        single_episode(tmp_path / "deep") == take
        and single_episode(tmp_path / "left.mcap").name == "left.mcap"
    )


def test_a_missing_file_of_metadata_is_named(tmp_path, robot):
    path = described(tmp_path, "take_0.mcap", "take_1.mcap")
    with pytest.raises(BagError, match=r"take_1.mcap: is named in metadata.yaml but missing"):
        EpisodeReader(path, robot)
    describe(path, ["take_0.mcap"], compression_mode="message", compression_format="snappy")
    with pytest.raises(BagError, match=r"is compressed with 'snappy', only zstd is read"):
        EpisodeReader(path, robot)


@pytest.mark.parametrize(
    ("encoding", "schema", "message"),
    [
        ("ros1", "ros1msg", "ROS 1.*rosbags-convert"),
        ("json", "jsonschema", "JSON.*ros2 bag record"),
    ],
)
def test_messages_of_other_encodings_are_refused(tmp_path, robot, encoding, schema, message):
    path = write_mcap(tmp_path / "a.mcap", ENTRIES, encoding, schema)
    with pytest.raises(BagError, match=rf"a.mcap: {TOP} holds .*{message}"):
        EpisodeReader(path, robot)


def test_a_bag_of_ros_1_beside_good_ones_is_named(tmp_path, robot):
    write_bag(tmp_path / "good", ENTRIES)
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    data = load_dataset(find_episodes(tmp_path), robot, size=8, workers=1, progress=False)
    assert [episode.name for episode in data.episodes] == ["good"]
    assert "old.bag: is a ROS 1 bag; convert it with `rosbags-convert" in data.left_out[0].reason


def test_nothing_is_written_into_an_episode_or_beside_a_file(tmp_path):
    file = write_mcap(tmp_path / "bags/a.mcap", ENTRIES)
    folder = write_bag(tmp_path / "bags/take", ENTRIES)
    assert cache_folder(tmp_path / "bags") == tmp_path / "bags/.cache"
    positions = {cache_folder(file), cache_folder(folder)}
    assert len(positions) == 2 and all(
        position.is_relative_to(tmp_path / "xdg") for position in positions
    )


def test_unfinished_episodes_are_reported_and_not_read(tmp_path):
    robot = tiny_contract()
    write_episode(tmp_path, robot, "good", frames=12)
    shutil.copytree(tmp_path / "good", tmp_path / "lost.partial")
    (tmp_path / "lost.partial/metadata.yaml").unlink()
    assert find_episodes(tmp_path) == [tmp_path / "good"] and unfinished_episodes(tmp_path) == [
        tmp_path / "lost.partial"
    ]
    with pytest.raises(BagError, match=r"lost.partial: was never finished; .*recover"):
        find_episodes(tmp_path / "lost.partial")


def test_the_checksum_of_foreign_bags_is_cached(tmp_path, robot, monkeypatch):
    file = write_mcap(tmp_path / "a.mcap", ENTRIES)
    first = EpisodeReader(file, robot).checksum
    monkeypatch.setattr(
        "sf_training.data.cache_folder.hashlib.sha256", lambda data=b"": _once(data)
    )
    assert EpisodeReader(file, robot).checksum == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_mcap(file, [*ENTRIES, entry("/note", messages.STRING, 3.0, text("x"))])
    assert EpisodeReader(file, robot).checksum != first


def _once(data):
    """Compute a checksum of the paths; the file must not be hashed again."""
    import hashlib

    assert data, "the file is hashed again"
    return hashlib.new("sha256", data)


def test_topics_are_counted_over_all_parts(tmp_path, robot):
    reader = EpisodeReader(split(tmp_path), robot)
    assert reader.counts["/joint_states"] == sum(each.topic == STATES for each in ENTRIES)
    assert reader.counts["/teleop/joint_command"] == sum(each.topic == LEADER for each in ENTRIES)


def test_joint_states_are_read_with_constant_memory(tmp_path, robot):
    """A long recording has hundreds of thousands of joint states."""
    count = 20_000
    state = joints(BEGIN, ALL, pose_at(0.5))
    more = [
        Entry(STATES, messages.JOINT_STATE, 1.0, BEGIN + SECOND_NS + k, state) for k in range(count)
    ]
    reader = EpisodeReader(write_mcap(tmp_path / "a.mcap", [*ENTRIES, *more]), robot)
    tracemalloc.start()
    try:
        stream = reader.read(["/joint_states"])["/joint_states"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(stream.messages) == count + 50 and stream.messages[-1].position[0] == pytest.approx(
        0.1
    )
    assert peak / count < 700, "bytes a message, with the chunk that is being read"
