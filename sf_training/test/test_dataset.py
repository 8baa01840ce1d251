"""Tests of bags to training arrays: values, labels in every action space, cache, errors."""

import errno
import os
import re

import numpy as np
import pinocchio
import pytest
from synthetic_episodes import (
    HEIGHT,
    START,
    STEP,
    WIDTH,
    expert_answer,
    image,
    joints_at,
    open_writer,
    tiny_contract,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.ros_testing import log_records
from sf_policy_node.vla.preprocessing import prepare, prepare_depth, prepare_intrinsics
from sf_training.data.dataset import BagError, load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.statistics import STD_FLOOR, ColumnStatistics
from sf_training.recording import messages
from sf_training.recording.labels import add_label
from sf_training.recording.topics import absolute

SIZE = 12
AT = messages.nanoseconds(START)


def load(bags, contract, **options):
    return load_dataset(bags, contract, **{"size": SIZE, "workers": 1, "progress": False} | options)


def test_arrays_equal_the_recorded_values(tmp_path, contract):
    bags = [
        write_episode(tmp_path, contract, name, frames=frames)
        for name, frames in (("a", 3), ("b", 2))
    ]
    data = load(bags, contract)
    assert data.images.shape == (5, 2, 3, SIZE, SIZE) and data.depth.shape == (5, 2, SIZE, SIZE)
    assert data.images.dtype == np.uint8 and data.depth.dtype == np.float16
    for row, frame in enumerate([0, 1, 2, 0, 1]):
        images = {camera.name: image(frame, index) for index, camera in enumerate(contract.cameras)}
        np.testing.assert_array_equal(
            data.images[row], prepare(images, contract.camera_names, SIZE)
        )
        np.testing.assert_array_equal(
            data.depth[row, 1], prepare_depth(np.full((HEIGHT, WIDTH), 1.0 + frame), SIZE)
        )
        np.testing.assert_allclose(
            data.joint_positions[row], joints_at(START + frame * STEP), atol=1e-6
        )
        np.testing.assert_allclose(data.camera_poses[row, 1, :3, 3], [1.0, 0.0, frame])
        np.testing.assert_allclose(
            data.camera_poses[row, 1, :3, :3], np.diag([-1.0, 1.0, -1.0]), atol=1e-6
        )
    np.testing.assert_allclose(data.stamps, START + np.array([0, 1, 2, 0, 1]) * STEP)
    matrix = np.array([[20.0, 0, WIDTH / 2], [0, 20.0, HEIGHT / 2], [0, 0, 1]])
    np.testing.assert_allclose(
        data.intrinsics[4, 0], prepare_intrinsics(matrix, WIDTH, HEIGHT, SIZE)
    )
    assert data.episode.tolist() == [0, 0, 0, 1, 1]
    assert [(entry.name, entry.frames, entry.outcome) for entry in data.episodes] == [
        ("a", 3, "success"),
        ("b", 2, "success"),
    ]


def test_expert_chunks_become_contrastive_pairs(tmp_path, contract):
    data = load([write_episode(tmp_path, contract, name, frames=2) for name in "ab"], contract)
    assert data.pair_frame.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert data.instructions == ["pick the red cube", "pick the green cube"]
    assert data.pair_instruction.tolist() == [0, 1] * 4
    assert data.pair_target.shape == (8, 8, 4) and data.pair_target[:, 0, 0].tolist() == [
        0,
        10,
        1,
        11,
        0,
        10,
        1,
        11,
    ]
    assert data.pairs_of([1]).tolist() == [4, 5, 6, 7] and data.frames_of([1]).tolist() == [2, 3]


def test_frames_without_an_expert_chunk_are_excluded(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        for frame in range(9):  # 30 Hz, chunks at 10 Hz, between the frames of the grid
            stamp = START + frame / 30
            write_cameras(writer, contract, frame, stamp)
            write_joints(writer, contract, "joint_states", stamp, joints_at(stamp))
            if frame % 3 == 1:
                chunk = expert_answer(contract, stamp, "pick", frame)
                writer.write(
                    "/expert/action_chunk",
                    messages.action_chunk(chunk),
                    messages.nanoseconds(stamp),
                )
        data = load([writer.finish("success")], contract)
    assert data.pair_target[:, 0, 0].tolist() == [1, 4, 7] and data.depth[:, 0, 0, 0].tolist() == [
        2,
        5,
        8,
    ]


ROTATION = {"names": ["x", "y", "z", "rx", "ry", "rz", "gripper"], "tool_orientation": None}
ARM = [f"joint{n}" for n in range(1, 7)]


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        ("ee_delta", {}),
        ("ee_delta", ROTATION),
        ("ee_pose", ROTATION),
        ("joint_position", {"names": [*ARM, "gripper"]}),
        ("joint_delta", {"names": ["gripper", *ARM]}),
    ],
)
def test_operator_commands_become_targets(tmp_path, space, changes):
    contract = tiny_contract(action={"space": space, "horizon": 3} | changes)
    data = load([write_episode(tmp_path, contract, frames=5, labels="operator")], contract)
    kinematics = Kinematics(contract)
    last = START + 4 * STEP + 4 * STEP / 5  # the last command
    assert data.pair_frame.tolist() == [0, 1, 2, 3, 4] and data.instructions == [
        "pick the red cube"
    ]
    for frame in range(5):
        stamp = START + frame * STEP
        measured = joints_at(stamp)
        start = kinematics.forward(measured[:6])
        for row in range(3):
            commanded = joints_at(min(stamp + (row + 1) * STEP, last) + 0.05)
            pose = kinematics.forward(commanded[:6])
            position, turn = {
                "ee_delta": (pose.position - start.position, pose.rotation @ start.rotation.T),
                "ee_pose": (pose.position, pose.rotation),
            }.get(space, (None, None))
            columns = dict(
                zip(
                    ARM,
                    commanded[:6] - (measured[:6] if space == "joint_delta" else 0),
                    strict=True,
                )
            )
            if position is not None:
                columns = dict(
                    zip(
                        ("x", "y", "z", "rx", "ry", "rz"),
                        [*position, *pinocchio.log3(turn)],
                        strict=True,
                    )
                )
            columns["gripper"] = commanded[6] / 0.035
            expected = [columns[name] for name in contract.action.names]
            np.testing.assert_allclose(data.pair_target[frame, row], expected, atol=1e-5)


