"""A controller whose speed is scaled down by the robot's slider falls behind the path.

The controller is a model of the real one, which leaps onto every new trajectory.
"""

import contextlib

import numpy as np
import pytest
from test_executor_and_controller import LIMITS, Arm, move
from test_executor_pair import LEFT, RIGHT, Pair

from sf_policy_node.motion.refusals import ChunkRefused


def scaled_in_motion(share):
    """Return an arm whose speed was scaled down during a motion, 0.02 s ago."""
    arm = Arm(update_rate_hz=250.0, servo_lag_s=0.03)
    move(arm)
    arm.run(0.02)
    arm.loop.controller.scaling = share
    arm.run(0.02)
    arm.loop.take()  # the slider itself is a step
    return arm


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6])
def test_an_arm_whose_speed_is_scaled_down_in_motion_is_stopped_where_it_is(share):
    """Before, nothing was sent, or a stop that began ahead of it: 12 times the velocity limit."""
    arm = scaled_in_motion(share)
    arm.run(0.08)
    assert f"{100 * share:.0f} % of its speed" in arm.executor.status.reason
    stopped = arm.loop.position.copy()
    arm.send(arm.executor.emergency_stop(arm.clock))
    arm.run(2.0)
    assert np.abs(arm.loop.velocity).max() < 1e-3
    assert np.abs(arm.loop.position - stopped)[:6].max() < 0.06
    assert arm.shares()[0] <= 1.02


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_policy_does_not_make_a_controller_leap_whose_speed_is_scaled_down(share):
    """Before: 20 times the velocity limit."""
    arm = scaled_in_motion(share)
    arm.run(0.06)
    for _ in range(8):  # each with a new instruction
        with contextlib.suppress(ChunkRefused):
            arm.chunk()
        arm.run(0.25)
    assert arm.shares()[0] <= 1.02


def test_an_arm_whose_speed_is_scaled_down_stops_the_other_one_as_well():
    robot = Pair(update_rate_hz=250.0)
    robot.keep_moving()
    robot.run(0.02)
    robot.loops[0].controller.scaling = 0.3
    for _ in range(12):
        for loop, joints in zip(robot.loops, (LEFT, RIGHT), strict=True):
            reference = loop.controller.reference
            speed = np.zeros(7) if reference.velocity is None else reference.velocity
            robot.executor.on_controller_reference(robot.now, reference.position, speed, joints)
        robot.run(0.02)
        if robot.now < 1.05:
            robot.loops[0].take()
    assert "30 % of its speed" in robot.executor.status.reason
    robot.run(0.5)
    assert np.abs(robot.velocity).max() < 1e-3
    (left, _), (right, change) = robot.shares()
    assert left <= 1.02 and right <= 1.02 and change <= 1.05, (left, right, change)
    assert len(LIMITS.names) == len(LEFT)
