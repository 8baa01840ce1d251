"""Tests of images read lazily from bags: indexing, processes, missing files."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from synthetic_episodes import write_episode

from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import BagError, EpisodeReader

FRAMES = (3, 1, 4)


@pytest.fixture(scope="module")
def bags(tmp_path_factory, contract):
    folder = tmp_path_factory.mktemp("bags")
    return [
        write_episode(folder, contract, f"e{number}", frames=frames)
        for number, frames in enumerate(FRAMES)
    ]


def load(bags, contract, **options):
    return load_dataset(
        bags,
        contract,
        **{"size": (8, 12), "fit": "letterbox", "workers": 1, "progress": False} | options,
    )


@pytest.fixture(scope="module")
def data(bags, contract, tmp_path_factory):
    return load(bags, contract, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def everything(bags, contract):
    plain = load(bags, contract)
    return np.asarray(plain.images), np.asarray(plain.depth)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-sum(FRAMES), sum(FRAMES) - 1), max_size=12))
def test_any_frames_are_read_in_any_order(data, everything, frames):
    """The result equals that of an array of all frames, with repetitions and unordered indices."""
    index = np.array(frames, int)
    np.testing.assert_array_equal(data.images[index], everything[0][index])
    np.testing.assert_array_equal(data.depth[index], everything[1][index])


def test_images_are_indexed_like_an_array(data, everything):
    images, full = data.images, everything[0]
    assert (
        images.shape == full.shape == (8, 2, 3, 8, 12)
        and len(images) == 8
        and images.dtype == np.uint8
        and images.ndim == 5
    )
    for index in (
        2,
        -1,
        slice(1, 6, 2),
        (slice(None), 1),
        (slice(2, 5), 0, 1),
        np.array([[0, 1], [2, 7]]),
        np.arange(8) % 2 == 0,
    ):
        np.testing.assert_array_equal(images[index], full[index])
    with pytest.raises(IndexError):
        images[8]


def test_other_processes_read_and_cache_the_same_images(bags, contract, tmp_path, everything):
    images = load(bags, contract, cache=tmp_path).images
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        parts = list(pool.map(images.__getitem__, [np.arange(8), np.arange(8)[::-1]] * 3))
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part, everything[0][:: -1 if number % 2 else 1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[:], everything[0])


def test_a_bag_that_is_removed_or_changed_is_named(contract, tmp_path):
    bag = write_episode(tmp_path, contract)
    images = load([bag], contract).images
    file = bag / "episode_0.mcap"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[: len(content) // 4])
    with pytest.raises(BagError, match=r"episode_0.mcap: is truncated or damaged"):
        images[:]
    file.unlink()
    with pytest.raises(BagError, match=r"episode_0.mcap: was removed after training"):
        images[:]


@pytest.mark.parametrize("way", ["lz4", "none", "unchunked"])
def test_other_mcap_layouts_give_the_same_images(bags, contract, tmp_path, everything, way):
    """The files differ in compression or have no chunks."""
    from mcap.reader import make_reader

    target = tmp_path / "again.mcap"
    compression = {"lz4": CompressionType.LZ4}.get(way, CompressionType.NONE)
    with EpisodeReader(bags[0]).file.open("rb") as source, target.open("wb") as file:
        reader = make_reader(source)
        writer = McapWriter(
            file, compression=compression, use_chunking=way != "unchunked", chunk_size=20_000
        )
        writer.start("ros2", "test")
        for attachment in reader.iter_attachments():
            writer.add_attachment(
                attachment.create_time,
                attachment.log_time,
                attachment.name,
                attachment.media_type,
                attachment.data,
            )
        for record in reader.iter_metadata():
            writer.add_metadata(record.name, record.metadata)
        channels = {}
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            if channel.id not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(
                    channel.topic, channel.message_encoding, number, channel.metadata
                )
            writer.add_message(
                channels[channel.id], message.log_time, message.data, message.publish_time
            )
        writer.finish()
    data = load([target], contract)
    np.testing.assert_array_equal(data.images, everything[0][: FRAMES[0]])
    assert len(data.pair_frame) == 2 * FRAMES[0]
