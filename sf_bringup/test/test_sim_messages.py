"""Tests of converting messages of the simulated arm."""

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from hypothesis import given
from hypothesis import strategies as st
from rosbags.image import message_to_cvimage
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sf_bringup import sim_messages
from sf_policy_node.controller.validation import TrajectoryRejected


@given(st.floats(0, 1e6))
def test_stamps_keep_the_microsecond(seconds):
    stamp = sim_messages.to_stamp(seconds)
    assert (
        abs(stamp.sec + 1e-9 * stamp.nanosec - seconds) < 1e-6
        and 0 <= stamp.nanosec < 1_000_000_000
    )


def message(*points):
    return JointTrajectory(joint_names=["a", "b"], points=list(points))


def point(seconds, positions, velocities=()):
    duration = Duration(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))
    return JointTrajectoryPoint(
        positions=positions, velocities=list(velocities), time_from_start=duration
    )


def test_a_trajectory_becomes_arrays():
    trajectory = message(point(0.5, [1.0, 2.0], [0.1, 0.2]), point(1.25, [3.0, 4.0], [0.0, 0.0]))
    trajectory.header.stamp.sec, trajectory.header.stamp.nanosec = 7, 500_000_000
    plain = sim_messages.to_trajectory(trajectory)
    assert plain.stamp == 7.5 and plain.joint_names == ("a", "b")
    np.testing.assert_allclose(plain.times, [0.5, 1.25])
    np.testing.assert_allclose(plain.positions, [[1, 2], [3, 4]])
    np.testing.assert_allclose(plain.velocities, [[0.1, 0.2], [0, 0]])
    assert sim_messages.to_trajectory(message(point(1, [1.0, 2.0]))).velocities is None
    assert sim_messages.to_trajectory(message()).positions.shape == (0, 2)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (message(point(1, [1.0])), "positions: point 0 has 1 values for 2 joints"),
        (
            message(point(1, [1.0, 2.0], [0.0, 0.0]), point(2, [1.0, 2.0])),
            "velocities: 1 of 2 points have them",
        ),
        (message(point(1, [1.0, 2.0], [0.0])), "velocities: point 0 has 1 values"),
    ],
)
def test_ragged_trajectories_are_rejected(bad, sentence):
    with pytest.raises(TrajectoryRejected, match=sentence):
        sim_messages.to_trajectory(bad)


def test_images_are_readable_by_another_library():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    depth = rng.random((24, 32), dtype=np.float32)
    stamp = sim_messages.to_stamp(1.5)
    np.testing.assert_array_equal(
        message_to_cvimage(sim_messages.image(stamp, "camera", "rgb8", colour)), colour
    )
    np.testing.assert_array_equal(
        message_to_cvimage(sim_messages.image(stamp, "camera", "32FC1", depth)), depth
    )
    mirrored = sim_messages.image(stamp, "camera", "rgb8", colour[:, ::-1])  # not contiguous
    np.testing.assert_array_equal(message_to_cvimage(mirrored), colour[:, ::-1])
