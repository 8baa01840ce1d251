"""Tests of shaping: for any reference, samples keep every limit and allow a stop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import sim_arm

from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.chunks.reference import ReferenceCurve
from sf_policy_node.motion.shaping import brake, follow

LIMITS = JointLimits.of(sim_arm())
J = len(LIMITS.names)
unit = st.floats(-1.0, 1.0)


def states():
    """Return positions within limits and velocities from which the limits can be kept."""
    return st.tuples(st.lists(unit, min_size=J, max_size=J), st.lists(unit, min_size=J, max_size=J))


def inside(values):
    return LIMITS.lower + (np.array(values) + 1.0) / 2.0 * (LIMITS.upper - LIMITS.lower)


def assert_within_limits(position, velocity, positions, velocities, period):
    ps, vs = np.vstack([position, positions]), np.vstack([velocity, velocities])
    assert np.allclose(np.diff(ps, axis=0), 0.5 * period * (vs[1:] + vs[:-1]), atol=1e-9), (
        "not a motion of constant acceleration pieces"
    )
    assert (np.abs(np.diff(vs, axis=0)) / period <= LIMITS.acceleration).all()
    assert (np.abs(velocities) <= LIMITS.velocity * (1 + 1e-9)).all()
    low, high = np.minimum(LIMITS.lower, position), np.maximum(LIMITS.upper, position)
    assert (positions >= low - 1e-9).all() and (positions <= high + 1e-9).all()


@settings(max_examples=150, deadline=None)
@given(
    start=st.lists(unit, min_size=J, max_size=J),
    seed=st.integers(0, 2**31),
    rate=st.sampled_from([10.0, 50.0, 125.0]),
    wild=st.floats(0.1, 30.0),
)
def test_any_reference_becomes_a_motion_within_limits(start, seed, rate, wild):
    rng, period = np.random.default_rng(seed), 1.0 / rate
    reference = rng.normal(0.0, wild, (int(rate), J))
    speed = rng.normal(0.0, wild, reference.shape)
    position, velocity = inside(start), np.zeros(J)
    shaped = follow(reference, speed, position, velocity, LIMITS, period, np.full(J, 8.0))
    rest, zero = brake(shaped.positions[-1], shaped.velocities[-1], LIMITS, period)
    assert_within_limits(
        position,
        velocity,
        np.vstack([shaped.positions, rest]),
        np.vstack([shaped.velocities, zero]),
        period,
    )
    assert (zero[-1] == 0.0).all()


def test_a_reference_within_limits_is_followed_closely_and_not_clipped():
    period = 0.02
    times = period * np.arange(100)
    reference = 0.2 * np.sin(times)[:, None] * np.ones(J) * np.append(
        np.ones(J - 1), 0.01
    ) + inside(np.zeros(J))
    speed = np.gradient(reference, period, axis=0)
    shaped = follow(reference, speed, reference[0], speed[0], LIMITS, period, np.full(J, 8.0))
    assert np.abs(shaped.positions - reference[1:]).max() < 1e-3
    assert (
        not shaped.velocity_clips.any()
        and not shaped.acceleration_clips.any()
        and not shaped.position_clips.any()
    )


def test_a_far_target_is_reached_at_top_speed_without_overshoot():
    target = inside(np.full(J, 0.9))
    reference = np.tile(target, (400, 1))
    shaped = follow(
        reference,
        np.zeros_like(reference),
        inside(np.full(J, -0.9)),
        np.zeros(J),
        LIMITS,
        0.02,
        np.full(J, 8.0),
    )
    assert (shaped.positions <= target + 1e-9).all()
    assert np.allclose(shaped.positions[-1], target, atol=1e-6)
    assert np.allclose(shaped.velocities.max(axis=0)[:6], 0.995 * LIMITS.velocity[:6])
    assert (shaped.velocity_clips[:6] > 0).all()


def test_a_joint_outside_its_limits_only_moves_back():
    start = LIMITS.upper + 0.1
    away, back = np.tile(LIMITS.upper + 1.0, (50, 1)), np.tile(LIMITS.lower, (50, 1))
    stays = follow(away, np.zeros_like(away), start, np.zeros(J), LIMITS, 0.02, np.full(J, 8.0))
    comes = follow(back, np.zeros_like(back), start, np.zeros(J), LIMITS, 0.02, np.full(J, 8.0))
    assert (stays.positions <= start + 1e-12).all()
    assert (comes.positions[-1] < start).all()


@settings(max_examples=100, deadline=None)
@given(speed=st.lists(unit, min_size=J, max_size=J), rate=st.sampled_from([10.0, 50.0, 250.0]))
def test_braking_is_the_shortest_stop_of_each_joint(speed, rate):
    velocity, period = np.array(speed) * LIMITS.velocity, 1.0 / rate
    positions, velocities = brake(np.zeros(J), velocity, LIMITS, period)
    vs = np.vstack([velocity, velocities])
    assert (velocities[-1] == 0.0).all()
    assert (np.abs(np.diff(vs, axis=0)) / period <= LIMITS.acceleration).all()
    assert len(positions) <= np.ceil(
        (np.abs(velocity) / (0.98 * LIMITS.acceleration)).max() / period + 1
    )


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=9))
def test_the_curve_passes_every_step_and_stays_between_neighbours(values):
    rows = np.array(values)[:, None]
    times = 0.1 * np.arange(len(rows))
    curve = ReferenceCurve(times, rows, np.array([False]))
    assert np.allclose(curve.sample(times)[0], rows, atol=1e-9)
    dense = np.linspace(0.0, times[-1], 400)
    positions, _ = curve.sample(dense)
    k = np.minimum(np.searchsorted(times, dense, side="right") - 1, len(rows) - 2)
    low, high = np.minimum(rows[k], rows[k + 1]), np.maximum(rows[k], rows[k + 1])
    assert (positions >= low - 1e-9).all() and (positions <= high + 1e-9).all()


def test_a_binary_column_takes_the_value_of_the_next_step():
    curve = ReferenceCurve(
        np.array([0.0, 0.1, 0.2]), np.array([[0.0], [1.0], [0.0]]), np.array([True])
    )
    positions, velocities = curve.sample(np.array([0.0, 0.01, 0.09, 0.1, 0.11, 0.2, 5.0]))
    assert positions[:, 0].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert not velocities.any()
