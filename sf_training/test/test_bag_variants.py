"""Tests of bags with one fault each.

Training, lint and export refuse the bag in one sentence with position and cure, or the labels equal
those of the good bag.
"""

from dataclasses import replace

import numpy as np
import pytest
from foreign_recordings import (
    ALL,
    BEGIN,
    FLOATS,
    GRIPPER,
    HEIGHT,
    LEADER,
    SECOND_NS,
    STATES,
    TOP,
    WIDTH,
    changed,
    contract,
    describe,
    entry,
    header,
    joints,
    loaded,
    make,
    merged,
    numbers,
    pose_at,
    recording,
    shot,
    stamp_of,
    text,
    without,
    write_bag,
    write_mcap,
)

from sf_training.data.bag_files import BagError, find_episodes
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.export_bags import stretches
from sf_training.lint.checks import check_episode
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds, Verdict
from sf_training.recording import messages

ROBOT = contract()
GOOD = recording(1.0)
AWAY = np.array([*[0.4] * 6, 0.0])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return loaded([write_bag(tmp_path_factory.mktemp("good") / "take", GOOD)], ROBOT)


def positions(topic, change):
    """Return the good recording with other positions on a topic."""
    return changed(
        GOOD, topic, lambda each: joints(stamp_of(each), ALL, change(each.at, pose_at(each.at)))
    )


def gripping(topic, change):
    """Return the messages of one topic of the good recording, with a gripper that closes and opens
    every 0.5 s. The other topics are in it once, with those of the joint states.
    """
    moved = changed(
        GOOD,
        topic,
        lambda each: joints(
            stamp_of(each),
            ALL,
            [*pose_at(each.at)[:6], change(0.03 if round(each.at / 0.5) % 2 else 0.0)],
        ),
    )
    if topic == STATES:
        return without(moved, LEADER)
    return [each for each in moved if each.topic == topic]


def second(topic, change, late=1000):
    """Return the good recording with a second publisher of the same joints."""
    others = [
        replace(each, log=each.log + late, content=joints(stamp_of(each), ALL, change(each.at)))
        for each in GOOD
        if each.topic == topic
    ]
    return merged(GOOD, others)


def named_twice(each):
    return joints(stamp_of(each), ALL + ALL, [*pose_at(each.at), *(pose_at(each.at) + AWAY)])


def raw(each, encoding):
    size = (HEIGHT, WIDTH, encoding, 0, 3 * WIDTH)
    return make(messages.IMAGE, header(stamp_of(each)), *size, shot(1).reshape(-1))


def ahead(topic, seconds):
    """Return the good recording with a clock that is ahead on one topic."""
    return recording(
        1.0, stamp=lambda name, t: BEGIN + round((t + seconds * (name == topic)) * SECOND_NS)
    )


def eight_numbers():
    others = [
        entry(LEADER, messages.NUMBERS, each.at, numbers([*pose_at(each.at), 0.0]))
        for each in GOOD
        if each.topic == LEADER
    ]
    return merged(without(GOOD, LEADER), others)


def twice_beside_a_gripper():
    """Return commands of which one topic names a joint twice, and another one has no names."""
    arm = changed(
        GOOD,
        LEADER,
        lambda each: joints(stamp_of(each), [*ALL[:6], ALL[0]], [*pose_at(each.at)[:6], 0.9]),
    )
    jaw = [
        entry(GRIPPER, messages.NUMBERS, each.at, numbers([0.02]))
        for each in GOOD
        if each.topic == LEADER
    ]
    return merged(arm, jaw)


