"""Load one episode bag as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.vla.preprocessing import Fit, prepare_intrinsics
from sf_training.data.bag_images import BagImages, Source
from sf_training.data.episode_index import index_episode
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.targets import Pairs


@dataclass(frozen=True)
class EpisodeArrays:
    """N observations of one episode with V cameras, and its labels; shapes and units as in
    :class:`~sf_training.data.dataset.Dataset`.
    """

    images: np.ndarray
    depth: np.ndarray | None
    joint_positions: np.ndarray
    stamps: np.ndarray
    intrinsics: np.ndarray
    camera_poses: np.ndarray
    pairs: Pairs


def load_episode(
    reader: EpisodeReader, size: int | tuple[int, int], *, depth: bool, fit: Fit = "crop"
) -> EpisodeArrays:
    """Decode an episode to images of ``size``, a side or (height, width) [pixels].

    Raises:
        BagError: the episode cannot be indexed, or an image cannot be decoded.
    """
    height, width = (size, size) if isinstance(size, int) else size
    size = (height, width)
    index = index_episode(reader)
    sources = [Source(reader, index, "")]
    return EpisodeArrays(
        images=np.asarray(BagImages(sources, "colour", size, fit)),
        depth=np.asarray(BagImages(sources, "depth", size, fit)) if depth else None,
        joint_positions=index.joint_positions,
        stamps=index.stamps,
        intrinsics=np.repeat(
            prepared_matrices(reader.contract, index.matrices, size, fit)[None],
            len(index.stamps),
            axis=0,
        ),
        camera_poses=index.camera_poses,
        pairs=index.pairs,
    )


def prepared_matrices(
    contract: Contract, matrices: np.ndarray, size: tuple[int, int], fit: Fit
) -> np.ndarray:
    """Return the camera matrices (V, 3, 3) float32 of the prepared images.

    Args:
        matrices: (V, 3, 3) of the recorded images [pixels].
    """
    cameras = zip(contract.cameras, matrices, strict=True)
    return np.array(
        [
            prepare_intrinsics(matrix, camera.width, camera.height, size, fit)
            for camera, matrix in cameras
        ],
        np.float32,
    )
