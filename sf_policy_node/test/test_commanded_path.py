"""Properties of the commanded path, compared with a plain list of its grid points."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sf_policy_node.motion.safety.commanded import CommandedPath

JOINTS = 2
NAMES = ("a", "b")
KEPT_S, HISTORY_S = 1.0, 0.05


def motion(start, speed, accelerations, period):
    """Return samples (N, J) after a state: constant accelerations, the last sample at rest."""
    positions, velocities = [], []
    position, velocity = np.array(start, float), np.array(speed, float)
    for acceleration in [*accelerations, None]:
        after = np.zeros(JOINTS) if acceleration is None else velocity + period * acceleration
        position = position + 0.5 * period * (velocity + after)
        velocity = after
        positions.append(position)
        velocities.append(velocity)
    return np.array(positions), np.array(velocities)


def draw_accelerations(seed, count):
    return np.random.default_rng(seed).integers(-9, 10, (count, JOINTS))


# Longer than the part of a path that a splice keeps.
accelerations = st.builds(draw_accelerations, st.integers(0, 2**31), st.integers(0, 60))
periods = st.sampled_from([0.05, 0.02, 0.004])


@st.composite
def paths(draw):
    period = draw(periods)
    origin = draw(st.sampled_from([0.0, 10.0, 1.7e9]))
    start = np.array(draw(st.tuples(*[st.integers(-3, 3)] * JOINTS)), float)
    positions, velocities = motion(start, np.zeros(JOINTS), draw(accelerations), period)
    begins = draw(st.sampled_from([-math.inf, -math.inf, 0.0, 0.03, 0.5]))
    return CommandedPath(
        origin,
        period,
        np.vstack([start, positions]),
        np.vstack([np.zeros(JOINTS), velocities]),
        origin + begins,
    )


@st.composite
def splices(draw):
    """A path, a grid point of it or behind it, and a motion that continues from there."""
    path = draw(paths())
    join = draw(st.integers(0, len(path.positions) + 20))
    return path, join, motion(*path.at(join), draw(accelerations), path.period)


def reference(path, time):
    """Return the state at ``time`` by Hermite's cubic between the grid points beside it."""
    last = len(path.positions) - 1
    index = np.clip((time - path.origin) / path.period, 0.0, last)
    low = min(int(index), max(0, last - 1))
    high = min(low + 1, last)
    h, s = path.period, index - low
    p0, p1 = path.positions[low], path.positions[high]
    m0, m1 = h * path.velocities[low], h * path.velocities[high]
    c2, c3 = 3 * (p1 - p0) - 2 * m0 - m1, m0 + m1 - 2 * (p1 - p0)
    outside = time < path.origin or time > path.end
    velocity = (m0 + s * (2 * c2 + 3 * s * c3)) / h
    return p0 + s * (m0 + s * (c2 + s * c3)), velocity * (not outside)


def times_of(path):
    """Return grid points, points between them, and times before and after the path."""
    count = 2 * len(path.positions)
    return path.origin + path.period * np.arange(-3.25, 0.5 * count + 3.0, 0.5)


def close(left, right, path):
    rounding = 1e-9 + 50.0 * np.spacing(abs(path.origin))
    return all(np.allclose(a, b, rtol=0.0, atol=rounding) for a, b in zip(left, right, strict=True))


@given(paths())
def test_the_state_is_continuous_and_equals_the_cubic_that_a_controller_executes(path):
    for time in times_of(path):
        assert close(path.state(time), reference(path, time), path)
    tiny = max(1e-6, 4.0 * np.spacing(path.origin))
    for index in range(len(path.positions)):
        time = path.time(index)
        (before, _), (after, _) = path.state(time - tiny), path.state(time + tiny)
        assert np.abs(after - before).max() <= 30.0 * 2.0 * tiny


@given(splices())
def test_a_splice_keeps_the_old_path_up_to_the_join_and_ends_as_the_new_motion(case):
    path, join, new = case
    joined = path.spliced(join, *new)
    assert joined.begins == path.begins and joined.period == path.period
    assert math.isclose(joined.end, path.time(join) + path.period * len(new[0]))
    assert (joined.positions[-1] == new[0][-1]).all() and not joined.velocities[-1].any()
    first = max(0, join - math.ceil(KEPT_S / path.period))
    points = [path.at(index) for index in range(first, join + 1)] + list(zip(*new, strict=True))
    assert len(points) == len(joined.positions)
    for n, (position, velocity) in enumerate(points):
        assert (joined.positions[n] == position).all() and (joined.velocities[n] == velocity).all()
    for time in times_of(path):
        if joined.origin <= time <= path.time(join):
            assert close(joined.state(time), path.state(time), path)
    for time in times_of(joined):
        if time >= joined.origin:  # older samples are forgotten
            assert close(joined.state(time), reference(joined, time), path)


@given(splices(), st.integers(-300, 300), st.sampled_from([-math.inf, 0.5, 3.0]))
def test_a_trajectory_is_the_rest_of_the_path_with_increasing_times(case, at, valid):
    path = case[0].spliced(*case[1:2], *case[2])
    now = path.origin + 0.37 * at * path.period
    sent = path.trajectory(now, NAMES, valid_until=now + valid)
    due = sent.stamp + sent.times
    assert (np.diff(sent.times) > 0.0).all() and (sent.times > 0.0).all() and sent.stamp <= now
    for time, position, velocity in zip(due, sent.positions, sent.velocities, strict=True):
        assert close((position, velocity), path.at(round((time - path.origin) / path.period)), path)
    assert (sent.positions[-1] == path.positions[-1]).all() and not sent.velocities[-1].any()
    rounding = 10.0 * np.spacing(abs(path.origin) + 1.0)
    assert abs(due[-1] - path.end) <= rounding
    assert sent.hold_s >= 0.0 and due[-1] + sent.hold_s >= now + valid - rounding
    # It begins before now, unless the controller is not on the path by then.
    known = path.time(path.first_known) if path.begins > -math.inf else -math.inf
    newest_begin = max(now - HISTORY_S, known)
    assert due[0] <= max(newest_begin, -math.inf) + rounding + path.period or len(due) == 1
    if path.end >= now - HISTORY_S:
        assert due[0] <= max(now - HISTORY_S, known) + rounding or len(due) == 1
    assert due[0] >= min(known, path.end) - rounding
    held = sent.held()
    assert (np.diff(held.times) > 0.0).all() and (held.positions[-1] == path.positions[-1]).all()


@given(splices(), st.sampled_from([-3.0, -0.045, 0.02, 5.0]))
def test_a_shifted_path_is_the_same_motion_later_and_shifting_commutes_with_a_splice(case, seconds):
    path, join, new = case
    shifted = path.shifted(seconds)
    tolerant = 1e-6 * (1.0 + 30.0 * (path.origin > 1e6))  # s: rounding of the times
    assert abs(shifted.end - path.end - seconds) <= tolerant
    assert shifted.begins == path.begins + seconds and shifted.first_known == path.first_known
    for time in times_of(path):
        (one, _), (two, _) = path.state(time), shifted.state(time + seconds)
        assert np.abs(one - two).max() <= 30.0 * tolerant
    first, second = shifted.spliced(join, *new), path.spliced(join, *new).shifted(seconds)
    assert abs(first.origin - second.origin) <= tolerant
    assert (first.positions == second.positions).all()
