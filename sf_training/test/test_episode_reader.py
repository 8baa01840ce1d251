"""Tests of reading bags: round trip, and broken bags refused with file and cure."""

import shutil

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from synthetic_episodes import (
    HEIGHT,
    START,
    STEP,
    WIDTH,
    expert_answer,
    image,
    open_writer,
    tiny_contract,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_policy_node.motion.types import Join
from sf_training.data.episode_reader import BagError, EpisodeReader, find_episodes
from sf_training.recording import messages
from sf_training.recording.writer import episode_writer

SCENE, WRIST = "/scene_camera/image_raw", "/wrist_camera/image_raw"


@pytest.fixture
def bag(tmp_path, contract):
    return write_episode(tmp_path, contract)


def test_round_trip(bag, contract):
    reader = EpisodeReader(bag, contract)
    assert (reader.name, reader.instruction, reader.operator, reader.outcome) == (
        "episode",
        "pick the red cube",
        "test",
        "success",
    )
    assert reader.contract.hash == contract.hash
    streams = reader.read([SCENE, "/joint_states", "/expert/action_chunk", "/policy/action_chunk"])
    np.testing.assert_array_equal(
        streams[SCENE].stamps, [messages.nanoseconds(START + n * STEP) for n in range(5)]
    )
    assert streams[SCENE].messages == [] and len(streams["/joint_states"].messages) == 25
    assert len(streams["/policy/action_chunk"].stamps) == 0
    chunk = messages.to_chunk(streams["/expert/action_chunk"].messages[1])
    assert (
        chunk.instruction == "pick the green cube"
        and chunk.data.shape == (8, 4)
        and chunk.stamp == pytest.approx(START)
    )
    frames = list(reader.frames({SCENE: [0, 3], "/wrist_camera/depth/image_raw": [2]}))
    assert [(topic, index) for topic, index, _ in frames] == [
        (SCENE, 0),
        ("/wrist_camera/depth/image_raw", 2),
        (SCENE, 3),
    ]
    np.testing.assert_array_equal(frames[2][2], image(3, 0))
    np.testing.assert_array_equal(frames[1][2], np.full((HEIGHT, WIDTH), 3.0, np.float32))


def test_the_file_is_readable_without_its_folder(bag, contract):
    reader = EpisodeReader(bag / "episode_0.mcap", contract)
    assert reader.name == "episode" and reader.checksum == EpisodeReader(bag, contract).checksum


def test_a_zero_stamp_is_replaced_by_the_receipt_time(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        writer.write(SCENE, messages.image(0.0, "c", image(0, 0)), 7_000)
        writer.write(WRIST, messages.image(2.5, "c", image(0, 1)), 8_000)
        write_joints(writer, contract, "joint_states", 1.0, np.zeros(7))
        reader = EpisodeReader(writer.finish("success"), contract)
    streams = reader.read([SCENE, WRIST])
    assert streams[SCENE].stamps.tolist() == [7_000] and streams[WRIST].stamps.tolist() == [
        2_500_000_000
    ]


def test_compressed_cameras_are_decoded(tmp_path, contract):
    cameras = contract.model_dump(mode="json")["cameras"]
    cameras[0]["transport"] = "compressed"
    compressed = tiny_contract(cameras=cameras)
    types = messages.typestore().types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](3, 0), "c")
    png = cv2.imencode(".png", image(4, 0))[1].ravel()
    with open_writer(tmp_path, compressed) as writer:
        message = types[messages.COMPRESSED_IMAGE](header, "png", png)
        writer.write(
            SCENE, messages.typestore().serialize_cdr(message, messages.COMPRESSED_IMAGE), 3
        )
        writer.write(WRIST, messages.image(3.0, "c", image(4, 1)), 3)
        write_joints(writer, compressed, "joint_states", 3.0, np.zeros(7))
        reader = EpisodeReader(writer.finish("success"), compressed)
    ((_, _, pixels),) = reader.frames({SCENE: [0]})
    np.testing.assert_array_equal(pixels, image(4, 0))


def test_a_foreign_encoding_is_named(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        write_cameras(writer, contract, 0, START)
        write_joints(writer, contract, "joint_states", START, np.zeros(7))
        wrong = bytes(messages.image(2.0, "c", image(1, 0))).replace(b"rgb8\0", b"rgb7\0")
        writer.write(SCENE, wrong, messages.nanoseconds(2.0))
        reader = EpisodeReader(writer.finish("success"), contract)
    with pytest.raises(
        BagError,
        match=(
            r"episode_0.mcap: /scene_camera/image_raw: encoding 'rgb7' is not .* set the driver to"
            r" one of"
        ),
    ):
        list(reader.frames({SCENE: [1]}))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_file_is_refused(bag, contract, share):
    file = bag / "episode_0.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        BagError,
        match=r"episode_0.mcap: is truncated or damaged .*sf_training recover .*episode_0.mcap",
    ):
        EpisodeReader(bag, contract)


def test_flipped_bytes_are_detected(bag, contract):
    """For any damage, reading gives the written values or an error."""
    file = bag / "episode_0.mcap"
    data = file.read_bytes()
    expected = [image(frame, 0) for frame in range(5)]
    noticed = 0
    for position in np.random.default_rng(3).integers(0, len(data), 60):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        try:
            pixels = [
                pixels for _, _, pixels in EpisodeReader(bag, contract).frames({SCENE: range(5)})
            ]
        except BagError as error:
            assert str(bag) in str(error)
            noticed += 1
        else:
            np.testing.assert_array_equal(pixels, expected)
    assert noticed > 10


