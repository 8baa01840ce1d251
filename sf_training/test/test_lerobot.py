"""Tests of LeRobot export and import: round trips, datasets of others, errors."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_episodes import (
    HEIGHT,
    START,
    WIDTH,
    joints_at,
    open_writer,
    tiny_contract,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_training.data.episode_arrays import load_episode
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.command import main
from sf_training.lerobot.dataset_reader import DatasetReader
from sf_training.lerobot.dataset_writer import DatasetWriter
from sf_training.lerobot.layout import SOURCES
from sf_training.recording import messages
from sf_training.recording.topics import absolute

JOINTS = ["joint1", "joint2", "gripper"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, contract):
    """Export two episodes of an operator."""
    folder = tmp_path_factory.mktemp("lerobot")
    for number, colour in enumerate(("red", "green")):
        instruction = f"pick the {colour} cube"
        write_episode(
            folder / "bags",
            contract,
            f"episode_{number}",
            frames=12 + number,
            labels="operator",
            instruction=instruction,
        )
    write_episode(
        folder / "bags", contract, "failed", frames=5, labels="operator", outcome="failure"
    )
    assert main(["export", str(folder / "bags"), "--out", str(folder / "set")]) == 0
    return folder


def grey(level, width=WIDTH, height=HEIGHT):
    return np.full((height, width, 3), level, np.uint8)


def test_the_layout_equals_lerobot_v3(exported):
    information = json.loads((exported / "set/meta/info.json").read_text())
    assert (
        information["codebase_version"] == "v3.0"
        and information["fps"] == 10
        and information["robot_type"] == "sim_arm"
    )
    assert (
        information["total_episodes"] == 2
        and information["total_tasks"] == 2
        and information["splits"] == {"train": "0:2"}
    )
    features = information["features"]
    assert (
        features["observation.images.scene"]["shape"] == [HEIGHT, WIDTH, 3]
        and features["observation.images.scene"]["dtype"] == "video"
    )
    assert features["action"]["names"] == [
        "joint1",
        "joint2",
        "joint3",
        "joint4",
        "joint5",
        "joint6",
        "gripper",
    ]
    frames = pq.read_table(exported / "set/data/chunk-000/file-000.parquet")
    assert frames.num_rows == information["total_frames"]
    assert frames["index"].to_pylist() == list(range(frames.num_rows))
    assert set(features) >= set(frames.column_names)
    tasks = pq.read_table(exported / "set/meta/tasks.parquet")
    assert tasks["task"].to_pylist() == ["pick the red cube", "pick the green cube"]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    rows = pq.read_table(exported / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row in rows:
        length = row["dataset_to_index"] - row["dataset_from_index"]
        assert row["length"] == length
        span = (
            row["videos/observation.images.wrist/to_timestamp"]
            - row["videos/observation.images.wrist/from_timestamp"]
        )
        assert span == pytest.approx(length / 10)
    assert rows[1]["dataset_from_index"] == rows[0]["dataset_to_index"]


def test_statistics_describe_the_data(exported):
    statistics = json.loads((exported / "set/meta/stats.json").read_text())
    state = np.array(
        pq.read_table(exported / "set/data/chunk-000/file-000.parquet")[
            "observation.state"
        ].to_pylist()
    )
    np.testing.assert_allclose(
        statistics["observation.state"]["mean"], state.mean(axis=0), atol=1e-6
    )
    np.testing.assert_allclose(
        statistics["observation.state"]["q99"], np.quantile(state, 0.99, axis=0), atol=1e-6
    )
    image = statistics["observation.images.scene"]
    assert (
        np.shape(image["mean"]) == (3, 1, 1)
        and 0 <= image["min"][0][0][0] <= image["q50"][0][0][0] <= image["max"][0][0][0] <= 1
    )


def test_a_round_trip_gives_the_same_training_data(exported, contract):
    """Convert bag to dataset to bag.

    Instruction, joints and targets are equal; images differ by the codec.
    """
    out = exported / "back"
    assert main(["import", str(exported / "set"), "--out", str(out)]) == 0
    for number in range(2):
        before = load_episode(EpisodeReader(exported / f"bags/episode_{number}"), 24, depth=False)
        after_reader = EpisodeReader(out / f"set_{number:06d}", contract)
        after = load_episode(after_reader, 24, depth=False)
        assert (
            after_reader.instruction == ("pick the red cube", "pick the green cube")[number]
            and after_reader.outcome == "success"
        )
        count = len(after.stamps)
        assert count == len(before.pairs.frame)
        np.testing.assert_allclose(after.stamps, before.stamps[:count], atol=1e-6)
        np.testing.assert_allclose(after.joint_positions, before.joint_positions[:count], atol=1e-6)
        # Nothing is known after the last frame, so the last steps of a target hold.
        first = before.pairs.targets[:count, 0], after.pairs.targets[:, 0]
        shared = min(map(len, first))
        np.testing.assert_allclose(first[1][:shared], first[0][:shared], atol=1e-5)
        assert np.abs(after.images.astype(int) - before.images[:count]).mean() < 4


def test_an_export_with_a_number_in_a_wrong_unit_is_read_back(exported, tmp_path, capsys):
    """Contracts of earlier versions may hold numbers that are refused today."""
    data = tmp_path / "set"
    shutil.copytree(exported / "set", data)
    own = data / SOURCES / "contract.yaml"
    contract = yaml.safe_load(own.read_text())
    contract["budgets"]["hold_s"] = 1500.0
    (arm,) = contract["arms"].values()
    arm["gripper"]["open"] *= 0.5  # the gripper then overshoots, which is no other unit
    own.write_text(yaml.safe_dump(contract))
    words = ["import", str(data), "--episodes", "1"]
    assert main([*words, "--out", str(tmp_path / "bags")]) == 0
    shutil.copytree(own.parent, tmp_path / "robot")
    robot = str(tmp_path / "robot/contract.yaml")
    assert main([*words, "--out", str(tmp_path / "other"), "--contract", robot]) != 0
    assert "budgets.hold_s: 1500 s" in capsys.readouterr().err


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(1, 7), st.sampled_from(["pick", "place", "wähle „rot“"])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0.0001, 1.0]),
)
def test_episodes_of_any_lengths_are_read_back(tmp_path, episodes, file_mb):
    """Small file limits start a new file after every episode."""
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    rng = np.random.default_rng(len(episodes))
    written = []
    with DatasetWriter(
        tmp_path / "set",
        fps=20,
        robot="arm",
        joints=JOINTS,
        cameras={"top": (32, 24)},
        file_mb=(file_mb, file_mb),
    ) as writer:
        for number, (count, task) in enumerate(episodes):
            state, action = rng.normal(size=(2, count, 3)).astype(np.float32)
            levels = [(37 * number + 20 * frame) % 250 for frame in range(count)]
            writer.add_episode(
                task,
                state,
                action,
                np.arange(count) / 20,
                (("top", grey(level, 32, 24)) for level in levels),
            )
            written.append((task, state, action, levels))
        writer.finish()
    reader = DatasetReader(tmp_path / "set")
    assert (
        reader.episodes == len(episodes)
        and list(reader.cameras) == ["top"]
        and reader.action_names == JOINTS
    )
    for position, (task, state, action, levels) in enumerate(written):
        episode = reader.episode(position)
        assert episode.task == task
        np.testing.assert_array_equal(episode.state, state)
        np.testing.assert_array_equal(episode.action, action)
        seen = [int(pixels.mean().round()) for pixels in reader.images(position, "top")]
        assert len(seen) == len(levels) and np.abs(np.array(seen) - levels).max() <= 3


def others_dataset(folder, names, values, *, size=(WIDTH, HEIGHT), camera="top"):
    """Write a dataset as another robot's recorder might."""
    cameras = {camera: size, "hand": size}
    with DatasetWriter(
        folder / "theirs", fps=10, robot="so101", joints=names, cameras=cameras
    ) as writer:
        count = len(values)
        images = ((name, grey(100, *size)) for _ in range(count) for name in cameras)
        writer.add_episode("fold the cloth", values, values, np.zeros(count), images)
        return writer.finish()