def test_without_depth_poses_and_camera_info(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        for camera in contract.cameras:
            writer.write(absolute(camera.topic), messages.image(START, "c", image(0, 0)), AT)
        write_joints(writer, contract, "joint_states", START, joints_at(START))
        write_joints(writer, contract, "/teleop/joint_command", START, joints_at(START))
        write_joints(writer, contract, "/teleop/joint_command", START + 0.1, joints_at(START))
        bag = writer.finish("success")
    data = load([bag], contract)
    assert (
        np.isnan(data.depth).all()
        and np.isnan(data.camera_poses).all()
        and np.isnan(data.intrinsics).all()
    )
    assert load([bag], contract, depth=False).depth is None


def test_only_requested_outcomes_are_read(tmp_path, contract):
    bags = [
        write_episode(tmp_path, contract, outcome, frames=1, outcome=outcome)
        for outcome in ("success", "failure", "discarded")
    ]
    assert [entry.name for entry in load(bags, contract).episodes] == ["success"]
    assert [
        entry.name for entry in load(bags, contract, outcomes=("success", "failure")).episodes
    ] == ["success", "failure"]
    with pytest.raises(
        BagError,
        match=r"none of 1 episodes has the outcome success \(found: 1 failure\); record some",
    ):
        load(bags[1:2], contract)


FIELDS = (
    "images",
    "depth",
    "joint_positions",
    "stamps",
    "intrinsics",
    "camera_poses",
    "episode",
    "pair_frame",
    "pair_target",
)


def test_an_episode_is_indexed_once_and_its_images_are_decoded_once(
    tmp_path, contract, monkeypatch
):
    bags = [write_episode(tmp_path / "bags", contract, name, frames=3) for name in "ab"]
    in_memory, first = load(bags, contract), load(bags, contract, cache=tmp_path / "cache")
    expected = {field: np.array(getattr(in_memory, field)) for field in FIELDS}
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(first, field), expected[field])
    monkeypatch.setattr(
        "sf_training.data.dataset.index_episode", lambda *_: pytest.fail("indexed again")
    )
    monkeypatch.setattr(EpisodeReader, "image", lambda *_: pytest.fail("decoded again"))
    second = load(bags, contract, cache=tmp_path / "cache")
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(second, field), expected[field])
    assert second.instructions == in_memory.instructions and second.episodes == in_memory.episodes
    assert second.digest == first.digest == in_memory.digest


def test_inputs_of_the_data_change_their_digest(tmp_path, contract):
    bag, other = (
        write_episode(tmp_path, contract, name, frames=frames, labels="operator")
        for name, frames in (("a", 1), ("b", 2))
    )
    ways = [
        {},
        {"size": SIZE + 1},
        {"size": (SIZE, SIZE + 2)},
        {"fit": "letterbox"},
        {"depth": False},
        {"idle_s": 1.0},
    ]
    digests = [load([bag], contract, cache=tmp_path / "cache", **way).digest for way in ways]
    digests += [load(bags, contract).digest for bags in ([other], [bag, other], [other, bag])]
    add_label(bag, instruction="pick the blue cube")
    digests.append(load([bag], contract).digest)
    assert len(set(digests)) == len(digests)