def test_a_folder_without_a_bag_is_refused(tmp_path, contract):
    with pytest.raises(BagError, match="nowhere: does not exist"):
        EpisodeReader(tmp_path / "nowhere", contract)
    with pytest.raises(
        BagError,
        match="holds no episode; record some, or generate some with `",
    ):
        find_episodes(tmp_path)
    (tmp_path / "text.mcap").write_text("this is not a bag, whatever its name says" * 10)
    with pytest.raises(BagError, match=r"text.mcap: is not an MCAP file, it begins with"):
        EpisodeReader(tmp_path / "text.mcap", contract)


def test_a_bag_without_metadata_is_refused(bag, contract):
    (bag / "metadata.yaml").unlink()
    assert EpisodeReader(bag, contract).outcome == "success"
    file = bag / "episode_0.mcap"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(
        BagError, match=r"episode_0.mcap: is truncated or damaged .*sf_training recover"
    ):
        EpisodeReader(bag, contract)


def test_an_unfinished_bag_is_refused(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        write_cameras(writer, contract, 0, START)
        writer.flush()
        with pytest.raises(
            BagError,
            match=r"episode.partial: was never finished; .*sf_training recover .*episode.partial",
        ):
            EpisodeReader(tmp_path / "episode.partial", contract)


def test_metadata_that_is_no_yaml_is_refused(bag, contract):
    (bag / "metadata.yaml").write_text("{")
    with pytest.raises(
        BagError,
        match=r"metadata.yaml: is not a rosbag2 description; restore it with `ros2 bag reindex`",
    ):
        EpisodeReader(bag, contract)


def test_a_foreign_mcap_bag_is_refused(tmp_path, contract):
    store = messages.typestore()
    with Writer(tmp_path / "theirs", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/a", messages.STRING, typestore=store)
        writer.write(
            connection, 1, store.serialize_cdr(store.types[messages.STRING]("x"), messages.STRING)
        )
    with pytest.raises(
        BagError,
        match=(
            r"theirs.mcap: holds no episode record and no contract, .* add to the contract a"
            r" section bags"
        ),
    ):
        EpisodeReader(tmp_path / "theirs", contract)


def test_a_bag_of_another_contract_is_refused(bag, contract):
    other = tiny_contract(robot="other_arm", action={"horizon": 9})
    with pytest.raises(
        BagError,
        match=(
            r"recorded with another contract \(robot: other_arm here, sim_arm there\); use that"
            r" contract"
        ),
    ):
        EpisodeReader(bag, other)
    assert (
        EpisodeReader(
            bag, tiny_contract(action={"horizon": 9, "step_s": 0.2})
        ).contract.action.horizon
        == 9
    )


def test_a_missing_topic_is_named(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        write_cameras(writer, contract, 0, START)
        bag = writer.finish("success")
    with pytest.raises(BagError, match=r"no message on /joint_states, which the contract needs"):
        EpisodeReader(bag, contract)


def test_a_bag_of_older_message_definitions_is_read_with_its_own(tmp_path, contract, monkeypatch):
    def without_join(type_name: str) -> tuple[str, str]:
        text, type_hash = messages.definition(type_name)
        lines = text.splitlines()
        return (
            "\n".join(
                line for line in lines if type_name != messages.ACTION_CHUNK or line != "uint8 join"
            ),
            type_hash,
        )

    old = get_typestore(Stores.EMPTY)
    old.register(get_types_from_msg(without_join(messages.ACTION_CHUNK)[0], messages.ACTION_CHUNK))
    new = messages.typestore().deserialize_cdr(
        messages.action_chunk(expert_answer(contract, START, "pick the red cube", 2.0)),
        messages.ACTION_CHUNK,
    )
    fields = {name: value for name, value in vars(new).items() if name != "join"}
    monkeypatch.setattr(episode_writer, "definition", without_join)
    with open_writer(tmp_path, contract) as writer:
        write_cameras(writer, contract, 0, START)
        write_joints(writer, contract, "joint_states", START, np.zeros(7))
        data = old.serialize_cdr(old.types[messages.ACTION_CHUNK](**fields), messages.ACTION_CHUNK)
        assert len(data) < len(
            messages.action_chunk(expert_answer(contract, START, "pick the red cube", 2.0))
        )
        writer.write("/expert/action_chunk", data, messages.nanoseconds(START))
        reader = EpisodeReader(writer.finish("success"), contract)
    (message,) = reader.read(["/expert/action_chunk"])["/expert/action_chunk"].messages
    chunk = messages.to_chunk(message)
    assert (
        (chunk.data == 2.0).all()
        and chunk.join is Join.BLEND
        and chunk.instruction == "pick the red cube"
    )


@pytest.mark.parametrize("length", [3, 20, 400])
def test_other_message_definitions_are_refused(tmp_path, contract, length):
    with open_writer(tmp_path, contract) as writer:
        write_cameras(writer, contract, 0, START)
        writer.write("/joint_states", b"\0\1\0\0" + bytes(length), 5)
        bag = writer.finish("success")
    with pytest.raises(
        BagError,
        match=(
            r"/joint_states: a sensor_msgs/msg/JointState cannot be read .*other message"
            r" definitions"
        ),
    ):
        EpisodeReader(bag, contract).read(["/joint_states"])


def test_find_episodes_skips_unfinished_episodes(tmp_path, contract):
    for name in ("b", "a"):
        write_episode(tmp_path / "deep", contract, name, frames=1)
    shutil.copytree(tmp_path / "deep/a", tmp_path / "deep/c.partial")
    assert [path.name for path in find_episodes(tmp_path)] == ["a", "b"]
    assert find_episodes(tmp_path / "deep/a") == [tmp_path / "deep/a"]