def test_names_and_units_of_other_datasets_are_mapped(tmp_path, contract):
    names = [*(f"joint_{number}.pos" for number in range(1, 7)), "claw.pos"]
    values = np.tile(np.array([90.0, 45, 0, 0, 0, 0, 100.0]), (5, 1)) + np.arange(5)[:, None] * [
        1,
        0,
        0,
        0,
        0,
        0,
        -25,
    ]
    data = others_dataset(tmp_path, names, values)
    robot = tmp_path / "robot.yaml"
    robot.write_text(contract.to_yaml())
    (tmp_path / contract.urdf).write_text(contract.urdf_xml)
    options = [
        "--contract",
        str(robot),
        "--cameras",
        "scene=top",
        "wrist=hand",
        "--joints",
        "gripper=claw.pos",
        "--units",
        "degrees",
    ]
    assert (
        main(
            [
                "import",
                str(data),
                "--out",
                str(tmp_path / "bags"),
                *options,
                "--gripper",
                "0",
                "100",
            ]
        )
        == 0
    )
    reader = EpisodeReader(tmp_path / "bags/theirs_000000", contract)
    positions = np.array(
        [message.position for message in reader.read(["/joint_states"])["/joint_states"].messages]
    )
    np.testing.assert_allclose(positions[0, :2], [np.pi / 2, np.pi / 4])
    np.testing.assert_allclose(positions[:, 6], [0.035, 0.02625, 0.0175, 0.00875, 0.0], atol=1e-9)
    assert reader.instruction == "fold the cloth"


