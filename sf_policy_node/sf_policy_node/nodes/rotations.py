"""Converts rotations between matrices and quaternions.

It uses ``tf_transformations`` if installed, else transforms3d, which the former wraps. Quaternions
are x, y, z, w, as in geometry_msgs; transforms3d has w first.
"""

from __future__ import annotations

import numpy as np
import transforms3d

try:  # comes with an installed ROS 2, not from PyPI
    import tf_transformations
except ImportError:
    tf_transformations = None


def quaternion_from_matrix(rotation: np.ndarray) -> np.ndarray:
    """Return the quaternion (4,) x, y, z, w with w >= 0 of a rotation matrix (3, 3)."""
    if tf_transformations is None:
        w, x, y, z = transforms3d.quaternions.mat2quat(rotation)
    else:
        homogeneous = np.eye(4)
        homogeneous[:3, :3] = rotation
        x, y, z, w = tf_transformations.quaternion_from_matrix(homogeneous)
    quaternion = np.array([x, y, z, w])
    return -quaternion if w < 0 else quaternion


def matrix_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix (3, 3) of a quaternion (4,) x, y, z, w of any length but zero.

    Raises:
        ValueError: the quaternion is not finite, or has length zero.
    """
    quaternion = np.asarray(quaternion, dtype=float)
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite(length) or length < 1e-6:
        raise ValueError(
            f"{quaternion.tolist()} is no rotation; give a quaternion x y z w of length 1"
        )
    x, y, z, w = quaternion / length
    if tf_transformations is None:
        return transforms3d.quaternions.quat2mat([w, x, y, z])
    return np.array(tf_transformations.quaternion_matrix([x, y, z, w]))[:3, :3]
