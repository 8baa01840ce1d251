"""Observations to which a depth probe is fitted, and on which it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.perception.robot_state import robot_state
from sf_policy_node.vla.checkpoint import Checkpoint
from sf_training.data.dataset import Dataset
from sf_training.spatial_forcing.depth_cells import depth_cells


class ProbeError(ValueError):
    """The probe cannot be run; the message names the setting and the cure."""


@dataclass(frozen=True)
class Frames:
    """Observations with their depth.

    Attributes:
        images: (F, V, 3, H, W) uint8.
        states: (F, N) from :func:`robot_state`.
        texts: (F,) index into the instructions.
        episodes: (F,) episode of each frame.
        cells: (F, V, R, C) mean depth in cells [m].
        depth: (F, V, H, W) depth of the pixels [m].
    """

    images: np.ndarray
    states: np.ndarray
    texts: np.ndarray
    episodes: np.ndarray
    cells: np.ndarray
    depth: np.ndarray


def choose_frames(
    dataset: Dataset,
    checkpoint: Checkpoint,
    episodes: np.ndarray,
    most: int,
    *,
    cells: int,
    nearest: float,
    farthest: float,
) -> Frames:
    """Return labelled frames of some episodes, ``most`` of them evenly spaced where there are more.

    Args:
        cells: depth values along one side of a token's patch.
        nearest, farthest: range of depth that counts [m].

    Raises:
        ProbeError: none of the episodes has a label and all cameras, they have no depth, or none
            between the limits.
    """
    labelled, first = np.unique(dataset.pair_frame, return_index=True)
    usable = np.isin(dataset.episode[labelled], episodes) & dataset.present[labelled].all(1)
    labelled, first = labelled[usable], first[usable]
    if not len(labelled):
        raise ProbeError(
            f"--data: no labelled frame in {len(episodes)} of its episodes; the probe needs an"
            " instruction and all cameras for each frame"
        )
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(most, len(labelled))).astype(int))
    frames = labelled[chosen]
    kinematics, grid = kinematics_of(checkpoint.contract), checkpoint.model.visual_layout().grid
    depth = (
        np.full(0, np.nan)
        if dataset.depth is None
        else np.asarray(dataset.depth[frames], np.float32)
    )
    if not np.isfinite(depth).any():
        raise ProbeError(
            "--data: the episodes hold no depth, which the probe needs as truth; record depth"
            " (depth_topic)"
        )
    reduced = depth_cells(depth, (grid[0] * cells, grid[1] * cells), nearest, farthest)
    if not np.isfinite(reduced).any():
        raise ProbeError(
            f"--nearest, --farthest: no depth in the data lies between {nearest:g} and"
            f" {farthest:g} m"
        )
    return Frames(
        images=np.asarray(dataset.images[frames]),
        states=np.stack(
            [
                robot_state(checkpoint.contract, kinematics, joints)
                for joints in dataset.joint_positions[frames]
            ]
        ),
        texts=dataset.pair_instruction[first[chosen]],
        episodes=dataset.episode[frames],
        cells=reduced,
        depth=depth,
    )
