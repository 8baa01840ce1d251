"""Tests of faults in a bag from which a model would learn something wrong without a word."""

import sqlite3
from dataclasses import replace

import foreign_recordings
import numpy as np
import pytest
import yaml
from foreign_recordings import (
    ALL,
    ARM,
    BEGIN,
    FINGER,
    GRIPPER,
    LEADER,
    SECOND_NS,
    STATES,
    TOP,
    changed,
    contract,
    entry,
    findings,
    joints,
    jpeg,
    loaded,
    make,
    merged,
    recording,
    shot,
    stamp_of,
    text,
    write_bag,
    write_mcap,
)
from rosbags.rosbag2 import StoragePlugin
from synthetic_episodes import HEIGHT, WIDTH, tiny_contract, write_episode

from sf_training.data.bag_files import BagError
from sf_training.data.bag_storage import MERGE, ros_type
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.evaluation.recorded_episode import open_episodes
from sf_training.lint.thresholds import Verdict
from sf_training.recording import messages
from sf_training.recording.labels import add_label
from sf_training.recording.topics import episode_topics

ROBOT = contract()
DEPTH = "/rig/depth"
WITH_DEPTH = contract(topics={DEPTH: "/scene_camera/depth/image_raw"})
TWO_TOPICS = contract(topics={GRIPPER: "/teleop/joint_command"})


def load(folder, entries, robot=ROBOT, **options):
    return foreign_recordings.load(folder, entries, robot, **options)


# ---- images -------------------------------------------------------------------------------------


