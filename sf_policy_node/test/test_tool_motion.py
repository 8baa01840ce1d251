"""Tests of the tool's pose and twist against finite differences, in rotated base frames."""

from functools import cache

import numpy as np
import pinocchio
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, kinematics, sim_arm

from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.arm.tool_motion import (
    Drift,
    QuaternionPose,
    ToolMotion,
    limit_correction,
)

STEP = 1e-5  # s
BASES = ("base_link", "cell")
LOWER, UPPER = (
    np.array([getattr(joint, limit) for joint in sim_arm().joints]) for limit in ("lower", "upper")
)
inside = st.lists(st.floats(0.02, 0.98), min_size=6, max_size=6).map(
    lambda share: LOWER + np.array(share) * (UPPER - LOWER)
)
speeds = st.lists(st.floats(-2.0, 2.0), min_size=6, max_size=6).map(np.array)


@cache
def tool_motion(base: str) -> ToolMotion:
    """Return the tool motion of the simulated arm.

    Its base frame is the arm's own, or a cell that is rotated and shifted against it.
    """
    data = yaml.safe_load(CONTRACT_PATH.read_text()) | {"base_frame": base}
    cell = (
        '<link name="cell"/><joint name="cell_joint" type="fixed"><parent link="base_link"/><child'
        ' link="cell"/><origin xyz="0.4 -0.2 0.1" rpy="0.3 -0.8 1.9"/></joint></robot>'
    )
    return ToolMotion(
        parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml.replace("</robot>", cell))
    )


