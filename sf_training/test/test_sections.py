"""Tests of recordings whose publishers pause or begin late: what is cut, kept and reported."""

import re
from dataclasses import replace

import foreign_recordings
import pytest
from foreign_recordings import (
    ARM,
    BAGS,
    BEGIN,
    FINGER,
    JOINT_SPACE,
    LEADER,
    SECOND_NS,
    STATES,
    entry,
    joints,
    merged,
    recording,
    stamp_of,
    write_bag,
)
from synthetic_episodes import tiny_contract

from sf_training.data.bag_files import BagError
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.export_bags import stretches
from sf_training.recording import messages

# The gripper may report rarely.
ROBOT = tiny_contract(bags=BAGS, action=JOINT_SPACE, budgets={"gripper_age_s": 5.0})


def load(folder, entries):
    return foreign_recordings.load(folder, entries, ROBOT)


def with_gripper_apart(entries, topic, is_published):
    """Return the recording with a publisher of the gripper alone on a topic.

    Args:
        is_published: returns whether the gripper's message at a time [s] is published.
    """
    found = []
    for each in entries:
        if each.topic != topic:
            found.append(each)
            continue
        stamp, positions = stamp_of(each), each.content.position
        found.append(replace(each, content=joints(stamp, ARM, positions[:6])))
        if is_published(each.at):
            found.append(replace(each, content=joints(stamp, [FINGER], positions[6:])))
    return found


def without_states(entries, begin, end):
    """Return the recording with a gap in its joint states."""
    return [each for each in entries if each.topic != STATES or not begin < each.at < end]


def test_pauses_of_wheels_and_of_a_gripper_cut_nothing(tmp_path):
    entries = recording(2.0)
    wheels = [
        entry(
            STATES,
            messages.JOINT_STATE,
            k / 50,
            joints(BEGIN + k * SECOND_NS // 50, ["wheel"], [0.1]),
        )
        for k in range(100)
        if k < 20 or k > 70
    ]
    plain = load(tmp_path / "plain", entries)
    rolling = load(tmp_path / "wheels", merged(entries, wheels))
    assert rolling.pair_frame.tolist() == plain.pair_frame.tolist() and not rolling.notes
    pausing = with_gripper_apart(entries, STATES, lambda t: t < 0.4 or t > 1.4)
    gripping = load(tmp_path / "gripper", pausing)
    assert gripping.pair_frame.tolist() == plain.pair_frame.tolist()


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        (STATES, f"{STATES}: gripper has no position in it"),
        (LEADER, "its .* observations have no label, because it holds no command of gripper;"),
    ],
)
def test_a_section_without_the_gripper_is_noted(tmp_path, topic, problem):
    entries = with_gripper_apart(recording(2.4), topic, lambda t: t < 0.4)
    data = load(tmp_path, without_states(entries, 0.5, 1.3))
    sentence = rf"section from 1\..* to 2\.30 s, cut at .*: {problem}"
    assert any(re.search(sentence, note) for note in data.notes), data.notes


@pytest.mark.parametrize(
    ("topic", "problem"), [(STATES, "no position in it"), (LEADER, "no command of gripper")]
)
def test_an_export_notes_the_same_section(tmp_path, topic, problem):
    entries = with_gripper_apart(recording(2.4), topic, lambda t: t < 0.4)
    bag = write_bag(tmp_path / "take", without_states(entries, 0.5, 1.3))
    notes: list[str] = []
    assert stretches(EpisodeReader(bag, ROBOT), 10, "commanded", 0, 1.0, notes=notes)
    assert any(re.search(rf"section from 1\..*is left out, .*{problem}", each) for each in notes)


def test_commands_that_begin_late_in_a_slow_simulation_are_on_one_clock(tmp_path):
    """Simulated stamps advance at half the speed of the recorder, so delays grow."""

    def slow(_, t):
        return 77 * SECOND_NS + round(t * SECOND_NS / 2)

    entries = [each for each in recording(6.0, stamp=slow) if each.topic != LEADER or each.at > 5]
    data = load(tmp_path, entries)
    assert len(data.pair_frame) and not any("on receipt" in note for note in data.notes)
    ahead = recording(
        6.0, stamp=lambda topic, t: slow(topic, t) + (topic == LEADER) * 2 * SECOND_NS
    )
    with pytest.raises(BagError, match=f"{LEADER} and .* are on two clocks"):
        load(tmp_path / "ahead", ahead)
