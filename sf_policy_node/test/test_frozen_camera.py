"""Tests of frozen cameras: repeated images are detected only while the arm moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import HOME, sim_arm

from sf_policy_node.perception.frozen_camera import FrozenCameras
from sf_policy_node.perception.observation import NoObservation

STILL = {"scene": np.zeros((240, 320, 3), np.uint8), "wrist": np.zeros((240, 320, 3), np.uint8)}


def image(number):
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[120, 160, number % 3] = 1 + number % 255  # one pixel, the smallest change
    return pixels


def moved(amount):
    """Return the joints (J,) after each arm joint moved its share of ``amount`` [rad in all]."""
    joints = HOME.copy()
    joints[:6] += amount / 6
    return joints


def test_a_repeated_image_of_a_moving_arm_is_refused_with_camera_time_and_cure():
    cameras = FrozenCameras(sim_arm())
    cameras.check(10.0, {"scene": image(1), "wrist": image(1)}, moved(0.0))
    with pytest.raises(
        NoObservation,
        match=(
            r"^camera scene: the image has not changed for 0\.6 s although the arm moved;"
            r" restart the"
        ),
    ):
        cameras.check(10.6, {"scene": image(1), "wrist": image(2)}, moved(0.03))
    cameras.check(10.7, {"scene": image(2), "wrist": image(2)}, moved(0.03))


def test_a_frozen_camera_remains_refused_after_the_arm_has_stopped():
    cameras = FrozenCameras(sim_arm())
    cameras.check(10.0, STILL, moved(0.0))
    for stamp in (10.3, 11.0, 60.0):
        with pytest.raises(NoObservation, match=f"{stamp - 10.0:.1f} s"):
            cameras.check(stamp, STILL, moved(0.05))


def test_the_longest_frozen_camera_is_named():
    cameras = FrozenCameras(sim_arm())
    cameras.check(10.0, {"scene": image(0), "wrist": image(1)}, moved(0.0))
    cameras.check(10.3, {"scene": image(2), "wrist": image(1)}, moved(0.01))
    with pytest.raises(NoObservation, match=r"camera wrist: the image has not changed for 1\.0 s"):
        cameras.check(11.0, {"scene": image(2), "wrist": image(1)}, moved(0.1))


def test_a_stationary_arm_may_have_constant_images():
    cameras = FrozenCameras(sim_arm())
    for stamp in np.arange(10.0, 40.0, 0.3):
        cameras.check(stamp, STILL, moved(0.009 * np.sin(stamp)))


def test_a_slightly_late_image_after_a_long_rest_is_not_frozen():
    cameras = FrozenCameras(sim_arm())
    for stamp in (10.0, 20.0, 30.0):
        cameras.check(stamp, STILL, moved(0.0))
    cameras.check(30.2, STILL, moved(0.03))
    cameras.check(30.3, {"scene": image(1), "wrist": image(1)}, moved(0.06))


def test_the_gripper_alone_is_no_motion_of_the_arm():
    cameras = FrozenCameras(sim_arm())
    joints = HOME.copy()
    cameras.check(10.0, STILL, joints)
    joints[6] += 0.03
    cameras.check(12.0, STILL, joints)


def test_a_backward_clock_jump_resets_the_check():
    cameras = FrozenCameras(sim_arm())
    cameras.check(10.0, STILL, moved(0.0))
    cameras.check(2.0, STILL, moved(0.5))
    cameras.check(2.1, STILL, moved(0.5))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(-0.5, 0.5)), max_size=30))
def test_cameras_that_change_are_never_refused(steps):
    cameras, stamp, where = FrozenCameras(sim_arm()), 10.0, 0.0
    for number, (later, step) in enumerate(steps):
        stamp, where = stamp + later, where + step
        cameras.check(stamp, {"scene": image(number), "wrist": image(number + 1)}, moved(where))


def test_one_wrong_joint_state_at_the_first_image_is_not_motion_for_ever():
    """Only observations with the same wrong joints would pass: the policy would be fed lies."""
    cameras = FrozenCameras(sim_arm())
    cameras.check(10.0, STILL, np.zeros_like(HOME))
    for stamp in np.arange(10.3, 15.0, 0.3):
        cameras.check(stamp, STILL, HOME)
    with pytest.raises(NoObservation, match="although the arm moved"):
        cameras.check(15.5, STILL, moved(0.05))
