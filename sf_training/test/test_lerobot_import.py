"""Tests of importing LeRobot datasets of others: complete and correct, or one sentence."""

import json
import os
import random
import shutil

import cv2
import lerobot_datasets as datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_datasets import FPS, JOINTS, REST, SIDE, SPEED

from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.command import main
from sf_training.lerobot.dataset_reader import DatasetReader
from sf_training.lerobot.dataset_writer import DatasetWriter
from sf_training.lerobot.import_bags import mapping, write_episode
from sf_training.lerobot.layout import LeRobotError

JOINT_WORDS = [f"joint{number}=j{number}" for number in range(1, 7)] + ["gripper=claw"]
FUZZ_INPUTS = int(os.environ.get("SF_FUZZ_INPUTS", "100"))


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    return datasets.save_contract(tmp_path_factory.mktemp("robot"), datasets.one_camera_contract())


@pytest.fixture
def import_dataset(tmp_path, robot, capsys):
    """Import a dataset; return the exit code, the messages and the episodes."""

    def run_import(data, *words, joints=JOINT_WORDS, out="bags"):
        joint_words = ["--joints", *joints] if joints else []
        code = main(
            [
                "import",
                str(data),
                "--contract",
                str(robot),
                "--out",
                str(tmp_path / out),
                *joint_words,
                *words,
            ]
        )
        output = capsys.readouterr()
        bags = sorted((tmp_path / out).iterdir()) if (tmp_path / out).exists() else []
        return code, output.err if code else output.out, bags

    return run_import


def instructions(bag):
    """Return the texts on the instruction topic with seconds from the first image."""
    reader = EpisodeReader(bag)
    camera = next(topic for topic, kind in reader.topics.items() if kind.endswith("/Image"))
    streams = reader.read(["/instruction", camera])
    begin = streams[camera].stamps[0]
    texts = [message.data for message in streams["/instruction"].messages]
    return [
        (round((int(stamp) - int(begin)) * 1e-9, 6), text)
        for stamp, text in zip(streams["/instruction"].log_times, texts, strict=True)
    ]


def joint_values(bag, topic="/joint_states"):
    reader = EpisodeReader(bag)
    return np.array([message.position for message in reader.read([topic])[topic].messages])


def brightness(bag):
    reader = EpisodeReader(bag)
    (topic,) = (topic for topic, kind in reader.topics.items() if kind.endswith("/Image"))
    return [pixels.mean() for _, _, pixels in reader.frames({topic: range(reader.counts[topic])})]


@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
@pytest.mark.parametrize("video", [True, False])
def test_versions_and_image_formats_give_the_same_data(tmp_path, import_dataset, version, video):
    data = datasets.write(
        tmp_path / "theirs",
        version=version,
        video=video,
        task_of=lambda episode, frame: int(frame >= 4),
    )
    code, output, bags = import_dataset(data)
    assert (code, len(bags)) == (0, 2), output
    np.testing.assert_allclose(
        joint_values(bags[1]), [REST + SPEED * frame for frame in range(5)], atol=1e-9
    )
    np.testing.assert_allclose(brightness(bags[1]), 80 + 10 * np.arange(5), atol=3)
    assert instructions(bags[0]) == [(0.0, "stack the cups"), (0.4, "rinse them")]


def test_instructions_may_change_within_an_episode(tmp_path, import_dataset):
    order = [1, 1, 0, 1, 1, 1]
    data = datasets.write(
        tmp_path / "theirs", task_of=lambda episode, frame: order[frame] if episode == 0 else 0
    )
    _, _, bags = import_dataset(data)
    assert instructions(bags[0]) == [
        (0.0, "rinse them"),
        (0.2, "stack the cups"),
        (0.3, "rinse them"),
    ]
    assert EpisodeReader(bags[0]).recorded_instruction == "rinse them" and instructions(
        bags[1]
    ) == [(0.0, "stack the cups")]


