"""Tests of labels from demonstrations: takeovers, pauses, clock jumps, later labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import (
    START,
    STEP,
    joints_at,
    open_writer,
    tiny_contract,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_training.data.clock_steps import cut_at_clock_steps
from sf_training.data.dataset import BagError, load_dataset
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.recording import messages
from sf_training.recording.labels import LABELS_FILE, add_label, undo_label
from sf_training.recording.topics import absolute

NOBODY, POLICY, PERSON, REPLAY = range(4)
MS = 1_000_000
ROBOT = tiny_contract()
HORIZON = 3


@pytest.fixture(scope="module")
def contract():
    return tiny_contract(action={"horizon": HORIZON})


def load(bag, contract, **options):
    return load_dataset(
        [bag], contract, **{"size": 12, "workers": 1, "progress": False, "depth": False} | options
    )


def write_source(writer, contract, stamp, source):
    types = messages.typestore().types
    at = messages.nanoseconds(stamp)
    header = types["std_msgs/msg/Header"](
        types["builtin_interfaces/msg/Time"](*divmod(at, 10**9)), ""
    )
    data = messages.typestore().serialize_cdr(
        types[messages.CONTROL_SOURCE](header, source, ""), messages.CONTROL_SOURCE
    )
    writer.write(absolute(contract.topics.control_source), data, at)


def write_demonstration(
    folder,
    contract,
    frames,
    *,
    sources=(),
    commands=joints_at,
    clock=lambda stamp: stamp,
    commanded=lambda frame: True,
):
    """Write frames of 0.1 s with commands at 50 Hz.

    ``sources``: (frame, control source from then on).
    """
    with open_writer(folder, contract) as writer:
        for frame in range(frames):
            for source in (who for begin, who in sources if begin == frame):
                write_source(writer, contract, clock(START + frame * STEP), source)
            write_cameras(writer, contract, frame, clock(START + frame * STEP), depth=False)
            for sample in range(5):
                moment = START + frame * STEP + sample * STEP / 5
                write_joints(
                    writer, contract, contract.topics.joint_states, clock(moment), joints_at(moment)
                )
                if commanded(frame):
                    write_joints(
                        writer,
                        contract,
                        contract.topics.teleop_command,
                        clock(moment),
                        commands(moment),
                    )
        return writer.finish("success")


def test_only_the_operators_motion_after_a_takeover_is_used(tmp_path, contract):
    sources = [(0, POLICY), (5, PERSON), (15, NOBODY), (17, POLICY)]
    bag = write_demonstration(
        tmp_path, contract, 25, sources=sources, commanded=lambda frame: 5 <= frame < 15
    )
    data = load(bag, contract)
    # The last steps of a label must not reach past the handover at frame 15.
    assert data.pair_frame.tolist() == list(range(5, 15 - HORIZON + 1))


def test_an_operator_with_control_to_the_end_is_used_to_the_end(tmp_path, contract):
    bag = write_demonstration(
        tmp_path,
        contract,
        12,
        sources=[(0, POLICY), (4, PERSON)],
        commanded=lambda frame: frame >= 4,
    )
    assert load(bag, contract).pair_frame.tolist() == list(range(4, 12))


def test_without_a_policy_all_frames_are_the_operators(tmp_path, contract):
    sources = [(0, NOBODY), (2, PERSON), (5, NOBODY), (7, PERSON)]
    assert load(
        write_demonstration(tmp_path, contract, 10, sources=sources), contract
    ).pair_frame.tolist() == list(range(10))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([NOBODY, POLICY, PERSON, REPLAY]), min_size=1, max_size=20))
def test_no_label_reaches_into_the_segment_of_another_source(tmp_path_factory, contract, who):
    """For any order of handovers, the operator has control during all steps of every label."""
    who = [POLICY, *who]
    bag = write_demonstration(
        tmp_path_factory.mktemp("bag"), contract, len(who), sources=list(enumerate(who))
    )
    labelled = load(bag, contract).pair_frame.tolist()
    expected = [
        frame
        for frame in range(len(who))
        if all(
            source == PERSON for source in who[frame : frame + HORIZON]
        )  # the step at the border is the last command before it
    ]
    assert labelled == expected


def test_only_the_beginning_of_a_pause_is_used(tmp_path, contract):
    def commands(stamp):  # moves for 1 s, rests for 2 s, moves again
        return joints_at(START + min(stamp - START, 1.0) + max(0.0, stamp - START - 3.0))

    bag = write_demonstration(tmp_path, contract, 40, commands=commands)
    kept = load(bag, contract)
    resting = set(range(10, 28))  # frames at which no command of the label moves
    left = resting - set(kept.pair_frame.tolist())
    assert left and kept.idle_labels == len(left) and left <= resting
    assert len(resting - left) * STEP == pytest.approx(0.5, abs=0.25)
    everything = load(bag, contract, idle_s=float("inf"))
    assert everything.pair_frame.tolist() == list(range(40)) and everything.idle_labels == 0
    assert kept.images.shape == everything.images.shape, "frames stay: only their labels go"


def test_a_clock_jump_splits_the_episode(tmp_path, contract):
    def clock(stamp):  # 5 s back after 1 s
        return 10 + stamp - (5.0 if stamp - START >= 1.0 - 1e-9 else 0.0)

    data = load(write_demonstration(tmp_path, contract, 20, clock=clock), contract)
    # The first images after the step precede the first joint state there: they are excluded.
    assert len(data.stamps) == 19 and np.diff(data.stamps).min() == pytest.approx(-4.8)
    # Labels of the last frames before the step would need commands from after it.
    assert data.pair_frame.tolist() == [*range(10 - HORIZON), *range(10, 19)]
    for frame, target in zip(data.pair_frame, data.pair_target, strict=True):
        assert abs(target[:, :3]).max() < 0.1, frame


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-90, 200), min_size=2, max_size=40),
    st.lists(
        st.tuples(
            st.integers(1, 39), st.integers(600, 5000).flatmap(lambda s: st.sampled_from([s, -s]))
        ),
        max_size=2,
    ),
)
def test_every_segment_has_one_time_line(gaps, steps):
    """Stamps in a segment decrease at most by the reordering of messages.

    Every message is in one segment.
    """
    stamps = np.cumsum(np.array(gaps)) * MS + 10**12
    for position, step in steps:
        stamps[position:] += step * MS
    received = 10**12 + np.arange(len(stamps)) * 20 * MS
    stream = Stream(
        stamps, [], received, np.arange(len(stamps)), np.zeros((len(stamps), 3), np.int64)
    )
    parts = cut_at_clock_steps({"/joint_states": stream}, ["/joint_states"], ROBOT)
    assert np.concatenate([part["/joint_states"].order for part in parts]).tolist() == list(
        range(len(stamps))
    )
    for part in parts:
        assert (np.diff(part["/joint_states"].stamps) >= -100 * MS).all()


def test_a_gap_in_the_recording_is_not_bridged(tmp_path, contract):
    def clock(stamp):
        return stamp + (2.0 if stamp - START >= 1.0 - 1e-9 else 0.0)

    data = load(write_demonstration(tmp_path, contract, 20, clock=clock), contract)
    assert data.pair_frame.tolist() == [*range(10 - HORIZON), *range(10, 19)]


def test_missing_frames_leave_only_a_gap(tmp_path, contract):
    with open_writer(tmp_path, contract) as writer:
        for frame in range(10):
            stamp = START + frame * STEP
            if frame not in (4, 5):
                write_cameras(writer, contract, frame, stamp, depth=False)
            for sample in range(5):
                moment = stamp + sample * STEP / 5
                write_joints(
                    writer, contract, contract.topics.joint_states, moment, joints_at(moment)
                )
                write_joints(
                    writer, contract, contract.topics.teleop_command, moment, joints_at(moment)
                )
        data = load(writer.finish("success"), contract)
    np.testing.assert_allclose(data.stamps, START + STEP * np.array([0, 1, 2, 3, 6, 7, 8, 9]))
    assert len(data.pair_frame) == 8


def test_later_labels_of_an_episode_are_used(tmp_path, contract):
    bag = write_episode(tmp_path, contract, "operator", labels="operator")
    digest, checksum = load(bag, contract).digest, EpisodeReader(bag).checksum
    add_label(bag, instruction="pick the blue cube")
    changed = load(bag, contract)
    assert changed.instructions == ["pick the blue cube"] and changed.digest != digest
    add_label(bag, outcome="failure")
    with pytest.raises(BagError, match="none of 1 episodes has the outcome success"):
        load(bag, contract)
    assert (
        EpisodeReader(bag).checksum == checksum
        and EpisodeReader(bag).recorded_instruction == "pick the red cube"
    )
    undo_label(bag)
    undo_label(bag)
    assert load(bag, contract).digest == digest
    (bag / LABELS_FILE).write_text("{")
    with pytest.raises(BagError, match=r"labels.json: is not a list of labels .*delete it"):
        load(bag, contract)


def test_a_new_instruction_replaces_the_recorded_one_in_contrastive_labels(tmp_path):
    contract = tiny_contract()
    bag = write_episode(tmp_path, contract, frames=1)
    add_label(bag, instruction="grab the red one")
    assert load(bag, contract).instructions == ["grab the red one", "pick the green cube"]
