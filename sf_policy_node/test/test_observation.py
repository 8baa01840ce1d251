"""Tests of observations from matching messages, and of reasons when there is none."""

import numpy as np
import pytest
from motion_cases import HOME, sim_arm

from sf_policy_node.motion.safety.clock import future_s
from sf_policy_node.perception.observation import (
    MAX_INSTRUCTION,
    NoObservation,
    ObservationBuffer,
    validate_instruction,
)

NAMES = sim_arm().command_joints


@pytest.fixture
def buffer():
    buffer = ObservationBuffer(sim_arm())
    for stamp in np.arange(9.5, 10.01, 0.01):
        buffer.add_joint_state(stamp, NAMES, HOME + stamp)
    return buffer


def test_the_newest_matching_images_are_selected_with_the_joints_of_that_time(buffer):
    for stamp, image in ((9.90, "s0"), (9.93, "s1"), (9.97, "s2")):
        buffer.add_image("scene", stamp, image)
    for stamp, image in ((9.90, "w0"), (9.935, "w1")):
        buffer.add_image("wrist", stamp, image)
    observation = buffer.pick(10.0)
    assert observation.images == {"scene": "s1", "wrist": "w1"}
    assert observation.stamp == 9.93
    assert np.allclose(observation.joints, HOME + 9.93)


def test_joints_are_interpolated_between_two_joint_states():
    buffer = ObservationBuffer(sim_arm())
    buffer.add_joint_state(9.90, NAMES, np.zeros(7))
    buffer.add_joint_state(9.98, NAMES, np.ones(7))
    buffer.add_image("scene", 9.94, "s")
    buffer.add_image("wrist", 9.98, "w")
    assert np.allclose(buffer.pick(10.0).joints, 0.5)


def test_joints_do_not_depend_on_the_delay_of_images():
    """Measurements after the last image are not used: recorded data have no transport delays."""
    picked = []
    for late in (False, True):
        buffer = ObservationBuffer(sim_arm())
        buffer.add_joint_state(9.90, NAMES, np.zeros(7))
        for camera in ("scene", "wrist"):
            buffer.add_image(camera, 9.92, camera)
        if late:
            buffer.add_joint_state(9.98, NAMES, np.ones(7))
        picked.append(buffer.pick(9.99).joints)
    np.testing.assert_array_equal(*picked)


def test_observations_that_overtake_a_simulated_clock_are_used():
    """On a busy computer each clock message may be late; no two clocks differ there."""
    buffer = ObservationBuffer(sim_arm(), future_s(simulated=True))
    buffer.add_joint_state(10.1, NAMES, HOME)
    for camera in ("scene", "wrist"):
        buffer.add_image(camera, 10.1, camera)
    assert buffer.pick(10.0).stamp == 10.1
    with pytest.raises(NoObservation, match=r"stamped 0\.200 s in the future"):
        buffer.pick(9.9)


@pytest.mark.parametrize(("gap", "usable"), [(0.09, True), (0.3, False)])
def test_joints_are_not_interpolated_across_a_gap_of_joint_states(gap, usable):
    """The newest joint state is fresh, but the joints at the time of the images are unknown."""
    buffer = ObservationBuffer(sim_arm())
    for stamp in (9.98 - gap, 9.98):
        buffer.add_joint_state(stamp, NAMES, HOME + stamp)
    for camera in ("scene", "wrist"):
        buffer.add_image(camera, 9.97, camera)
    if usable:
        assert buffer.pick(9.99).stamp == 9.97
    else:
        with pytest.raises(
            NoObservation,
            match=r"joint1 on joint_states are lost: .* 0\.290 s older, budgets\.joint_state_age_s",
        ):
            buffer.pick(9.99)


@pytest.mark.parametrize(
    ("scene", "wrist", "now", "reason"),
    [
        (None, 9.9, 10.0, "camera scene: no image on scene_camera/image_raw"),
        (9.9, None, 10.0, "camera wrist: no image on wrist_camera/image_raw"),
        (
            9.9,
            9.0,
            10.0,
            (
                r"camera wrist: the newest image is 1\.000 s old, budgets\.observation_age_s allows"
                r" 0\.25 s"
            ),
        ),
        (
            9.99,
            9.93,
            10.0,
            r"cameras wrist and scene are 0\.060 s apart, budgets\.camera_skew_s allows 0\.05 s",
        ),
        (12.0, 9.9, 10.0, r"camera scene: the newest image is stamped 2\.000 s in the future"),
        (0.0, 9.9, 10.0, "camera scene: images on scene_camera/image_raw have no time stamp"),
        (
            10.15,
            10.15,
            10.2,
            r"the newest joint state is 0\.200 s old, budgets\.joint_state_age_s allows 0\.1 s",
        ),
    ],
)
def test_missing_or_old_messages_are_reported_with_their_age(buffer, scene, wrist, now, reason):
    for camera, stamp in (("scene", scene), ("wrist", wrist)):
        if stamp is not None:
            buffer.add_image(camera, stamp, camera)
    with pytest.raises(NoObservation, match=reason):
        buffer.pick(now)


def test_without_joint_states_there_is_no_observation():
    buffer = ObservationBuffer(sim_arm())
    for camera in ("scene", "wrist"):
        buffer.add_image(camera, 9.92, camera)
    with pytest.raises(NoObservation, match="no joint states on joint_states"):
        buffer.pick(10.0)
    buffer.add_joint_state(9.95, NAMES, np.full(7, np.nan))
    with pytest.raises(NoObservation, match="have the position nan for joint1"):
        buffer.pick(10.0)
    buffer.add_joint_state(9.95, NAMES, HOME)
    with pytest.raises(NoObservation, match="no joint state yet when the images were taken"):
        buffer.pick(10.0)


def test_a_backward_clock_jump_resets_the_buffer(buffer):
    for camera in ("scene", "wrist"):
        buffer.add_image(camera, 9.99, "old")
        buffer.add_image(camera, 1.0, "new")
    buffer.add_joint_state(1.0, NAMES, HOME)
    assert buffer.pick(1.01).images == {"scene": "new", "wrist": "new"}


def test_ages_and_skew_are_reported(buffer):
    assert buffer.camera_ages(10.0) == [-1.0, -1.0] and buffer.skew == -1.0
    buffer.add_image("scene", 9.9, None)
    buffer.add_image("wrist", 9.8, None)
    assert buffer.camera_ages(10.0) == pytest.approx([0.1, 0.2]) and buffer.skew == pytest.approx(
        0.1
    )
    assert buffer.joint_state_age(10.1) == pytest.approx(0.1)


def test_instructions_are_stripped_and_bounded():
    assert validate_instruction("  pick the red cube\n") == "pick the red cube"
    assert validate_instruction("x" * MAX_INSTRUCTION)
    with pytest.raises(ValueError, match="the instruction is empty"):
        validate_instruction(" \t\n")
    with pytest.raises(ValueError, match="has 10000 characters, at most 500"):
        validate_instruction("x" * 10_000)