def test_bad_input_gives_one_sentence(tmp_path, exported, contract, capsys):
    def error_of(*words):
        assert main(list(map(str, words))) == 2
        return capsys.readouterr().err

    data, out = exported / "set", tmp_path / "out"
    assert "already exists; choose another directory" in error_of(
        "export", exported / "bags", "--out", data
    )
    assert "holds no episode" in error_of("export", tmp_path, "--out", out)
    assert "none of 3 episodes has the outcome discarded" in error_of(
        "export", exported / "bags", "--out", out, "--outcomes", "discarded"
    )
    assert "so it is not a LeRobot dataset" in error_of("import", tmp_path, "--out", out)
    assert "OURS=THEIRS" in error_of("import", data, "--out", out, "--cameras", "scene")
    assert "has no camera 'top' (it has scene, wrist)" in error_of(
        "import", data, "--out", out, "--cameras", "scene=top"
    )
    assert "state has no column 'elbow'" in error_of(
        "import", data, "--out", out, "--joints", "joint3=elbow"
    )
    theirs = others_dataset(tmp_path, ["a", "b"], np.zeros((3, 2)))
    assert "holds no contract; give that of the robot with --contract" in error_of(
        "import", theirs, "--out", out
    )
    old = shutil.copytree(data, tmp_path / "old")
    information = json.loads((old / "meta/info.json").read_text())
    (old / "meta/info.json").write_text(json.dumps(information | {"codebase_version": "v2.1"}))
    assert "meta/episodes.jsonl: cannot be read" in error_of("import", old, "--out", out)
    (old / "meta/info.json").write_text(json.dumps(information | {"codebase_version": "v1.6"}))
    assert "has version v1.6, v2.0 to v3 are read; convert it to v2.1 with" in error_of(
        "import", old, "--out", out
    )
    (old / "meta/info.json").write_text(json.dumps(information))
    video = old / "videos/observation.images.scene/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[:200])
    assert "file-000.mp4: cannot be read as a video" in error_of("import", old, "--out", out)
    video.unlink()
    assert "file-000.mp4: cannot be read as a video" in error_of("import", old, "--out", out)
    (old / "data/chunk-000/file-000.parquet").write_bytes(b"nothing")
    assert "file-000.parquet: cannot be read" in error_of("import", old, "--out", out)
    assert not list(out.glob("*"))  # no partial error_of is left


