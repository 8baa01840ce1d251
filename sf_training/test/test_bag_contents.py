"""Tests of training data from a bag: instructions over time, commands of every kind, topics."""

import foreign_recordings
import numpy as np
import pytest
from foreign_recordings import (
    ALL,
    ARM,
    BEGIN,
    FINGER,
    FLOATS,
    GRIPPER,
    LEADER,
    SECOND_NS,
    STATES,
    changed,
    contract,
    entry,
    joints,
    loaded,
    make,
    merged,
    numbers,
    pose_at,
    recording,
    stamp_of,
    text,
    trajectory,
    without,
    write_bag,
)
from rosbags.rosbag2 import StoragePlugin

from sf_training.data.bag_files import BagError
from sf_training.data.dataset import load_dataset
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds, Verdict
from sf_training.recording import messages
from sf_training.recording.labels import add_label

ROBOT = contract()


def load(folder, entries, robot=ROBOT, **options):
    return foreign_recordings.load(folder, entries, robot, **options)


def findings(folder, entries, robot=ROBOT):
    return foreign_recordings.findings(folder, entries, robot)


# ---- instructions -------------------------------------------------------------------------------


def test_each_frame_has_the_instruction_in_force(tmp_path):
    segments = ((0.25, "grasp"), (0.9, "lift"), (1.4, "lift"), (1.6, "drop"))
    instructions = [
        entry("/instruction", messages.STRING, at, text(words)) for at, words in segments
    ]
    data = load(tmp_path, merged(recording(), instructions))
    labels = [data.instructions[number] for number in data.pair_instruction]
    assert labels == ["grasp"] * 10 + ["lift"] * 7 + ["drop"] * 3
    measure = measure_episode(tmp_path / "take", Thresholds(), 4, ROBOT)
    assert measure.instructions == ("grasp", "lift", "drop")


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_custom_data_is_read_from_the_file(tmp_path, storage):
    """rosbag2 stores a copy of metadata.yaml in the file, in case the original is lost."""
    path = write_bag(
        tmp_path / "take",
        recording(0.6),
        storage=storage,
        custom={"language_instruction": "close the lid"},
    )
    (path / "metadata.yaml").unlink()
    assert loaded([path], ROBOT).instructions == ["close the lid"]


def test_instruction_sources_have_an_order_of_precedence(tmp_path):
    """The order is: a later label, a message, custom data, the contract."""
    entries = recording(0.6)
    assert load(tmp_path, entries).instructions == ["stack the bowls"]
    data = load(tmp_path / "custom", entries, custom={"task": "wipe the table", "instruction": ""})
    assert data.instructions == ["wipe the table"]

    with_voice = merged(entries, [entry("/voice", messages.STRING, 0.0, text("fold the towel"))])
    robot = contract(topics={"/voice": "/instruction"})
    data = load(tmp_path / "said", with_voice, robot, custom={"task": "wipe the table"})
    assert data.instructions == ["fold the towel"]
    add_label(tmp_path / "said/take", segments=[(0.0, "take it"), (0.3, "put it")])
    data = load_dataset([tmp_path / "said/take"], robot, size=8, workers=1, progress=False)
    labels = [data.instructions[number] for number in data.pair_instruction]
    assert labels == ["take it"] * 4 + ["put it"] * 2


# ---- commands -----------------------------------------------------------------------------------


def test_a_trajectory_is_interpolated_at_the_times_of_its_points(tmp_path):
    """Two trajectories; the second one replaces the first half-way."""
    states = without(recording(), LEADER)
    ahead = [(0.4, pose_at(1.0)), (1.2, pose_at(3.0))]
    plan = [
        entry(LEADER, messages.JOINT_TRAJECTORY, 0.0, trajectory(0, ALL, ahead)),
        entry(
            LEADER,
            messages.JOINT_TRAJECTORY,
            0.8,
            trajectory(0, ALL, [(0.2, pose_at(5.0)), (0.6, pose_at(5.0))]),
        ),
    ]
    first = load(tmp_path, merged(states, plan)).pair_target[
        :, 0, 0
    ]  # joint 1, commanded 0.1 s after each frame
    due = (
        np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]) - 0.004
    )  # the trajectories were received 4 ms later
    expected = 0.2 * np.interp(due, [0.0, 0.4, 0.8, 1.0, 1.4], [1.0, 1.0, 2.0, 5.0, 5.0])
    np.testing.assert_allclose(first[:10], expected, atol=1e-3)


def test_an_invalid_trajectory_is_named(tmp_path):
    states = without(recording(0.6), LEADER)
    for name, names, points, sentence in (
        (
            "order",
            ALL,
            [(0.4, pose_at(0)), (0.2, pose_at(1))],
            r"the points of the trajectory of 0\.00 s",
        ),
        (
            "size",
            ALL,
            [(0.1, pose_at(0)[:5])],
            r"a point of the trajectory of 0\.00 s does not hold 7",
        ),
        ("early", ALL, [(-3.0, pose_at(0)), (0.2, pose_at(1))], r"time_from_start .* is -3 s"),
        (
            "twice",
            [*ARM, "joint1"],
            [(0.1, pose_at(0))],
            "the trajectory of .* names joint joint1 twice",
        ),
    ):
        plan = [
            entry(LEADER, messages.JOINT_TRAJECTORY, t, trajectory(0, names, points))
            for t in (0.0, 0.2)
        ]
        with pytest.raises(BagError, match=rf"{LEADER}: {sentence}"):
            load(tmp_path / name, merged(states, plan))


