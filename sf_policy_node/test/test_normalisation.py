"""Tests of the center and scale of columns with outliers and constant joints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sf_policy_node.vla.normalisation import Normalisation

NAMES = ["joint1", "joint2", "gripper"]


def made(states, chunks, spread):
    return Normalisation.from_data(states, chunks, np.zeros((2, 4)), [2], spread)


def test_quantiles_ignore_an_outlier():
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (2000, 3))
    chunks = rng.uniform(-1, 1, (2000, 4, 3))
    glitch = states.copy()
    glitch[7, 0] = 500.0
    for spread, moved in (("deviation", 5.0), ("quantiles", 0.01)):
        clean, dirty = (
            made(states, chunks, spread).state.std[0],
            made(glitch, chunks, spread).state.std[0],
        )
        assert (
            (abs(dirty - clean) > moved) if spread == "deviation" else (abs(dirty - clean) < moved)
        )
    normal = made(glitch, chunks, "quantiles")
    assert (np.abs(normal.state.normalise(states)) <= 1.05).all()
    again = Normalisation.from_json(
        normal.to_json()
    )  # the same two numbers per column for every spread
    np.testing.assert_array_equal(again.action.normalise(chunks), normal.action.normalise(chunks))


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("spread", ["deviation", "quantiles"])
@given(states=arrays(float, (20, 3), elements=st.floats(-10, 10)), dead=st.floats(-3, 3))
def test_normalisation_is_inverted_and_constant_joints_stay_small(spread, states, dead):
    states[:, 1] = dead
    normalisation = made(states, states[:, None], spread)
    values = normalisation.state.normalise(states)
    assert np.isfinite(values).all() and np.abs(values[:, 1]).max() < 1e-3
    columns = normalisation.state
    limited = (
        np.clip(states, columns.mean - columns.std, columns.mean + columns.std)
        if columns.clipped
        else states
    )
    np.testing.assert_allclose(columns.restore(values), limited, atol=1e-4)