def test_a_damaged_or_partial_cache_is_rebuilt(tmp_path, contract):
    bag = write_episode(tmp_path / "bags", contract, "a", frames=3)
    before = np.asarray(load([bag], contract, cache=tmp_path / "cache").images)
    index, pictures = sorted(
        (tmp_path / "cache/episodes").iterdir(), key=lambda path: path.suffix != ".index"
    )
    index.write_bytes(index.read_bytes()[:200])
    content = bytearray(pictures.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    pictures.write_bytes(content)
    for _ in range(2):
        np.testing.assert_array_equal(
            load([bag], contract, cache=tmp_path / "cache").images, before
        )


def test_loading_continues_on_a_full_disk(tmp_path, contract, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    bag = write_episode(tmp_path, contract, frames=3)
    expected = np.asarray(load([bag], contract).images)
    images = load([bag], contract, cache=tmp_path / "cache").images
    monkeypatch.setattr(os, "pwrite", full)
    with log_records("sf_training.data.image_store") as records:
        for _ in range(2):
            np.testing.assert_array_equal(images, expected)
    (record,) = records
    assert "not cached (No space left" in record.getMessage()
    (tmp_path / "file").write_text("")
    with pytest.raises(
        BagError, match=r"file/episodes: the cache cannot be written .* or choose another folder"
    ):
        load([bag], contract, cache=tmp_path / "file")


def test_one_bad_episode_is_named_and_excluded(tmp_path, contract):
    bags = [
        write_episode(tmp_path, contract, "good"),
        write_episode(tmp_path, contract, "bad", labels="none"),
    ]
    reason = (
        r"bad: holds no actions: no message on /?expert/action_chunk or"
        r" /?teleop/joint_command"
    )
    data = load(bags, contract, cache=tmp_path / "cache")
    assert [entry.name for entry in data.episodes] == ["good"] and data.outcomes == {"success": 2}
    assert [entry.path for entry in data.left_out] == bags[1:] and re.search(
        reason, data.left_out[0].reason
    )
    assert len(list((tmp_path / "cache/episodes").iterdir())) == 1
    for unusable, options in ((bags, {"strict": True}), (bags[1:], {})):
        with pytest.raises(BagError, match=reason):
            load(unusable, contract, **options)


@pytest.mark.slow
def test_processes_give_the_same_arrays(tmp_path, contract):
    bags = [write_episode(tmp_path, contract, f"e{n}", frames=n % 3 + 1) for n in range(9)]
    alone, together = load(bags, contract), load(bags, contract, workers=2)
    np.testing.assert_array_equal(alone.images, together.images)
    np.testing.assert_array_equal(alone.pair_target, together.pair_target)
    write_episode(tmp_path, contract, "wrong", labels="none")
    assert (
        "wrong: holds no actions"
        in load([*bags, tmp_path / "wrong"], contract, workers=2).left_out[0].reason
    )


def test_bad_episodes_are_named(tmp_path, contract):
    with open_writer(tmp_path, contract, "stale") as writer:
        write_cameras(writer, contract, 0, START)
        write_joints(writer, contract, "joint_states", START + 5, joints_at(START))
        stale = writer.finish("success")
    with pytest.raises(
        BagError, match=r"stale: holds no usable observation: 1 with all cameras within 0.05 s"
    ):
        load([stale], contract)
    with open_writer(tmp_path, contract, "shape") as writer:
        for index, camera in enumerate(contract.cameras):
            writer.write(
                absolute(camera.topic),
                messages.image(START, "c", np.zeros((10 + index, 20, 3), np.uint8)),
                AT,
            )
        write_joints(writer, contract, "joint_states", START, joints_at(START))
        writer.write(
            "/expert/action_chunk",
            messages.action_chunk(expert_answer(contract, START, "pick", 0.0)),
            AT,
        )
        shape = writer.finish("success")
    with pytest.raises(
        BagError, match=r"shape: /scene_camera/image_raw: image is 20x10, the contract says 32x24"
    ):
        load([shape], contract)
    shorter = tiny_contract(action={"horizon": 7})
    with open_writer(tmp_path, contract, "horizon") as writer:
        write_cameras(writer, contract, 0, START)
        write_joints(writer, contract, "joint_states", START, joints_at(START))
        writer.write(
            "/expert/action_chunk",
            messages.action_chunk(expert_answer(shorter, START, "pick", 0.0)),
            1,
        )
        horizon = writer.finish("success")
    with pytest.raises(
        BagError,
        match=r"horizon: expert chunk is ee_delta 7x4 of 0.1 s .*, the contract says ee_delta 8x4",
    ):
        load([horizon], contract)


def test_statistics_survive_json_and_dead_columns():
    values = np.random.default_rng(0).normal([1.0, 5.0], [2.0, 0.0], (1000, 3, 2))
    statistics = ColumnStatistics.from_values(values, ["moves", "still"])
    np.testing.assert_allclose(statistics.mean, [1.0, 5.0], atol=0.2)
    assert statistics.std[1] == STD_FLOOR and statistics.dead.tolist() == [False, True]
    assert statistics.q01[0] == pytest.approx(-3.65, abs=0.3) and statistics.q99[1] == 5.0
    again = ColumnStatistics.from_json(statistics.to_json())
    for name, value in vars(statistics).items():
        np.testing.assert_array_equal(value, getattr(again, name))
    with pytest.raises(ValueError, match="column still holds values that are not finite"):
        ColumnStatistics.from_values(np.array([[1.0, np.nan]]), ["moves", "still"])
    with pytest.raises(ValueError, match="every entry needs 2 values"):
        ColumnStatistics.from_json(statistics.to_json().replace("true", "true, true"))
    with pytest.raises(ValueError, match="'mean' is missing"):
        ColumnStatistics.from_json("{}")