def arm_only(entries):
    return changed(
        entries,
        LEADER,
        lambda each: joints(
            each.content.header.stamp.sec * SECOND_NS, ARM, each.content.position[:6]
        ),
    )


@pytest.mark.parametrize("kind", ["float", "numbers", "state", "trajectory"])
def test_arm_and_gripper_may_have_separate_command_topics(tmp_path, kind):
    robot = contract(topics={GRIPPER: "/teleop/joint_command"})
    full = load(tmp_path / "one", recording())
    jaw = []
    for k in range(50):
        t = k / 25
        value = pose_at(t + 0.04)[6]
        content = {
            "float": lambda value=value: (FLOATS, make(FLOATS, float(value))),
            "numbers": lambda value=value: (messages.NUMBERS, numbers([value])),
            "state": lambda value=value, t=t: (
                messages.JOINT_STATE,
                joints(BEGIN + round(t * SECOND_NS), [FINGER], [value]),
            ),
            "trajectory": lambda value=value: (
                messages.JOINT_TRAJECTORY,
                trajectory(0, [FINGER], [(0.0, [value])]),
            ),
        }[kind]()
        jaw.append(entry(GRIPPER, content[0], t, content[1]))
    arm = changed(
        recording(), LEADER, lambda each: joints(stamp_of(each), ARM, each.content.position[:6])
    )
    both = load(tmp_path / "two", merged(arm, jaw), robot)
    np.testing.assert_allclose(both.pair_target[..., :6], full.pair_target[..., :6], atol=1e-6)
    np.testing.assert_allclose(both.pair_target[1:, :, 6], full.pair_target[1:, :, 6], atol=0.02)


def as_numbers(values):
    return [
        (
            entry(each.topic, messages.NUMBERS, each.at, numbers(values(each.content.position)))
            if each.topic == LEADER
            else each
        )
        for each in recording()
    ]


def test_numbers_for_joints_of_another_robot_are_refused(tmp_path):
    wide = as_numbers(lambda position: [*position[::-1], 5.0, 5.0, *position, 5.0])
    with pytest.raises(
        BagError, match=rf"{LEADER}: 17 values for 7 joints .*bags.columns: {{{LEADER}: "
    ):
        load(tmp_path / "refused", wide)
    names = [*[f"other{n}" for n in range(9)], *ALL, "rail"]
    data = load(tmp_path / "named", wide, contract(columns={LEADER: names}))
    np.testing.assert_allclose(
        data.pair_target, load(tmp_path / "plain", recording()).pair_target, atol=0.01
    )  # received 4 ms later
    with pytest.raises(BagError, match=r"17 values, but bags.columns has 2"):
        load(tmp_path / "short", wide, contract(columns={LEADER: ["a", "b"]}))
    assert "17 values for 7 joints" in findings(tmp_path, wide)[Verdict.FAIL, "refused by training"]


def test_a_joint_without_commands_is_named(tmp_path):
    some = [0, 1, 2, 3, 4, 6]
    names = [ALL[point] for point in some]
    arm = changed(
        recording(0.6),
        LEADER,
        lambda each: joints(stamp_of(each), names, each.content.position[some]),
    )
    with pytest.raises(BagError, match=r"/spacemouse/target: joint joint6 is never commanded"):
        load(tmp_path, arm)


# ---- topics -------------------------------------------------------------------------------------


def test_topics_of_another_robot_with_our_names_are_ignored(tmp_path):
    """Joint states, commands and a camera of another robot, under names that our contract uses."""
    other = []
    for k in range(40):
        t = k / 20
        other.append(
            entry(
                "/joint_states",
                messages.JOINT_STATE,
                t,
                joints(BEGIN + round(t * SECOND_NS), ["joint1", "joint4"], [2.0, 1.9]),
            )
        )
        other.append(entry("/teleop/joint_command", messages.NUMBERS, t, numbers([9.0])))
        other.append(entry("/control_source", messages.STRING, t, text("not ours")))
    data = load(tmp_path / "both", merged(recording(), other))
    np.testing.assert_array_equal(
        data.pair_target, load(tmp_path / "alone", recording()).pair_target
    )


def test_one_joint_on_two_mapped_topics_is_refused(tmp_path):
    other = [
        entry(
            "/b/states",
            messages.JOINT_STATE,
            t,
            joints(BEGIN + round(t * SECOND_NS), ["elbow_c"], [0.0]),
        )
        for t in (0.1, 0.3)
    ]
    with pytest.raises(BagError, match=rf"it is on /b/states and on {STATES}"):
        load(
            tmp_path, merged(recording(0.6), other), contract(topics={"/b/states": "/joint_states"})
        )


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        (
            {"/words": "/joint_states"},
            r"/words .* holds std_msgs/String, but sensor_msgs/JointState is needed",
        ),
        (
            {"/words": "/scene_camera/image_raw"},
            (
                r"/words \(read as /scene_camera/image_raw\) holds std_msgs/String, but .*Image is"
                r" needed"
            ),
        ),
        ({"/words": "/teleop/joint_command"}, r"/words .* holds std_msgs/String, but"),
    ],
)
def test_a_topic_of_the_wrong_type_is_named(tmp_path, topics, message):
    entries = merged(
        recording(0.4), [entry("/words", messages.STRING, t, text("hm")) for t in (0.0, 0.2)]
    )
    robot = contract(topics=topics)
    with pytest.raises(BagError, match=message):
        load(tmp_path, entries, robot)
    assert measure_episode(tmp_path / "take", Thresholds(), 4, robot).broken