REFUSED = {
    "two arms with the same names": (
        second(STATES, lambda t: pose_at(t) + AWAY),
        rf"{STATES}: joint1 jumps between .* two publishers use this name",
    ),
    "two leaders": (
        second(LEADER, lambda t: pose_at(t) - AWAY),
        rf"{LEADER}: joint1 jumps between .* two publishers use this name",
    ),
    "a joint twice in a message": (
        changed(GOOD, STATES, named_twice),
        rf"{STATES}: joint joint1 is named twice in one message; give",
    ),
    "relative commands": (
        positions(LEADER, lambda t, q: pose_at(t + 0.04) - q),
        rf"{LEADER}: commands of joint3 are 1.4 from its position .*; map",
    ),
    "commands in another order": (
        positions(LEADER, lambda t, q: q[[2, 1, 0, 3, 4, 5, 6]]),
        rf"{LEADER}: commands of joint[13] are 1.\d* from",
    ),
    "commands in a similar order": (
        positions(LEADER, lambda t, q: q[[0, 5, 2, 3, 4, 1, 6]]),
        rf"{LEADER}: the commands are in another order .*: joint2 follows those of joint6; correct",
    ),
    "a gripper commanded the wrong way": (
        merged(gripping(STATES, lambda opening: opening), gripping(LEADER, lambda way: 0.03 - way)),
        rf"{LEADER}: gripper opens where its commands close it; add to .* bags.gripper",
    ),
    "positions from -100 to 100": (
        positions(STATES, lambda t, q: q * 30),
        rf"{STATES}: joint3 .* looks like degrees or values from -100 to 100; for degrees add",
    ),
    "one joint in degrees": (
        positions(STATES, lambda t, q: q * [1, 1, 57.3, 1, 1, 1, 1]),
        rf"{STATES}: joint3 reaches 80.2.*looks like degrees.* add to .* bags.units",
    ),
    "one commanded joint in degrees": (
        positions(LEADER, lambda t, q: q * [1, 57.3, 1, 1, 1, 1, 1]),
        rf"{LEADER}: joint2 reaches .*looks like degrees.* add to .* bags.units",
    ),
    "no positions": (
        positions(STATES, lambda t, q: []),
        rf"{STATES}: joint joint1, .* is named, but no message holds its position",
    ),
    "too few positions": (
        positions(STATES, lambda t, q: q[:4]),
        rf"{STATES}: joint joint5, joint6, gripper is named, but no message holds",
    ),
    "no names": (
        changed(GOOD, STATES, lambda each: joints(stamp_of(each), [], pose_at(each.at))),
        rf"{STATES}: joint joint1, .* is never named in the messages \(no names\); map",
    ),
    "joints 0.5 s ahead": (ahead(STATES, 0.5), rf"{STATES} and .* are on two clocks: .*0.50 s"),
    "commands 0.9 s ahead": (ahead(LEADER, 0.9), rf"{LEADER} and .* are on two clocks: .*0.90 s"),
    "eight numbers": (eight_numbers(), rf"{LEADER}: 8 values for 7 joints .*bags.columns"),
    "an encoding that nobody reads": (
        changed(GOOD, TOP, lambda each: raw(each, "nv21x")),
        r"/scene_camera/image_raw: an image cannot be decoded: encoding 'nv21x' .* set the driver",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_faulty_bag_is_refused_in_one_sentence(tmp_path, name):
    entries, sentence = REFUSED[name]
    bag = write_bag(tmp_path / "take", entries)
    with pytest.raises(BagError, match=f"take: {sentence}") as refused:
        loaded([bag], ROBOT)
    assert "\n" not in str(refused.value)
    found = check_episode(measure_episode(bag, Thresholds(), 2, ROBOT), Thresholds())
    assert Verdict.FAIL in {each.level for each in found}, found
    with pytest.raises(BagError):
        stretches(EpisodeReader(bag, ROBOT), 10, "commanded", 2, 0.5)


def unstamped(rows):
    """Return messages of some rows without a stamp, the others on a simulator's clock."""
    return recording(
        1.0, stamp=lambda topic, t: 0 if rows(topic, t) else round((77 + t) * SECOND_NS)
    )


USED = {
    "the first stamp of a simulator is zero": recording(
        1.0, stamp=lambda topic, t: round(t * SECOND_NS)
    ),
    "every second joint state has no stamp": unstamped(
        lambda topic, t: topic == STATES and round(t * 50) % 2 == 1
    ),
    "another arm on the topic": merged(
        GOOD,
        [
            entry(
                STATES,
                messages.JOINT_STATE,
                t,
                joints(BEGIN + round(t * SECOND_NS), ["other"], [9.0]),
            )
            for t in np.arange(0, 1, 0.02)
        ],
    ),
    "a joint of another device is unknown": changed(
        GOOD,
        STATES,
        lambda each: joints(stamp_of(each), [*ALL, "wheel"], [*pose_at(each.at), np.nan]),
    ),
    "an instruction of another type": merged(
        GOOD, [entry("/instruction", messages.NUMBERS, 0.2, numbers([1.0]))]
    ),
}


@pytest.mark.parametrize("name", USED)
def test_a_tolerated_bag_gives_the_labels_of_the_good_one(tmp_path, good, name):
    bag = write_bag(tmp_path / "take", USED[name])
    data = loaded([bag], ROBOT)
    np.testing.assert_allclose(data.pair_target, good.pair_target, atol=2e-3)
    assert data.instructions == good.instructions and not data.notes
    found = check_episode(measure_episode(bag, Thresholds(), 2, ROBOT), Thresholds())
    failed = [each for each in found if each.level is Verdict.FAIL]
    assert not failed, failed


def test_a_changing_encoding_drops_only_its_frames(tmp_path):
    entries = changed(
        GOOD, TOP, lambda each: each.content if each.at < 0.55 else raw(each, "nv21x")
    )
    data = loaded([write_bag(tmp_path / "take", entries)], ROBOT)
    assert len(data.images) == 6 and np.asarray(data.images).shape[0] == 6
    assert "at 0.60 s: an image cannot be decoded: encoding 'nv21x'" in data.notes[0]


def test_an_episode_without_a_label_is_named(tmp_path):
    leader = [each for each in GOOD if each.topic == LEADER][:1]
    bag = write_bag(
        tmp_path / "take",
        merged(leader, [each for each in without(GOOD, LEADER) if each.at > 0.3]),
    )
    data = loaded([bag], ROBOT)
    assert not len(data.pair_frame) and "no observation has a label" in data.notes[0]
    found = check_episode(measure_episode(bag, Thresholds(), 2, ROBOT), Thresholds())
    assert any("no observation has a label" in each.text for each in found)


def test_instructions_of_two_topics_apply_in_time_order(tmp_path):
    robot = contract(topics={"/voice": "/instruction", "/screen": "/instruction"})
    instructions = [
        entry("/voice", messages.STRING, 0.1, text("grasp")),
        entry("/screen", messages.STRING, 0.65, text("lift")),
    ]
    data = loaded([write_bag(tmp_path / "take", merged(GOOD, instructions))], robot)
    assert [data.instructions[row] for row in data.pair_instruction] == ["grasp"] * 7 + ["lift"] * 3


def test_a_late_first_instruction_is_noted(tmp_path):
    late = merged(recording(2.0), [entry("/instruction", messages.STRING, 1.5, text("lift"))])
    data = loaded([write_bag(tmp_path / "take", late)], ROBOT)
    assert data.instructions == ["lift"]
    assert "the first instruction came 1.50 s after the first image and is used" in data.notes[0]


FILES = {
    "take.mcap": (b"hello\n", r"take.mcap: is not an MCAP file, it begins with b'hello"),
    "pointer.mcap": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        r"pointer.mcap: is a Git LFS pointer.*`git lfs pull`",
    ),
    "take.mcap.gz": (b"\x1f\x8b", r"take.mcap.gz: .*decompress it with `gunzip .*take.mcap.gz`"),
    "take.db3.zst": (b"", r"take.db3.zst: .*decompress it with `unzstd"),
    "take.bag.zip": (b"PK", r"take.bag.zip: .*decompress it with `unzip"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_bags_are_named_and_good_ones_used(tmp_path, name):
    content, sentence = FILES[name]
    (tmp_path / name).write_bytes(content)
    write_bag(tmp_path / "good", GOOD)
    data = loaded(find_episodes(tmp_path), ROBOT)
    assert len(data.episodes) == 1 and len(data.left_out) == 1
    with pytest.raises(BagError, match=sentence):
        loaded([tmp_path / name], ROBOT)


@pytest.mark.parametrize("described", [True, False])
def test_a_missing_part_of_a_split_bag_is_named(tmp_path, described):
    names = [f"take_{number}.mcap" for number in range(3)]
    for number, name in enumerate(names):
        write_mcap(tmp_path / "take" / name, GOOD[number::3])
    if described:
        describe(tmp_path / "take", names)
    (tmp_path / "take/take_1.mcap").unlink()
    (bag,) = find_episodes(tmp_path)
    with pytest.raises(
        BagError, match=r"take_1.mcap( of the split bag is missing|: is named in metadata)"
    ):
        loaded([bag], ROBOT)


def test_a_joint_that_is_commanded_twice_in_a_message_is_named(tmp_path):
    """Also where a topic without joint names commands the gripper."""
    robot = contract(topics={GRIPPER: "/teleop/joint_command"})
    bag = write_bag(tmp_path / "take", twice_beside_a_gripper())
    with pytest.raises(BagError, match=rf"{LEADER}: joint joint1 is named twice in one message"):
        loaded([bag], robot)


def test_a_rare_second_publisher_is_noted(tmp_path):
    """Its messages are too few to be sure that it is one, and not a faulty sensor."""
    rare = [
        entry(
            STATES,
            messages.JOINT_STATE,
            t,
            joints(BEGIN + round(t * SECOND_NS), ALL, pose_at(t) + AWAY),
        )
        for t in (0.305, 0.705)
    ]
    data = loaded([write_bag(tmp_path / "take", merged(GOOD, rare))], ROBOT)
    assert any(
        f"{STATES}: joint1 jumps away and back 2 times, the first time at 0.3" in note
        for note in data.notes
    ), data.notes


def test_a_gripper_that_is_commanded_only_when_it_moves_is_used(tmp_path):
    """Its commands alternate, as those of two publishers do, but seconds apart."""
    jaw = [entry(GRIPPER, FLOATS, 0.6 * k, make(FLOATS, 0.035 * (k % 2))) for k in range(12)]
    arm = changed(
        recording(8.0), LEADER, lambda each: joints(stamp_of(each), ALL[:6], pose_at(each.at)[:6])
    )
    robot = contract(topics={GRIPPER: "/teleop/joint_command"})
    data = loaded([write_bag(tmp_path / "take", merged(arm, jaw))], robot)
    assert set(np.unique(data.pair_target[..., 6].round(2))) == {0.0, 1.0} and not data.notes


def test_a_gripper_without_commands_is_named(tmp_path):
    entries = changed(
        GOOD, LEADER, lambda each: joints(stamp_of(each), ALL[:6], pose_at(each.at)[:6])
    )
    with pytest.raises(BagError, match=rf"{LEADER}: joint gripper is never commanded; .*map"):
        loaded([write_bag(tmp_path / "take", entries)], contract(topics={GRIPPER: "/instruction"}))
