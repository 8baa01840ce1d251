"""Tests of synchronization: newest image at or before, budgets, grid, causality."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import tiny_contract

from sf_policy_node.perception.observation import NoObservation, ObservationBuffer
from sf_training.data.synchronisation import JointStream, align_cameras, nearest

CONTRACT = tiny_contract()  # step 100 ms, skew 50 ms, age 250 ms
EVERY_MOMENT = tiny_contract(action={"step_s": 1e-6})
MS = 1_000_000


def ms(*times):
    return np.array(times, np.int64) * MS


def joint_stream(stamps, rows, names=("a", "b"), wanted=("a", "b")):
    return JointStream(
        stamps, [SimpleNamespace(name=list(names), position=list(row)) for row in rows], wanted
    )


def test_equal_rates_use_every_frame():
    seen = align_cameras([ms(0, 100, 200), ms(0, 100, 200)], CONTRACT)
    assert (
        seen.indices.tolist() == [[0, 0], [1, 1], [2, 2]]
        and seen.stamps.tolist() == ms(0, 100, 200).tolist()
    )


def test_rounding_of_stamps_does_not_shift_the_grid():
    jitter = np.array([0, 1, -1, 1, 0], np.int64)
    stamps = ms(0, 100, 200, 300, 400) + jitter
    assert align_cameras([stamps, stamps], CONTRACT).indices[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_thirty_hertz_is_subsampled_to_the_step():
    stamps = np.round(np.arange(31) * 1e9 / 30).astype(np.int64)
    seen = align_cameras([stamps, stamps], CONTRACT)
    assert seen.indices[:, 0].tolist() == list(range(0, 31, 3))


def test_a_later_camera_is_awaited_instead_of_using_an_old_image():
    """The second camera stamps 1 ms later.

    The pair of one exposure is used, not one new and one old image.
    """
    first = ms(0, 100, 200, 300)
    seen = align_cameras([first, first + MS], CONTRACT)
    assert seen.indices.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert (
        seen.stamps.tolist() == first.tolist() and seen.complete.tolist() == (first + MS).tolist()
    )


def test_skew_beyond_the_budget_is_not_used():
    seen = align_cameras([ms(0, 100, 200, 300), ms(0, 151, 300)], CONTRACT)
    # at 100 the newest of the second camera is of 0; at 151 it is 51 ms after the first's; at 200
    # it is 49 ms before
    assert seen.indices.tolist() == [[0, 0], [2, 1], [3, 2]]


def test_a_camera_that_stops_ends_the_observations():
    seen = align_cameras([ms(*range(0, 1000, 100)), ms(0, 100, 200)], CONTRACT)
    assert seen.stamps.tolist() == ms(0, 100, 200).tolist()


def test_unordered_and_repeated_messages_are_handled():
    seen = align_cameras([ms(100, 0, 0, 200), ms(0, 200, 100)], CONTRACT)
    assert seen.indices[:, 1].tolist() == [0, 2, 1] and seen.indices[1:, 0].tolist() == [0, 3]


def test_only_labelled_observations_are_used():
    stamps = ms(*range(0, 300, 33))
    seen = align_cameras([stamps, stamps], CONTRACT, only_stamps=ms(33, 132, 231))
    assert seen.stamps.tolist() == ms(33, 132, 231).tolist()
    assert len(align_cameras([stamps, stamps], CONTRACT, only_stamps=ms(10_000)).stamps) == 0


def test_a_camera_without_images_gives_no_observations():
    assert len(align_cameras([ms(0, 100), ms()], CONTRACT).stamps) == 0


def test_joints_are_interpolated_at_the_image():
    stream = joint_stream(ms(0, 10, 20), [[0, 0], [1, 10], [2, 20]])
    np.testing.assert_allclose(
        stream.measured(ms(5, 15), ms(50, 50), 100 * MS), [[0.5, 5], [1.5, 15]]
    )


def test_joints_use_no_future_messages():
    stream = joint_stream(ms(0, 10), [[0, 0], [1, 10]])
    np.testing.assert_allclose(stream.measured(ms(5), ms(9), 100 * MS), [[0, 0]])
    np.testing.assert_allclose(stream.measured(ms(5), ms(10), 100 * MS), [[0.5, 5]])


def test_stale_joints_are_unknown():
    stream = joint_stream(ms(0, 1000), [[0, 0], [1, 1]])
    assert np.isnan(stream.measured(ms(-1, 50), ms(50, 101), 100 * MS)).all()
    assert np.isfinite(stream.measured(ms(50), ms(100), 100 * MS)).all()
    across = stream.measured(
        ms(50, 150, 900, 1000), ms(1000, 1000, 1000, 1000), 100 * MS
    )  # no values are invented in a gap
    assert np.isfinite(across[:, 0]).tolist() == [True, False, False, True]


def test_joints_in_any_order_and_in_separate_messages_are_merged():
    messages = [
        SimpleNamespace(name=["b", "x", "a"], position=[2.0, 9.0, 1.0]),
        SimpleNamespace(name=["b"], position=[4.0]),
    ]
    stream = JointStream(ms(0, 10), messages, ("a", "b"))
    np.testing.assert_allclose(stream.held(ms(0, 10)), [[1, 2], [1, 4]])
    with pytest.raises(ValueError, match="joint c, d is never named"):
        JointStream(ms(0, 10), messages, ("a", "c", "d"))


def test_a_split_too_short_for_every_publisher_has_no_joints_and_a_missing_joint_is_named():
    arm, gripper = (SimpleNamespace(name=[name], position=[1.0]) for name in "ab")
    assert JointStream.of_section(ms(0), [arm], ("a", "b"), lambda: [arm, gripper]) is None
    assert (
        JointStream.of_section(ms(0, 1), [arm, gripper], ("a", "b"), lambda: [arm, gripper]).first
        == 1 * MS
    )
    with pytest.raises(ValueError, match="joint b is never named"):
        JointStream.of_section(ms(0), [arm], ("a", "b"), lambda: [arm])


def test_a_command_holds_until_the_next():
    stream = joint_stream(ms(100, 200), [[1, 1], [2, 2]])
    assert stream.held(ms(100, 199, 200, 900))[:, 0].tolist() == [1, 1, 2, 2]
    assert np.isnan(stream.held(ms(99))).all()


def test_the_nearest_message_is_found_in_any_order():
    assert nearest(ms(200, 0, 100), ms(-5, 60, 149, 151, 900)).tolist() == [1, 2, 2, 0, 0]


def stream_stamps(low=1, high=80):
    """Generate increasing stamps with gaps of ``low`` to ``high`` ms."""
    return st.lists(st.integers(low, high), min_size=1, max_size=40).map(
        lambda gaps: ms(*np.cumsum(gaps))
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(stream_stamps(20), min_size=2, max_size=2),
    st.one_of(
        stream_stamps(5, 30), stream_stamps(5, 300)
    ),  # the gripper's with gaps of lost joint states
    stream_stamps(5, 90),
)
def test_every_observation_equals_the_live_one(cameras, arm, gripper):
    """The live buffer selects the same images and joints.

    It is fed with the messages received until then.
    """
    names = CONTRACT.command_joints
    states = [
        (stamp, names[:-1], [np.sin(n)] * (len(names) - 1)) for n, stamp in enumerate(arm.tolist())
    ]
    states += [(stamp, names[-1:], [0.01 * n]) for n, stamp in enumerate(gripper.tolist())]
    states.sort(key=lambda state: state[0])
    seen = align_cameras(cameras, CONTRACT)
    messages = [SimpleNamespace(name=name, position=position) for _, name, position in states]
    stream = JointStream(np.array([stamp for stamp, *_ in states]), messages, names)
    measured = stream.measured(seen.stamps, seen.complete, 100 * MS, seen.arrived)
    for row, stamp, complete, joint in zip(
        seen.indices, seen.stamps, seen.arrived, measured, strict=True
    ):
        buffer = ObservationBuffer(CONTRACT)
        for camera, stamps in zip(CONTRACT.camera_names, cameras, strict=True):
            for index in np.flatnonzero(stamps <= complete):
                buffer.add_image(camera, stamps[index] * 1e-9, index)
        for at, name, position in states:
            if at <= complete:
                buffer.add_joint_state(at * 1e-9, name, position)
        try:
            live = buffer.pick(complete * 1e-9)
        except NoObservation:
            assert np.isnan(joint).any()  # not the images: these were selected within the budgets
            continue
        assert list(live.images.values()) == row.tolist() and live.stamp == stamp * 1e-9
        np.testing.assert_allclose(live.joints, joint, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(stream_stamps(), min_size=1, max_size=3),
    stream_stamps(1, 10),
    st.integers(0, 3000),
    st.data(),
)
def test_later_messages_never_change_earlier_observations(cameras, joints, now_ms, data):
    """Replacing all messages after ``now`` does not change past observations and their joints."""
    now = now_ms * MS
    others = [
        np.concatenate([stamps[stamps <= now], now + data.draw(stream_stamps())])
        for stamps in cameras
    ]
    values = np.arange(len(joints), dtype=float)[:, None]
    later = now + data.draw(stream_stamps(1, 10))
    stream = joint_stream(joints, values, ("a",), ("a",))
    other_joints = np.concatenate([joints[joints <= now], later])
    other_values = np.concatenate([values[joints <= now], np.full((len(later), 1), 777.0)])
    other_stream = joint_stream(other_joints, other_values, ("a",), ("a",))

    def past(cameras, stream):
        """Return past messages, and the arrivals of ended grid cells."""
        seen = align_cameras(cameras, CONTRACT)
        measured = stream.measured(seen.stamps, seen.complete, 100 * MS, seen.arrived)
        rows = zip(
            seen.arrived.tolist(),
            seen.stamps.tolist(),
            seen.indices.tolist(),
            measured.tolist(),
            strict=True,
        )
        until_now = {arrived: row for arrived, *row in rows if arrived <= now}
        usable = align_cameras(cameras, EVERY_MOMENT).arrived
        first = usable[0] if len(usable) else 0
        cell_ends = {
            time: first + ((time - first + 50 * MS) // (100 * MS)) * 100 * MS + 50 * MS
            for time in until_now
        }
        return until_now, {time for time, end in cell_ends.items() if end <= now}

    seen, settled = past(cameras, stream)
    seen_otherwise, settled_otherwise = past(others, other_stream)
    assert settled == settled_otherwise
    for time in (
        seen.keys() & seen_otherwise.keys()
    ):  # in the last cell, a later frame may have been preferred
        np.testing.assert_equal(seen[time], seen_otherwise[time])