def rotation(quaternion):
    """Return the matrix (3, 3) of a quaternion x y z w."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.mark.parametrize("base", BASES)
@settings(deadline=None, max_examples=100)
@given(positions=inside, velocities=speeds)
def test_the_twist_is_the_derivative_of_the_pose(base, positions, velocities):
    motion = tool_motion(base)
    before, after = (motion.pose(positions + side * STEP * velocities) for side in (-0.5, 0.5))
    linear = (after.position - before.position) / STEP
    angular = pinocchio.log3(rotation(after.quaternion) @ rotation(before.quaternion).T) / STEP
    np.testing.assert_allclose(motion.twist(positions, velocities), [*linear, *angular], atol=1e-6)


def test_pose_and_twist_are_given_in_the_base_frame_of_the_contract():
    positions, velocities = (
        np.array([0.3, 0.5, 1.2, 0.9, -0.2, 0.4]),
        np.array([0.5, -0.3, 0.2, 0.1, 0.7, -0.4]),
    )
    axes, origin = pinocchio.rpy.rpyToMatrix(0.3, -0.8, 1.9), np.array([0.4, -0.2, 0.1])
    arm, cell = (tool_motion(base).pose(positions) for base in BASES)
    np.testing.assert_allclose(axes @ cell.position + origin, arm.position, atol=1e-12)
    np.testing.assert_allclose(
        axes @ rotation(cell.quaternion), rotation(arm.quaternion), atol=1e-12
    )
    arm, cell = (tool_motion(base).twist(positions, velocities) for base in BASES)
    np.testing.assert_allclose(axes @ cell[:3], arm[:3], atol=1e-12)
    np.testing.assert_allclose(axes @ cell[3:], arm[3:], atol=1e-12)


@given(positions=inside)
@settings(deadline=None, max_examples=50)
def test_the_pose_equals_the_kinematics(positions):
    position, tool = tool_motion("base_link").pose(positions), kinematics().forward(positions)
    np.testing.assert_allclose(position.position, tool.position, atol=1e-12)
    np.testing.assert_allclose(rotation(position.quaternion), tool.rotation, atol=1e-12)


def test_stationary_joints_have_no_twist():
    assert not tool_motion("base_link").twist(np.full(6, 0.3), np.zeros(6)).any()


# ---- drift ----

LATE = 8  # samples of 10 ms by which the arm of these tests follows
UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])


def follow(loss, seconds, *, corrected):
    """Return the distance (N,) of a tool from the circle of 5 cm that twists command.

    A share of the twists towards +x is lost.
    """
    times = 0.01 * np.arange(round(seconds / 0.01))
    circle = 0.05 * np.stack([np.cos(times), np.sin(times), np.zeros_like(times)], axis=1)
    drift, position, sent, beside = Drift(), circle[0].copy(), [np.zeros(3)] * LATE, []
    for index, now in enumerate(times[:-1]):
        drift.note(now, QuaternionPose(circle[index], UPRIGHT))
        drift.measure(now, QuaternionPose(position, UPRIGHT))
        sent.append((circle[index + 1] - circle[index]) / 0.01 + drift.twist[:3] * corrected)
        arrived = sent[-1 - LATE] * ([1.0 - loss, 1.0, 1.0] if sent[-1 - LATE][0] > 0 else 1.0)
        position = position + 0.01 * arrived
        beside.append(abs(np.linalg.norm(position) - 0.05))
    return np.array(beside)


def test_drift_from_lost_twists_is_corrected():
    assert follow(0.1, 40.0, corrected=False)[-700:].max() > 0.04
    assert follow(0.1, 40.0, corrected=True).max() < 0.006


def test_an_arm_that_only_lags_is_not_corrected():
    late, plain = follow(0.0, 10.0, corrected=True), follow(0.0, 10.0, corrected=False)
    assert np.abs(late - plain).max() < 5e-4


def test_a_rotated_tool_is_rotated_back_and_a_distant_one_moved_back_slowly():
    drift, now = Drift(), 0.0

    def measured(position, seconds=0.5):
        nonlocal now
        for _ in range(round(seconds / 0.01)):
            now, before = now + 0.01, drift.twist
            drift.note(now, QuaternionPose(np.zeros(3), UPRIGHT))
            drift.measure(now, position)
            assert np.abs(drift.twist - before).max() <= 0.005 + 1e-9, (
                "a correction comes at 0.5 m/s^2 at most"
            )

    measured(
        QuaternionPose(np.zeros(3), np.array([0.0, 0.0, np.sin(0.01), np.cos(0.01)]))
    )  # 0.02 rad about z
    np.testing.assert_allclose(drift.twist, [0, 0, 0, 0, 0, -0.04], atol=1e-6)
    measured(QuaternionPose(np.array([-3.0, 0.0, 0.0]), UPRIGHT))
    np.testing.assert_allclose(drift.twist, [0.1, 0, 0, 0, 0, 0], atol=1e-9)


def test_a_correction_respects_the_tool_speed_limit():
    planned, back = (
        np.array([0.475, 0.0, 0.0, 0.1, 0.0, 0.0]),
        np.array([0.1, 0.0, 0.0, 0.0, 0.1, 0.0]),
    )
    np.testing.assert_allclose(limit_correction(0.5, planned, back), [0.5, 0.0, 0.0, 0.1, 0.1, 0.0])
    np.testing.assert_allclose(
        limit_correction(0.5, planned, -back), [0.375, 0.0, 0.0, 0.1, -0.1, 0.0]
    )
    np.testing.assert_allclose(limit_correction(0.4, planned, back)[:3], [0.475, 0.0, 0.0])
    np.testing.assert_allclose(limit_correction(np.inf, planned, back)[:3], [0.575, 0.0, 0.0])


def test_the_drift_of_one_motion_does_not_affect_the_next():
    drift = Drift()
    drift.measure(0.0, QuaternionPose(np.ones(3), UPRIGHT))
    assert not drift.twist.any()  # no motion yet
    drift.note(0.0, QuaternionPose(np.zeros(3), UPRIGHT))
    drift.measure(0.0, QuaternionPose(np.ones(3), UPRIGHT))
    drift.note(0.01, QuaternionPose(np.zeros(3), UPRIGHT))
    assert drift.twist.any()
    drift.note(5.0, QuaternionPose(np.ones(3), UPRIGHT))
    assert not drift.twist.any()


def test_without_fresh_measurements_nothing_is_corrected():
    drift = Drift()
    drift.note(0.0, QuaternionPose(np.zeros(3), UPRIGHT))
    drift.measure(0.0, QuaternionPose(np.full(3, 0.01), UPRIGHT))
    for now in (0.05, 0.09):
        drift.note(now, QuaternionPose(np.zeros(3), UPRIGHT))
        assert drift.twist.any()
    before = drift.twist
    drift.note(0.13, QuaternionPose(np.zeros(3), UPRIGHT))
    assert np.linalg.norm(drift.twist) < np.linalg.norm(before)
    drift.note(0.33, QuaternionPose(np.zeros(3), UPRIGHT))
    assert not drift.twist.any()