def depth_png(k: int, how: str):
    """Return depth of 0.8 m; frame 3 has a fault."""
    how = how if k == 3 else ""
    size = (2 * HEIGHT, WIDTH) if how == "size" else (HEIGHT, WIDTH)
    rng = np.random.default_rng(k)
    pixels = rng.integers(700, 900, size).astype(np.uint16)
    message = jpeg(BEGIN + k * SECOND_NS // 10, pixels, ".png", "16UC1; png compressed")
    if how == "cut":
        message.data = message.data[: len(message.data) // 2]
    if how == "colour":
        message.data = jpeg(0, shot(1), ".png").data
    return message


def depth_raw(k: int, how: str):
    data = np.full((HEIGHT, WIDTH), 800, np.uint16).view(np.uint8).ravel()
    encoding, step = "16UC1", 2 * WIDTH
    if k == 3:
        encoding = "mono8" if how == "encoding" else encoding
        step = WIDTH if how == "step" else step
    head = foreign_recordings.header(BEGIN + k * SECOND_NS // 10)
    return make(messages.IMAGE, head, HEIGHT, WIDTH, encoding, 0, step, data)


@pytest.mark.parametrize("how", ["cut", "colour", "size", "encoding", "step"])
def test_a_bad_depth_image_drops_only_its_depth(tmp_path, how):
    raw = how in ("encoding", "step")
    kind = messages.IMAGE if raw else messages.COMPRESSED_IMAGE
    depth = [
        entry(DEPTH, kind, k / 10, (depth_raw if raw else depth_png)(k, how)) for k in range(8)
    ]
    entries = merged(recording(0.8), depth)
    bag = write_bag(tmp_path / "take", entries)
    for needed, count in ((False, 8), (True, 7)):  # by the teacher
        data = loaded([bag], WITH_DEPTH, depth=needed)
        assert len(np.asarray(data.images)) == count and data.pair_frame.max() < count
        assert "/scene_camera/depth/image_raw at 0.30 s" in data.notes[0]
        assert "1 of 8 observations have no usable depth" in data.notes[0]
        assert ("1 observations are left out" in data.notes[-1]) == needed
    assert len(np.asarray(data.depth)) == 7 and 0.3 not in np.round(
        data.stamps - BEGIN / SECOND_NS, 3
    )
    found = findings(tmp_path, entries, WITH_DEPTH)
    assert any("1 of 8 images" in text and "at 0.30 s" in text for text in found.values())


def test_only_a_teacher_that_needs_depth_refuses_a_bag_without_usable_depth(tmp_path):
    depth = [entry(DEPTH, messages.COMPRESSED_IMAGE, k / 10, depth_png(3, "cut")) for k in range(5)]
    for number, each in enumerate(depth):
        each.content.header.stamp = foreign_recordings.header(
            BEGIN + number * SECOND_NS // 10
        ).stamp
    bag = write_bag(tmp_path / "take", merged(recording(0.5), depth))
    assert len(loaded([bag], WITH_DEPTH, depth=False).images) == 5
    with pytest.raises(BagError, match=r"no observation has depth that can be used; .* lint"):
        loaded([bag], WITH_DEPTH)


def test_depth_and_joints_that_are_often_missing_are_noted(tmp_path):
    depth = [entry(DEPTH, messages.COMPRESSED_IMAGE, k / 10, depth_png(k, "")) for k in (0, 4)]
    states = [each for each in recording(0.8) if each.topic != STATES or not 0.2 < each.at < 0.65]
    notes = load(tmp_path, merged(states, depth), WITH_DEPTH).notes
    assert any("observations have no depth image within 0.05 s" in each for each in notes), notes
    assert any(f"{STATES}: 3 of 8 observations are left out" in each for each in notes)


def test_two_topics_for_one_camera_are_refused(tmp_path):
    robot = contract(topics={"/rig/left": "/scene_camera/image_raw"})
    good = recording(0.5)
    other = [replace(each, topic="/rig/left") for each in good if each.topic == TOP]
    assert len(load(tmp_path / "one", good, robot).images) == 5
    with pytest.raises(BagError, match=rf"/rig/left and {TOP} are both mapped to .* camera scene"):
        load(tmp_path / "two", merged(good, other), robot)
    jpegs = [entry(TOP, messages.COMPRESSED_IMAGE, 0.1, jpeg(BEGIN, shot(1)))]
    mixed = write_mcap(tmp_path / "take.mcap", good)
    assert loaded([mixed], robot).episodes
    bag = write_mixed(tmp_path / "mixed", good, jpegs)
    with pytest.raises(
        BagError, match=rf"{TOP} of camera scene holds .*CompressedImage and .*Image"
    ):
        loaded([bag], robot)


def write_mixed(folder, *parts):
    """Write one split bag whose files hold another type on one topic."""
    for number, part in enumerate(parts):
        write_mcap(folder / f"{folder.name}_{number}.mcap", part)
    return folder


# ---- commands and clocks ------------------------------------------------------------------------


def test_a_gripper_beyond_its_range_is_noted(tmp_path):
    wide = [1] * 6 + [2.5]
    entries = recording(0.6)
    for topic in (STATES, LEADER):
        entries = changed(
            entries, topic, lambda each: joints(stamp_of(each), ALL, each.content.position * wide)
        )
    data = load(tmp_path, entries)
    assert len(data.notes) == 2 and "gripper reaches 0.075, the contract allows" in data.notes[0]
    assert f"bags.gripper: {{{STATES}: [CLOSED, OPEN]}}" in data.notes[0]


def split_commands(entries, stamp=lambda t: BEGIN + round(t * SECOND_NS), first=0.0):
    """Return the recording with the gripper's commands on a topic of their own."""
    arm = changed(
        entries, LEADER, lambda each: joints(stamp_of(each), ARM, each.content.position[:6])
    )
    jaw = [
        entry(
            GRIPPER,
            messages.JOINT_STATE,
            each.at,
            joints(stamp(each.at), [FINGER], each.content.position[6:]),
        )
        for each in entries
        if each.topic == LEADER and each.at >= first
    ]
    return merged(arm, jaw)


def test_observations_without_a_command_are_noted_with_the_joint(tmp_path):
    entries = split_commands(recording(1.0), first=0.6)
    data = load(tmp_path, entries, TWO_TOPICS)
    assert len(data.pair_frame) == 5 and len(data.notes) == 1
    assert (
        "5 of 10 observations have no label: gripper is first commanded at 0.60 s" in data.notes[0]
    )
    assert (
        "gripper is first commanded" in findings(tmp_path, entries, TWO_TOPICS)[Verdict.WARN, "odd"]
    )
    early = [each for each in recording(1.0) if each.topic != LEADER or each.at < 0.5]
    (note,) = load(tmp_path / "early", early).notes
    assert "5 of 10 observations have no label: no joint is commanded after 0.48 s" in note


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        (STATES, "the live policy refuses them after 0.1 s"),
        (LEADER, "so labels come from earlier commands"),
    ],
)
def test_each_stream_has_its_own_delay_budget(tmp_path, topic, said):
    def late(name, t):
        return BEGIN + round((t - (0.24 if name == topic else 0.0)) * SECOND_NS)

    data = load(tmp_path, recording(1.0, stamp=late))
    (note,) = [each for each in data.notes if "on receipt" in each]
    assert f"{topic}: messages are 0.24 s old on receipt, those of" in note and said in note
    assert note.count(topic) == 1


@pytest.mark.parametrize("ahead", [2.0, -0.3, -2.0])
def test_the_gripper_topic_with_another_clock_is_named(tmp_path, ahead):
    entries = split_commands(recording(2.6), lambda t: BEGIN + round((t + ahead) * SECOND_NS))
    if abs(ahead) > 1:
        with pytest.raises(BagError, match=rf"{GRIPPER}.* on two clocks|and {GRIPPER} are on two"):
            load(tmp_path, entries, TWO_TOPICS)
        return
    data = load(tmp_path, entries, TWO_TOPICS)
    assert len(data.pair_frame) > 20 and f"{GRIPPER}: messages are 0.30 s old" in data.notes[0]


def test_two_publishers_on_one_topic_have_clocks_of_their_own(tmp_path):
    """Arm and gripper drivers both publish on the topic of the joint states."""
    states = [each for each in recording(1.0) if each.topic == STATES]
    arm = [
        replace(each, content=joints(stamp_of(each), ARM, each.content.position[:6]))
        for each in states
    ]
    jaw = [
        replace(
            each,
            content=joints(stamp_of(each) - SECOND_NS // 4, [FINGER], each.content.position[6:]),
        )
        for each in states
    ]
    others = [each for each in recording(1.0) if each.topic != STATES]
    data = load(tmp_path, merged(others, arm, jaw))
    assert f"{STATES} (gripper): messages are 0.25 s old on receipt" in data.notes[0]


# ---- instructions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("custom", "instruction"),
    [
        ({"instruction": None, "task": "open it"}, "open it"),
        ({"instruction": " ", "task": ["open it"]}, "open it"),
        ({"instruction": "None", "language_instruction": "open it"}, "open it"),
        ({"instruction": 3, "task": "open it"}, "open it"),
        ({"task": "[left] open it"}, "[left] open it"),
        ({"task": None}, ""),
        ({"task": []}, None),
        ({"task": 3}, None),
        ({"task": ["open it", "close it"]}, None),
        ({"task": "['open it', 'close it']"}, None),
        ({"instruction": {"en": "open it"}}, None),
    ],
)
def test_only_a_text_in_custom_data_is_an_instruction(tmp_path, custom, instruction):
    bag = write_bag(tmp_path / "take", recording(0.3))
    described = yaml.safe_load((bag / "metadata.yaml").read_text())
    described["rosbag2_bagfile_information"]["custom_data"] = custom
    (bag / "metadata.yaml").write_text(yaml.safe_dump(described))
    # The contract's instruction is for bags without one of their own.
    assert loaded([bag], ROBOT).instructions == [instruction or "stack the bowls"]
    silent = contract(instruction="")
    if instruction is None:
        with pytest.raises(BagError, match=r"in its custom data is .*, which is no instruction"):
            loaded([bag], silent)
    else:
        assert EpisodeReader(bag, silent).recorded_instruction == instruction


def test_a_message_that_says_none_is_no_instruction(tmp_path):
    said = [entry("/instruction", messages.STRING, 0.0, text(word)) for word in ("None", " ")]
    assert load(tmp_path, merged(recording(0.3), said)).instructions == ["stack the bowls"]


def test_relabelled_times_follow_a_slow_simulated_clock(tmp_path):
    """The simulation runs at half speed; labels are in seconds of the recorder."""

    def slow(_, t):
        return 77 * SECOND_NS + round(t * SECOND_NS / 2)

    bag = write_bag(tmp_path / "take", recording(4.0, stamp=slow))
    add_label(bag, segments=[(0.0, "open it"), (1.0, "close it")])
    data = loaded([bag], ROBOT)
    texts = [data.instructions[number] for number in data.pair_instruction]
    begins = data.stamps[data.pair_frame[texts.index("close it")]]
    assert begins == pytest.approx(77.5, abs=0.1)


# ---- files --------------------------------------------------------------------------------------


def test_type_names_of_other_recorders_are_read(tmp_path, monkeypatch):
    assert ros_type("sensor_msgs::msg::dds_::Image_") == ros_type("sensor_msgs/Image")
    assert ros_type("sf_msgs/srv/A") == "sf_msgs/srv/A" and ros_type("plain") == "plain"
    file = write_mcap(tmp_path / "take.mcap", recording(0.5), type_name=short_name)
    assert b"sensor_msgs/Image" in file.read_bytes()
    assert len(loaded([file], ROBOT).images) == 5


def short_name(kind):
    return kind.replace("/msg/", "/")


def test_an_unmerged_sqlite_journal_is_refused_with_a_cure_that_works(tmp_path):
    bag = write_bag(tmp_path / "take", recording(0.6), StoragePlugin.SQLITE3)
    file = next(bag.glob("*.db3"))
    writer, reader = sqlite3.connect(file), sqlite3.connect(file)
    writer.execute("PRAGMA journal_mode=WAL")
    reader.execute("SELECT count(*) FROM messages").fetchone()
    writer.execute("DELETE FROM messages WHERE id > 50")
    writer.commit()
    images = {each: each.read_bytes() for each in bag.iterdir()}
    writer.close()
    reader.close()
    for each, content in images.items():  # as if the recorder had been killed
        each.write_bytes(content)
    with pytest.raises(BagError, match=r"take.db3-wal, because .*`sqlite3 .*take.db3 \"PRAGMA"):
        loaded([bag], ROBOT)
    cure = sqlite3.connect(file)
    for statement in MERGE.split(";"):
        cure.execute(statement).fetchall()
    cure.close()
    assert not file.with_name(file.name + "-wal").exists()
    assert loaded([bag], ROBOT).episodes


# ---- verbs --------------------------------------------------------------------------------------


def test_evaluation_reports_what_training_reports(tmp_path, capsys):
    robot = tiny_contract(action=foreign_recordings.JOINT_SPACE)
    for name, labels in (("a", "operator"), ("b", "none")):
        write_episode(tmp_path, robot, name, frames=4, labels=labels)
    assert [reader.name for reader in open_episodes(tmp_path, robot, ("success",))] == ["a"]
    assert "left out: " in capsys.readouterr().err
    for check in (
        lambda: open_episodes(tmp_path, robot, ("success",), strict=True),
        lambda: load_dataset(
            [tmp_path / "a", tmp_path / "b"], robot, size=8, workers=1, progress=False, strict=True
        ),
    ):
        with pytest.raises(BagError, match=r"/b: .*holds no actions"):
            check()


def test_a_grippers_own_controller_is_recorded():
    def recorded(output):
        described = ROBOT.model_dump(mode="json")
        (arm,) = described["arms"].values()
        arm["command"]["gripper"] = {"output": output, "topic": "jaw/commands"}
        topics = episode_topics(type(ROBOT).model_validate(described))
        return {topic.name: topic.type_name for topic in topics}

    assert recorded("forward_command")["/jaw/commands"] == messages.NUMBERS
    assert "/jaw/commands" not in recorded("parallel_gripper"), "an action has no topic of goals"
