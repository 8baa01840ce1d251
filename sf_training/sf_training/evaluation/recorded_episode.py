"""One recorded episode: policy input, recorded actions, and model-free baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from sf_policy_node.contract import ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.vla.policy import Policy
from sf_training.data.cache_folder import cache_folder
from sf_training.data.dataset import IDLE_S, index_episodes
from sf_training.data.episode_arrays import load_episode
from sf_training.data.episode_reader import BagError, EpisodeReader, find_episodes
from sf_training.data.opening import (
    VERDICTS,
    LeftOut,
    check_strict,
    none_left,
    open_bags,
    print_left_out,
)
from sf_training.data.targets import in_action_space


@dataclass(frozen=True)
class RecordedEpisode:
    """N observations of V cameras with J joints; L labels of H steps and A columns.

    Attributes:
        images: (N, V, 3, height, width) uint8, prepared for the policy.
        joints: (N, J) measured, in the order of ``contract.command_joints`` [rad, m].
        stamps: (N,) of the observations [s].
        frame: (L,) observation of each label.
        texts: L instructions.
        targets: (L, H, A) recorded actions after it, as the rows of ``sf_msgs/ActionChunk``.
    """

    name: str
    instruction: str
    outcome: str
    checksum: str
    images: np.ndarray
    joints: np.ndarray
    stamps: np.ndarray
    frame: np.ndarray
    texts: tuple[str, ...]
    targets: np.ndarray

    @classmethod
    def load(cls, reader: EpisodeReader, policy: Policy) -> RecordedEpisode:
        """Decode an episode as training does, with the image size and fit of ``policy``.

        Raises:
            BagError: it cannot be decoded, or has no label.
        """
        arrays = load_episode(reader, policy.config.image_size, depth=False, fit=policy.config.fit)
        # As in training without long pauses, in which holding position would be correct.
        moving = np.flatnonzero(arrays.pairs.idle <= IDLE_S)
        if not len(moving):
            raise BagError(_no_label(reader))
        return cls(
            name=reader.name,
            instruction=reader.instruction,
            outcome=reader.outcome,
            checksum=reader.checksum,
            images=arrays.images,
            joints=arrays.joint_positions.astype(float),
            stamps=arrays.stamps,
            frame=arrays.pairs.frame[moving],
            texts=tuple(arrays.pairs.instructions[label] for label in moving),
            targets=arrays.pairs.targets[moving],
        )

    @property
    def digest(self) -> str:
        """Digest of the labels; differs where other rules made them."""
        return hashlib.sha256(self.targets.tobytes() + "\n".join(self.texts).encode()).hexdigest()[
            :16
        ]


def open_episodes(
    bags: Path,
    contract: Contract,
    outcomes: Sequence[str],
    verdicts: Sequence[str] = VERDICTS,
    console: Console | None = None,
    *,
    strict: bool = False,
) -> list[EpisodeReader]:
    """Return the episodes below a folder with one of the outcomes, in the order of training.

    Episodes are indexed, and the indices saved in the cache folder of ``bags``. Episodes that
    cannot be used, and anomalies in the others, are reported on the console, by default on stderr.

    Args:
        strict: raise on the first unusable episode or anomaly.

    Raises:
        BagError: none can be used, or none has such an outcome.
    """
    opened = open_bags(find_episodes(bags), contract, outcomes, verdicts, strict)
    indices = index_episodes(opened.readers, cache_folder(bags))
    left_out, notes, readers = list(opened.left_out), [], []
    for reader, index in zip(opened.readers, indices, strict=True):
        if isinstance(index, str):
            left_out.append(LeftOut(reader.path, index))
        elif not (index.pairs.idle <= IDLE_S).any():
            left_out.append(LeftOut(reader.path, _no_label(reader)))
        else:
            readers.append(reader)
            notes += [f"{reader.path}: {note}" for note in index.notes]
    check_strict(strict, left_out, notes)
    if not readers:
        raise none_left(left_out, opened.count, opened.outcomes, outcomes)
    print_left_out(console or Console(stderr=True), left_out, notes, roots=[bags])
    return readers


def _no_label(reader: EpisodeReader) -> str:
    return (
        f"{reader.path}: holds no observation with a command after it, pauses aside; leave it out"
    )


def predicted_chunks(policy: Policy, episode: RecordedEpisode, batch: int = 32) -> np.ndarray:
    """Return the policy's chunk for every label, (L, H, A) in the contract's units."""
    parts = []
    for start in range(0, len(episode.frame), batch):
        labels = slice(start, start + batch)
        frames, rows = np.unique(episode.frame[labels], return_inverse=True)
        joints = episode.joints[episode.frame[labels]]
        parts.append(
            policy.predict_prepared(
                episode.images[frames], joints, episode.texts[labels], rows=rows
            )
        )
    return np.concatenate(parts)


def stay(contract: Contract, episode: RecordedEpisode) -> np.ndarray:
    """Return chunks (L, H, A) that hold the measured position of arm and gripper."""
    return _in_joint_space(contract, episode, np.zeros_like(episode.joints))


def keep_moving(contract: Contract, episode: RecordedEpisode) -> np.ndarray:
    """Return chunks (L, H, A) that continue the measured motion of the last ``step_s``."""
    before = episode.stamps - contract.action.step_s
    earlier = np.stack(
        [np.interp(before, episode.stamps, column) for column in episode.joints.T], axis=1
    )
    step = episode.joints - earlier
    # Less than one step after the start, the measured motion covers a shorter time.
    covered = np.clip((episode.stamps - episode.stamps[0]) / contract.action.step_s, 1e-6, 1.0)
    step /= covered[:, None]
    grippers = contract.columns.commands.indices(ColumnKind.GRIPPER)
    step[:, grippers] = 0.0  # fingers reach their end position, so their motion does not continue
    return _in_joint_space(contract, episode, step)


def correct_choices(
    contract: Contract, episode: RecordedEpisode, chunks: np.ndarray
) -> tuple[int, int]:
    """Return the number of correct predictions, and of ambiguous labels.

    A prediction is correct when, of all recorded chunks of its observation, that of its own
    instruction is the closest.
    """
    motion = contract.columns.action.indices(without=[ColumnKind.GRIPPER])
    correct = total = 0
    for frame in np.unique(episode.frame):
        rows = np.flatnonzero(episode.frame == frame)
        if len(rows) < 2:
            continue
        distance = np.abs(chunks[rows][:, None] - episode.targets[rows][None])[..., motion].mean(
            (2, 3)
        )
        correct += int((distance.argmin(1) == np.arange(len(rows))).sum())
        total += len(rows)
    return correct, total


def _in_joint_space(contract: Contract, episode: RecordedEpisode, step: np.ndarray) -> np.ndarray:
    """Return chunks of constant joint velocity in the contract's action space.

    ``step`` (N, J) is the displacement in one step.
    """
    kinematics = kinematics_of(contract) if contract.action.space.is_tool else None
    ahead = np.arange(1, contract.action.horizon + 1)[:, None]
    made = {
        frame: in_action_space(
            contract, kinematics, episode.joints[frame] + ahead * step[frame], episode.joints[frame]
        )
        for frame in np.unique(episode.frame).tolist()
    }
    return np.stack([made[frame] for frame in episode.frame.tolist()])