def test_subtasks_are_read_from_either_column(tmp_path, import_dataset):
    """The columns are subtask_index with its table (-1: not labelled) and language_persistent.

    A row of language_persistent applies from its time on.
    """

    def rows(episode, frame):
        steps = [("grasp", 0.2), ("lift", 0.4)]
        return [
            {"role": "assistant", "content": text, "style": "subtask", "timestamp": time}
            for text, time in steps
        ]

    data = datasets.write(
        tmp_path / "numbers", extra=lambda episode, frame: {"subtask_index": frame // 2 - 1}
    )
    pq.write_table(
        pa.table({"subtask_index": [0, 1], "__index_level_0__": ["grasp", "lift"]}),
        data / "meta/subtasks.parquet",
    )
    other = datasets.write(
        tmp_path / "rows",
        extra=lambda episode, frame: {"language_persistent": rows(episode, frame)},
    )
    for folder, key in ((data, "subtask_index"), (other, "language_persistent")):
        described = json.loads((folder / "meta/info.json").read_text())
        described["features"][key] = {"dtype": "language", "shape": [1], "names": None}
        (folder / "meta/info.json").write_text(json.dumps(described))
        _, _, bags = import_dataset(folder, "--instructions", "subtask", out=f"bags_{key}")
        assert instructions(bags[0]) == [(0.0, "stack the cups"), (0.2, "grasp"), (0.4, "lift")]
        _, output, bags = import_dataset(folder, out=f"tasks_{key}")
        assert "use them with --instructions subtask" in output and instructions(bags[0]) == [
            (0.0, "stack the cups")
        ]
    assert (
        "neither subtask_index nor"
        in import_dataset(datasets.write(tmp_path / "none"), "--instructions", "subtask")[1]
    )


def test_ambiguous_tasks_are_refused(tmp_path, import_dataset):
    data = datasets.write(tmp_path / "theirs", task_of=lambda episode, frame: frame % 2)
    (data / "meta/tasks.parquet").unlink()
    code, output, bags = import_dataset(data)
    assert (
        code == 2
        and "episode 0 has 2 tasks but no task_index for each frame" in output
        and not bags
    )
    assert import_dataset(data, "--instruction", "tidy up")[0] == 0
    empty = datasets.write(tmp_path / "empty", tasks=(" ", "rinse"))
    assert (
        "episode 0 has no instruction at frame 0; give one with --instruction TEXT"
        in import_dataset(empty, out="other")[1]
    )


DEGREES = np.degrees(REST)
DEGREES[6] = REST[6]


def test_values_that_are_not_radians_are_refused_with_the_likely_unit(tmp_path, import_dataset):
    def error_of(name, values, *words):
        data = datasets.write(
            tmp_path / name, values=lambda episode, frame: np.asarray(values) + SPEED * frame
        )
        code, text, _ = import_dataset(data, *words, out=f"out_{name}")
        assert code == 2 and len(text.splitlines()) == 1
        return text

    text = error_of("both", [*DEGREES[:6], 0.01])
    assert (
        "joint3 (column j3) goes from 80.21 to 80.27" in text
        and "--units degrees or --units normalised" in text
    )
    assert "degrees; if so, give --units degrees" in error_of(
        "degrees", [-120, *DEGREES[1:6], 0.01]
    )
    assert "values from -100 to 100; if so, give --units normalised" in error_of(
        "percent", [0, 99, -99, 0, 0, 0, 0.01]
    )
    assert "neither degrees nor values from -100 to 100" in error_of(
        "steps", [2048, 900, 3000, 2000, 100, 0, 0.01]
    )
    assert "the gripper (column claw) goes from 95 to 95" in error_of("claw", [*REST[:6], 95.0])
    assert "normalised values lie between -100 and 100: try --units degrees" in error_of(
        "far", [-150] + [0] * 6, "--units", "normalised"
    )


def test_units_are_converted_as_requested(tmp_path, import_dataset, robot):
    contract = datasets.one_camera_contract()
    data = datasets.write(tmp_path / "degrees", values=lambda episode, frame: DEGREES)
    _, _, bags = import_dataset(data, "--units", "degrees")
    np.testing.assert_allclose(joint_values(bags[0])[0], REST, atol=1e-6)
    ends = np.array([-100.0, 100, 0, 50, -50, 0, 25])
    data = datasets.write(tmp_path / "percent", values=lambda episode, frame: ends)
    _, _, bags = import_dataset(data, "--units", "normalised", out="percent_out")
    lower, upper = (
        np.array([getattr(joint, side) for joint in contract.joints]) for side in ("lower", "upper")
    )
    np.testing.assert_allclose(
        joint_values(bags[0])[0, :6], lower + (ends[:6] + 100) / 200 * (upper - lower), atol=1e-9
    )
    gripper = contract.gripper
    np.testing.assert_allclose(
        joint_values(bags[0])[0, 6], gripper.closed + 0.25 * (gripper.open - gripper.closed)
    )
    wide = datasets.write(
        tmp_path / "wide", values=lambda episode, frame: REST + [7.0, 0, 0, 0, 0, 0, 0]
    )
    code, output, _ = import_dataset(wide, "--units", "radians", out="wide_out")
    assert (
        code == 0
        and "joint1 (column j1) goes from 7 to 7.002, the contract allows" in output
        and "check --units" in output
    )


NAMES = {
    "numbers": {f"{name}.pos": column for column, name in enumerate(JOINTS)},
    "numbers out of order": dict(reversed([(name, column) for column, name in enumerate(JOINTS)])),
    "by number": {str(column): name for column, name in enumerate(JOINTS)},
    "a dictionary of lists": {"arm": JOINTS[:6], "hand": JOINTS[6:]},
    "nested": {"motors": {"arm": [JOINTS[:3], JOINTS[3:6]], "hand": "claw"}},
    "nested lists": [JOINTS],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_every_form_of_column_names_is_read(tmp_path, import_dataset, names):
    data = datasets.write(
        tmp_path / "theirs", names=names, values=lambda episode, frame: REST + 0.0001 * np.arange(7)
    )
    code, output, bags = import_dataset(data)
    assert code == 0, output
    np.testing.assert_allclose(joint_values(bags[0])[0], REST + 0.0001 * np.arange(7), atol=1e-9)


def test_a_gripper_that_hardly_moves_is_reported(tmp_path, import_dataset):
    """Values in metres, read as a share of the opening, would all be closed."""
    data = datasets.write(
        tmp_path / "theirs", values=lambda episode, frame: REST + [*[0.0] * 6, 0.004 * frame]
    )
    code, output, _ = import_dataset(data, "--gripper", "0", "1")
    assert code == 0
    assert "the gripper (column claw) goes only from 0.02 to 0.0401, so it hardly moves" in output
    assert "warning" not in import_dataset(data, out="metres")[1]


def test_one_camera_for_two_is_refused(tmp_path):
    camera = datasets.one_camera_contract().model_dump(mode="json")["cameras"][0]
    second = camera | {"name": "second", "topic": "/second/image_raw", "info_topic": None}
    robot = datasets.tiny_contract(cameras=[camera, second])
    reader = DatasetReader(datasets.write(tmp_path / "theirs"))
    names = dict.fromkeys(robot.camera_names, "front")
    joints = dict(word.split("=") for word in JOINT_WORDS)
    with pytest.raises(LeRobotError, match=r"cameras \w+ and second are both 'front'; correct"):
        mapping(reader, robot, names, joints, "auto", None)


def test_columns_are_selected_by_number_and_mistakes_are_named(tmp_path, import_dataset):
    data = datasets.write(tmp_path / "theirs", names=("a", "b"))  # two names for seven columns
    numbers = [f"joint{number}={number - 1}" for number in range(1, 7)]
    assert "it has 7 columns without usable names" in import_dataset(data)[1]
    assert (
        "has no column 7 for gripper; give one of 0 to 6"
        in import_dataset(data, joints=[*numbers, "gripper=7"])[1]
    )
    assert (
        "joint6 and gripper are the same column of state"
        in import_dataset(data, joints=[*numbers, "gripper=5"])[1]
    )
    assert "--joints: the contract has no 'elbow'" in import_dataset(data, joints=["elbow=3"])[1]
    code, output, bags = import_dataset(data, joints=[*numbers, "gripper=6"])
    assert code == 0 and len(bags) == 2, output


SHAPES = {
    "c h w": (("c", "h", "w"), (3, SIDE[1], SIDE[0])),
    "channel first": (("channels", "height", "width"), (3, SIDE[1], SIDE[0])),
    "no names": (None, (SIDE[1], SIDE[0], 3)),
    "no names, channel first": (None, (3, SIDE[1], SIDE[0])),
    "singular": (("height", "width", "channel"), (SIDE[1], SIDE[0], 3)),
    "rgb": (("rows", "columns", "rgb"), (SIDE[1], SIDE[0], 3)),
}


@pytest.mark.parametrize(("names", "shape"), SHAPES.values(), ids=SHAPES)
def test_every_axis_order_of_images_is_read(tmp_path, import_dataset, names, shape):
    code, output, _ = import_dataset(
        datasets.write(tmp_path / "theirs", image_names=names, image_shape=shape)
    )
    assert code == 0, output


@pytest.mark.parametrize(
    "camera", ["observation.image", "observation.images.front", "observation.rgb", "image"]
)
def test_the_only_camera_is_found_under_any_key(tmp_path, import_dataset, camera):
    data = datasets.write(tmp_path / "theirs", camera=camera)
    assert import_dataset(data)[0] == 0
    assert import_dataset(data, "--cameras", f"scene={camera.split('.')[-1]}", out="short")[0] == 0
    assert import_dataset(data, "--cameras", f"scene={camera}", out="whole")[0] == 0
    assert (
        "--cameras: the contract has no 'top'"
        in import_dataset(data, "--cameras", f"top={camera}", out="wrong")[1]
    )


def test_a_failed_import_leaves_nothing_and_fails_the_same_way_again(tmp_path, import_dataset):
    data = datasets.write(tmp_path / "theirs", lengths=(6, 5, 4), video=True)
    video = next(data.rglob("*.mp4"))
    datasets.write_video(
        video,
        [frame for episode in range(2) for frame in datasets.frames_of((6, 5)[episode], episode)],
    )
    first, second = import_dataset(data), import_dataset(data)
    assert (
        first == second
        and first[0] == 2
        and "episode 2: " in first[1]
        and "4 frames too early" in first[1]
    )
    assert not (tmp_path / "bags").exists()
    left = tmp_path / "bags/.theirs.partial/theirs_000000"  # leftovers of a killed import
    left.mkdir(parents=True)
    (left / "metadata.yaml").write_text("")
    code, output, bags = import_dataset(data, "--skip-damaged")
    assert code == 0 and "left out: episode 2" in output and "2 episodes" in output
    assert [bag.name for bag in bags] == ["theirs_000000", "theirs_000001"]
    assert "theirs_000000: already exists; remove it" in import_dataset(data)[1]


def test_frames_of_a_video_with_another_rate_are_read_by_time(tmp_path, import_dataset):
    data = datasets.write(tmp_path / "theirs", lengths=(6,), video=True)
    video = next(data.rglob("*.mp4"))
    datasets.write_video(
        video, [frame for frame in datasets.frames_of(6, 0) for _ in range(3)], rate=3 * FPS
    )
    _, _, bags = import_dataset(data)
    np.testing.assert_allclose(brightness(bags[0]), 20 + 10 * np.arange(6), atol=3)
    datasets.write_video(video, datasets.frames_of(6, 0), rate=FPS // 2)
    assert "has no frame at 0.100 s" in import_dataset(data, out="slow")[1]


@pytest.mark.parametrize(("key", "value", "sentence"), [
    ("fps", "absent", "info.json: has no fps"),
    ("fps", 0, "info.json: fps is '0'"),
    ("features", "absent", "info.json: has no features"),
    ("codebase_version", "absent", "has version None"),
    ("data_path", "data/{nothing}.parquet", "cannot be read as a list of episodes (no 'nothing')"),
])  # fmt: skip
def test_errors_of_descriptions_name_file_and_key(tmp_path, import_dataset, key, value, sentence):
    code, output, bags = import_dataset(datasets.write(tmp_path / "theirs", **{key: value}))
    assert code == 2 and sentence in output and not bags


def test_non_numeric_values_are_named(tmp_path, import_dataset):
    data = datasets.write(
        tmp_path / "theirs",
        values=lambda episode, frame: np.where(episode == 1 and frame == 3, np.nan, REST),
    )
    code, output, bags = import_dataset(data)
    assert (
        code == 2
        and "episode 1: observation.state of column 0 is nan at frame 3" in output
        and not bags
    )


def test_random_faults_give_a_result_or_one_sentence(tmp_path, robot, capsys):
    """SF_FUZZ_INPUTS sets the number; the suite runs a hundred."""
    full = [
        datasets.write(tmp_path / f"whole_{version}_{video}", (3, 2), version=version, video=video)
        for version in ("v3.0", "v2.1")
        for video in (True, False)
    ]
    joints = ["--joints", *JOINT_WORDS]
    for seed in range(FUZZ_INPUTS):
        rng = random.Random(seed)
        data, out = tmp_path / "broken", tmp_path / "out"
        for folder in (data, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(rng.choice(full), data)
        done = [
            datasets.break_one(data, rng)
            for _ in range(rng.choice((1, 1, 2)))
            if any(data.rglob("*.*"))
        ]
        code = main(["import", str(data), "--contract", str(robot), "--out", str(out), *joints])
        output = capsys.readouterr().err
        assert (code == 0 and not output) or (code == 2 and len(output.splitlines()) == 1), (
            f"seed {seed}, {done}: {output}"
        )
        assert code == 0 or not out.exists(), f"seed {seed}, {done}: left {sorted(out.rglob('*'))}"


def metres(frame, size=SIDE):
    """Return depth that increases over the image, with an unmeasured area."""
    pixels = (
        np.linspace(0.2, 3.0 + 0.1 * frame, size[0] * size[1])
        .reshape(size[1], size[0])
        .astype(np.float32)
    )
    pixels[0, :3] = (0.0, np.nan, -1.0)
    return pixels


def test_an_image_of_another_size_is_refused_in_a_video(tmp_path):
    open_set = DatasetWriter(
        tmp_path / "set", fps=FPS, robot="claw", joints=JOINTS, cameras={"scene": (64, 48)}
    )
    with (
        pytest.raises(
            LeRobotError, match=r"observation\.images\.scene: an image is 16x12, the video 64x48"
        ),
        open_set as writer,
    ):
        writer.add_episode(
            "stack", REST[None], REST[None], np.zeros(1), [("scene", datasets.frames_of(1, 0)[0])]
        )
    assert not list(tmp_path.iterdir())


def test_depth_survives_a_round_trip_to_the_millimetre(tmp_path):
    size = (64, 48)  # the encoder refuses smaller ones
    options = {"cameras": {"scene": size}, "depths": {"scene_depth": size}, "effort": True}
    with DatasetWriter(tmp_path / "set", fps=FPS, robot="claw", joints=JOINTS, **options) as writer:
        values = np.tile(REST, (4, 1))
        images = [("scene", np.full((48, 64, 3), 90, np.uint8))] * 4 + [
            ("scene_depth", metres(frame, size)) for frame in range(4)
        ]
        writer.add_episode("stack", values, values, np.arange(4.0), images, effort=0.5 * values)
        writer.finish()
    reader = DatasetReader(tmp_path / "set")
    assert (list(reader.cameras), list(reader.depths)) == (["scene"], ["scene_depth"])
    for frame, found in enumerate(reader.depth_images(0, "scene_depth")):
        known = metres(frame, size)[1:]
        assert found[0, :3].tolist() == [0, 0, 0] and np.abs(found[1:] - known).max() < 0.0012
    described = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    assert described["observation.images.scene_depth"]["info"]["is_depth_map"] and described[
        "observation.effort"
    ]["shape"] == [7]
    statistics = json.loads((tmp_path / "set/meta/stats.json").read_text())[
        "observation.images.scene_depth"
    ]
    assert np.shape(statistics["mean"]) == (1, 1, 1) and 3.0 < statistics["max"][0][0][0] < 3.31
    contract = datasets.one_camera_contract(size, depth=True)
    found = mapping(
        reader, contract, {}, dict(word.split("=") for word in JOINT_WORDS), "auto", None
    )
    bag = write_episode(reader, 0, contract, found, tmp_path / "bags", "back", [])
    (topic,) = (f"/{camera.depth_topic}" for camera in contract.cameras)
    frames = [pixels for _, _, pixels in EpisodeReader(bag, contract).frames({topic: range(4)})]
    assert np.abs(frames[2][1:] - metres(2, size)[1:]).max() < 0.0012


@pytest.mark.parametrize(
    ("kind", "unit"), [("tiff float", None), ("png mm", None), ("png", "mm"), ("tiff float", "m")]
)
def test_depth_images_of_other_datasets_are_read(tmp_path, kind, unit):
    known = np.nan_to_num(np.maximum(metres(0), 0.0))
    stored = known if "float" in kind else (1000 * known).round().astype(np.uint16)
    data = cv2.imencode(".tiff" if "tiff" in kind else ".png", stored)[1].tobytes()
    folder = datasets.write(
        tmp_path / "theirs",
        extra=lambda episode, frame: {
            "observation.images.front.depth": {"bytes": data, "path": ""}
        },
    )
    described = json.loads((folder / "meta/info.json").read_text())
    information = {"is_depth_map": True} | ({"depth_unit": unit} if unit else {})
    feature = {
        "dtype": "image",
        "shape": [SIDE[1], SIDE[0], 1],
        "names": ["height", "width", "channels"],
        "info": information,
    }
    described["features"]["observation.images.front.depth"] = feature
    (folder / "meta/info.json").write_text(json.dumps(described))
    reader = DatasetReader(folder)
    assert list(reader.cameras) == ["front"]
    np.testing.assert_allclose(next(reader.depth_images(1, "front.depth")), known, atol=0.0006)
