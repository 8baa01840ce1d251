"""Tests of teleoperation close to a wall of the workspace box, such as the table."""

import contextlib

import numpy as np
import pytest
from motion_cases import HOME, Bench, keep_moving, kinematics, sim_arm, straight

from sf_policy_node.motion.arm.kinematics import ToolPose
from sf_policy_node.motion.refusals import MotionRefused

PERIOD = 0.02
DOWN = straight(sim_arm(), (0.005, 0.0, -0.02))


@pytest.fixture
def low():
    """Return an arm whose policy has moved the tool down to the table."""
    bench = Bench(sim_arm())
    keep_moving(bench, 1.5, DOWN)
    bench.run(1.0)
    assert bench.tool()[2] < sim_arm().workspace.lower[2] + 0.01
    return bench


def target(bench, displacement):
    """Return joints (7,) with the tool displaced from its position."""
    joints = bench.observer.state(bench.now)[0]
    pose = kinematics().forward(joints[:6])
    return np.append(
        kinematics()
        .inverse(ToolPose(pose.position + displacement, pose.rotation), joints[:6])
        .positions,
        joints[-1],
    )


@pytest.mark.parametrize(
    "displacement", [(0.0, 0.1, 0.0), (-0.1, 0.0, 0.0), (0.0, -0.15, 0.02), (-0.1, 0.1, 0.0)]
)
def test_targets_along_the_table_are_reached_around_the_wall(low, displacement):
    wanted = target(low, np.array([*displacement[:2], max(displacement[2], 0.003)]))
    for _ in range(200):
        with contextlib.suppress(MotionRefused):
            low.post(low.executor.on_teleoperation(low.now, wanted, np.zeros(7), low.now))
        low.run(PERIOD)
    assert np.linalg.norm(low.tool() - kinematics().forward(wanted[:6]).position) < 0.003
    assert not low.violations()


def test_a_target_outside_the_box_is_not_reached(low):
    wanted = target(low, np.array([0.0, 0.0, -0.05]))
    with pytest.raises(MotionRefused, match="leave the workspace box"):
        for _ in range(100):
            low.post(low.executor.on_teleoperation(low.now, wanted, np.zeros(7), low.now))
            low.run(PERIOD)
    low.run(1.0)
    assert low.tool()[2] > sim_arm().workspace.lower[2] - 0.002
    assert not low.violations()


@pytest.mark.parametrize("step", [0.0004, 0.0009])
def test_a_slowly_lowered_leader_does_not_move_the_tool_through_the_table(step):
    bench = Bench(sim_arm())
    wanted = HOME.copy()
    displacement = kinematics().forward(HOME[:6]).position[2] - sim_arm().workspace.lower[2] + 0.015
    for _ in range(round(displacement / step)):
        pose = kinematics().forward(wanted[:6])
        wanted[:6] = (
            kinematics()
            .inverse(ToolPose(pose.position - [0.0, 0.0, step], pose.rotation), wanted[:6])
            .positions
        )
        with contextlib.suppress(MotionRefused):
            bench.post(bench.executor.on_teleoperation(bench.now, wanted, np.zeros(7), bench.now))
        bench.run(PERIOD)
    assert kinematics().forward(wanted[:6]).position[2] < sim_arm().workspace.lower[2] - 0.01
    assert bench.observer.outside_box < 0.0012
    assert not bench.violations()