def test_odd_image_sizes_and_uneven_rates_are_refused(tmp_path, capsys):
    odd = tiny_contract(action={"step_s": 0.03})
    write_episode(tmp_path / "bags", odd, labels="operator")
    assert main(["export", str(tmp_path / "bags"), "--out", str(tmp_path / "set")]) == 2
    assert (
        "action.step_s 0.03: 33.333 frames per second are not an integer; choose a rate with --fps"
        in capsys.readouterr().err
    )
    assert (
        main(["export", str(tmp_path / "bags"), "--out", str(tmp_path / "set"), "--fps", "5"]) == 0
    )
    assert DatasetReader(tmp_path / "set").fps == 5


def test_a_missing_verb_prints_usage(capsys):
    assert main([]) == 2 and "lerobot export EPISODES" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "lerobot import DATASET" in capsys.readouterr().out


def test_instructions_depth_and_effort_survive_a_round_trip(tmp_path, contract, capsys):
    """Two instructions in one bag become two tasks.

    A missing depth image becomes an empty one and is counted.
    """
    with open_writer(tmp_path / "bags", contract, instruction="stack") as writer:
        for frame in range(10):
            stamp = START + frame * 0.1
            if frame == 6:
                writer.write(
                    absolute(contract.topics.instruction),
                    messages.string("dry them"),
                    messages.nanoseconds(stamp - 0.01),
                )
            write_cameras(writer, contract, frame, stamp, depth=frame != 3)
            efforts = np.arange(7) + 0.5 * frame
            data = messages.joint_state(
                stamp, contract.command_joints, joints_at(stamp), efforts=efforts
            )
            writer.write(absolute(contract.topics.joint_states), data, messages.nanoseconds(stamp))
            write_joints(writer, contract, contract.topics.teleop_command, stamp, joints_at(stamp))
        writer.finish("success")
    assert (
        main(
            [
                "export",
                str(tmp_path / "bags"),
                "--out",
                str(tmp_path / "set"),
                "--depth",
                "--effort",
            ]
        )
        == 0
    )
    assert "2 depth images are missing in the bags" in capsys.readouterr().out
    reader = DatasetReader(tmp_path / "set")
    episode = reader.episode(0)
    count = len(episode.state)
    assert episode.segments == ((0, "stack"), (6, "dry them"))
    np.testing.assert_allclose(
        episode.effort, [np.arange(7) + 0.5 * frame for frame in range(count)]
    )
    depths = [pixels.mean() for pixels in reader.depth_images(0, "wrist_depth")]
    known = [0.0 if frame == 3 else 1.0 + frame for frame in range(count)]
    np.testing.assert_allclose(depths, known, atol=0.003)
    assert main(["import", str(tmp_path / "set"), "--out", str(tmp_path / "back")]) == 0
    back = EpisodeReader(tmp_path / "back/set_000000", contract)
    joints = list(back.messages_of("/joint_states"))
    np.testing.assert_allclose(joints[2].effort, np.arange(7) + 1.0)
    index = load_episode(back, 24, depth=True)
    assert index.pairs.instructions[0] == "stack" and index.pairs.instructions[-1] == "dry them"
    np.testing.assert_allclose(index.depth[5, 0].mean(), 6.0, atol=0.003)
    assert (
        main(["export", str(tmp_path / "back"), "--out", str(tmp_path / "again"), "--effort"]) == 0
    )
    without = write_episode(tmp_path / "no_effort", contract, labels="operator", frames=4)
    assert main(["export", str(without), "--out", str(tmp_path / "none"), "--effort"]) == 2
    assert "/joint_states holds no efforts; export without --effort" in capsys.readouterr().err
