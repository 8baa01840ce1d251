"""LIBERO's RLDS datasets become bags without TensorFlow, and damage is named."""

import struct

import cv2
import numpy as np
import pytest
import yaml
from tensorboard.summary.writer.record_writer import RecordWriter

from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract
from sf_training.data.dataset import find_episodes, load_dataset
from sf_training.lerobot.command import main
from sf_training.lerobot.rlds_reader import LIBERO_HZ, RldsReader, is_rlds
from sf_training.lerobot.tfrecord import LeRobotError, parse_example, records

SIDE, FRAMES, EPISODES = 16, 12, 3
# Written by tfrecord 1.14.6 with protobuf 7.36.2.
GOLDEN = bytes.fromhex(
    "4a00000000000000af77dbb00a480a100a047465787412080a060a047069636b0a160a0676616c756573120c120a0a"
    "080000c03f000010c00a1c0a076e756d6265727312111a0f0a0d03ffffffffffffffffff01ac02314d183e13000000"
    "000000000c91321b0a110a0f0a047465787412070a050a01610a00c0d2f53e"
)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, list[bytes] | np.ndarray]) -> bytes:
    """Encode a ``tf.train.Example``."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            content = field(1, b"".join(field(1, each) for each in values))
        else:
            content = field(2, field(1, values.astype("<f4").tobytes()))
        entries += field(1, field(1, name.encode()) + field(2, content))
    return field(1, entries)


def joints(episode: int) -> np.ndarray:
    """Return joint positions (FRAMES, 7) inside the limits of the robot."""
    start = np.array([0.0, -0.3, 0.0, -2.0, 0.0, 1.8, 0.7])
    return start + 0.01 * (episode + 1) * np.arange(FRAMES)[:, None]


def picture(frame: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), (10 * frame, 50, 200), np.uint8)  # RGB


def episode_features(number: int) -> dict[str, list[bytes] | np.ndarray]:
    closes = np.where(np.arange(FRAMES) < FRAMES // 2, -1.0, 1.0)
    images = [
        cv2.imencode(".png", picture(frame)[..., ::-1])[1].tobytes() for frame in range(FRAMES)
    ]
    state = np.zeros((FRAMES, 8))
    state[:, 6:] = [0.03, -0.03]
    action = np.concatenate([np.zeros((FRAMES, 6)), closes[:, None]], axis=1)
    return {
        "steps/observation/joint_state": joints(number).ravel(),
        "steps/observation/state": state.ravel(),
        "steps/observation/image": images,
        "steps/observation/wrist_image": images[::-1],
        "steps/action": action.ravel(),
        "steps/language_instruction": [b"pick up the bowl"] * FRAMES,
    }


def write_shards(folder, episodes, count: int = 2):
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        name = f"libero_spatial-train.tfrecord-{shard:05d}-of-{count:05d}"
        with (folder / name).open("wb") as file:
            writer = RecordWriter(file)
            for features in episodes[shard::count]:
                writer.write(example(features))


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "libero_spatial_no_noops"
    write_shards(folder / "1.0.0", [episode_features(number) for number in range(EPISODES)])
    return folder


@pytest.fixture
def robot(tmp_path):
    contract = load_contract(find_robot("fr3"))
    data = contract.model_dump(mode="json")
    for camera in data["cameras"]:
        camera.update(width=SIDE, height=SIDE)
    (tmp_path / "robot.urdf").write_text(contract.urdf_xml)
    data["urdf"] = "robot.urdf"
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def run(*words) -> int:
    return main(["import", *map(str, words)])


def cameras(robot) -> list[str]:
    names = load_contract(robot).camera_names
    return [f"{names[0]}=image", *(f"{name}=wrist_image" for name in names[1:])]


def test_records_of_another_writer_are_read(tmp_path):
    (tmp_path / "x").write_bytes(GOLDEN)
    first, second = (parse_example(record.read()) for record in records(tmp_path / "x"))
    assert first["text"] == [b"pick"] and second["text"] == [b"a", b""]
    assert first["values"].tolist() == [1.5, -2.25] and first["numbers"].tolist() == [3, -1, 300]
    unpacked = varint(1 << 3 | 5) + struct.pack("<f", 0.5)
    content = field(1, field(1, field(1, b"v") + field(2, field(2, unpacked * 2))))
    assert parse_example(content)["v"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_truncated_or_foreign_file_gives_one_sentence(tmp_path, cut):
    (tmp_path / "x").write_bytes(GOLDEN[:-cut])
    with pytest.raises(LeRobotError, match=r"truncated at byte \d+|no TFRecord at byte"):
        list(records(tmp_path / "x"))
    (tmp_path / "x").write_bytes(b"PK" + GOLDEN)
    with pytest.raises(LeRobotError, match="no TFRecord at byte 0"):
        list(records(tmp_path / "x"))


def test_damaged_examples_end_in_an_error_or_other_values():
    data = GOLDEN[12:86]
    assert set(parse_example(data)) == {"text", "values", "numbers"}
    rng = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            parse_example(bytes(changed))
        except ValueError as error:
            assert "no tf.train.Example" in str(error)


def test_episodes_become_bags_with_the_arms_motion_as_commands(dataset, robot, tmp_path, capsys):
    out = tmp_path / "out"
    assert is_rlds(dataset) and is_rlds(dataset / "1.0.0") and not is_rlds(tmp_path)
    words = [dataset, "--out", out, "--contract", robot, "--cameras", *cameras(robot)]
    assert run(*words) == 0, capsys.readouterr().err
    contract = load_contract(robot)
    bags = find_episodes(out)
    assert len(bags) == EPISODES
    data = load_dataset(bags, contract, size=SIDE, workers=1, progress=False)
    assert data.instructions == ["pick up the bowl"] and not data.left_out
    times = data.stamps[data.episode == 0] - data.stamps[0]
    frames = np.round(times * LIBERO_HZ).astype(int)
    # Shards interleave the episodes: the first one is number 0.
    np.testing.assert_allclose(
        data.joint_positions[data.episode == 0][:, :7], joints(0)[frames], atol=1e-5
    )
    assert abs(int(data.images[0][0, 2].mean()) - 200) < 3 and data.images[0][0, 0].mean() < 20
    reader = RldsReader(dataset, contract.command_joints)
    state, action = reader.values(0)
    np.testing.assert_allclose(action[:-1, :7], state[1:, :7])
    assert action[0, 7:].tolist() == [0.04, -0.04] and action[-1, 7:].tolist() == [0.0, 0.0]


def test_what_cannot_be_imported_gives_one_sentence(dataset, robot, tmp_path, capsys):
    words = ["--out", tmp_path / "out", "--contract", robot, "--cameras", *cameras(robot)]

    def refused(message: str, folder=dataset):
        assert run(folder, *words) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / "out").exists() or not find_episodes_or_none(tmp_path / "out")

    def find_episodes_or_none(folder):
        return list(folder.glob("libero*"))

    other = tmp_path / "other/1.0.0"
    features = episode_features(0)
    del features["steps/observation/joint_state"]
    write_shards(other, [features], count=1)
    refused("its episodes have no steps/observation/joint_state", tmp_path / "other")
    features = episode_features(0)
    features["steps/observation/image"][3] = b"\xff\xd8 broken"
    write_shards(other, [features], count=1)
    refused("image 3 of image is damaged", tmp_path / "other")
    features = episode_features(0)
    features["steps/action"] = features["steps/action"][:-3]
    write_shards(other, [features], count=1)
    refused("steps/action has 81 values for 12 steps", tmp_path / "other")
    features = episode_features(0)
    features["steps/observation/joint_state"][5] = np.nan
    write_shards(other, [features], count=1)
    refused("a joint or an action is not finite", tmp_path / "other")
    next((dataset / "1.0.0").glob("*00001-of-00002")).unlink()
    refused("has 1 of 2 shards, number 1 is missing")
