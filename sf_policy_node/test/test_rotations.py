"""Tests of rotations with both libraries, and of cv_bridge against OpenCV."""

import importlib.util

import numpy as np
import pinocchio
import pytest

from sf_policy_node.nodes import rotations
from sf_policy_node.perception.colour_conversion import (
    COLOUR,
    by_cv_bridge,
    by_opencv,
    cv_bridge_encodings,
)

IN_EVERY_CV_BRIDGE = {
    "bgr8",
    "rgba8",
    "bgra8",
    "mono8",
    "8UC1",
    "8UC3",
    "8UC4",
    "bayer_rggb8",
    "bayer_bggr8",
    "bayer_gbrg8",
    "bayer_grbg8",
}


@pytest.fixture(params=["tf_transformations", "transforms3d"])
def branch(request, monkeypatch):
    """Return each of the two libraries in turn."""
    if request.param == "transforms3d":
        monkeypatch.setattr(rotations, "tf_transformations", None)
    elif importlib.util.find_spec("tf_transformations") is None:
        pytest.skip("tf_transformations is not on PyPI; it comes with an installed ROS 2")
    return request.param


def test_random_rotations_agree_with_pinocchio(branch):
    dice = np.random.default_rng(0)
    for _ in range(200):
        wanted = pinocchio.exp3(
            dice.uniform(-np.pi, np.pi) * (axis := dice.normal(size=3)) / np.linalg.norm(axis)
        )
        quaternion = rotations.quaternion_from_matrix(wanted)
        assert quaternion[3] >= 0 and np.linalg.norm(quaternion) == pytest.approx(1.0)
        np.testing.assert_allclose(
            pinocchio.Quaternion(*quaternion[[3, 0, 1, 2]]).matrix(), wanted, atol=1e-9
        )
        np.testing.assert_allclose(
            rotations.matrix_from_quaternion(3.0 * quaternion), wanted, atol=1e-9
        )


def test_half_turns_have_a_quaternion(branch):
    for axis in np.eye(3):
        turn = pinocchio.exp3(np.pi * axis)
        np.testing.assert_allclose(
            rotations.matrix_from_quaternion(rotations.quaternion_from_matrix(turn)),
            turn,
            atol=1e-9,
        )


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 0]])
def test_invalid_rotations_are_refused(branch, quaternion):
    with pytest.raises(ValueError, match="is no rotation"):
        rotations.matrix_from_quaternion(quaternion)


@pytest.mark.parametrize("encoding", sorted(COLOUR))
def test_cv_bridge_and_opencv_give_equal_pixels(encoding):
    if not cv_bridge_encodings():
        pytest.skip(
            "cv_bridge is not installed (it comes with ROS 2), or does not work beside this NumPy"
        )
    if encoding not in cv_bridge_encodings():
        assert encoding not in IN_EVERY_CV_BRIDGE
        pytest.skip(f"this cv_bridge does not convert {encoding}; OpenCV does")
    channels = COLOUR[encoding][0]
    dice = np.random.default_rng(1)
    for height, width in ((6, 8), (48, 64), (2, 2)):
        pixels = dice.integers(
            0, 256, (height, width) if channels == 1 else (height, width, channels), dtype=np.uint8
        )
        np.testing.assert_array_equal(by_cv_bridge(encoding, pixels), by_opencv(encoding, pixels))
        padded = np.pad(pixels, [(0, 0), (0, 2)] + [(0, 0)] * (channels > 1))[:, :width]
        np.testing.assert_array_equal(by_cv_bridge(encoding, padded), by_opencv(encoding, pixels))
