"""Tests of the README's film of the simulated arm."""

from pathlib import Path

import pytest

from sf_policy_node.contract import load_contract
from sf_training.simulation.moving_picture import FilmedArm

CONTRACT = Path(__file__).parents[2] / "sf_bringup" / "config" / "robots" / "sim_arm.yaml"


@pytest.fixture
def filmed_arm():
    sim = FilmedArm(load_contract(CONTRACT), width=320, rate_hz=10.0)
    yield sim
    sim.close()


def test_frames_have_the_requested_rate_and_show_the_scene(filmed_arm):
    for _ in range(20):
        filmed_arm.step(4)  # 0.4 s in all
    assert [frame.size for frame in filmed_arm.frames] == [(320, 240)] * 4
    low, high = filmed_arm.frames[0].convert("L").getextrema()
    assert high - low > 100
