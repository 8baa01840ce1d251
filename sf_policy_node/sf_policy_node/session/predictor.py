"""Turn an observation into a chunk: decode the images, run the policy, and check its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.types import Chunk, Join
from sf_policy_node.perception.frozen_camera import FrozenCameras
from sf_policy_node.perception.observation import Observation

if TYPE_CHECKING:
    from sf_policy_node.session.continuation import ChunkHistory


class PolicyUnavailable(ValueError):
    """Raised while a policy server cannot answer; the message gives the reason. A later request may
    succeed.
    """


class ActionPolicy(Protocol):
    """Define what a session needs of a policy; ``vla.policy.Policy`` is one.

    A policy with an attribute ``join`` that is ``Join.RTC`` is also given the keyword
    ``continuation``: the part of its last chunk that is still ahead
    (``continuation.Continuation``), or None.
    """

    policy_id: str

    @property
    def device(self) -> str:
        """Return where it runs, for messages."""

    def warm_up(self) -> None:
        """Run once, so that the first real prediction is not slow."""

    def predict(
        self, images: dict[str, np.ndarray], joint_positions: np.ndarray, instruction: str
    ) -> np.ndarray:
        """Return a chunk (horizon, columns) for images (H, W, 3) uint8 RGB by camera and joints
        (J,).
        """


class Predictor:
    """Predict chunks with one policy; to be used from one thread.

    Args:
        decode: (camera name, stored message) -> (H, W, 3) uint8 RGB; ValueError with one sentence
            when it cannot be read.
        real_time_chunking: a policy that can continues its last chunk; its chunks are blended
            otherwise.
    """

    def __init__(
        self,
        contract: Contract,
        policy: ActionPolicy,
        decode: Callable[[str, object], np.ndarray],
        *,
        real_time_chunking: bool = False,
    ) -> None:
        self._contract, self._policy, self._decode = contract, policy, decode
        self._cameras = FrozenCameras(contract)
        self._join = Join(getattr(policy, "join", Join.BLEND))
        if self._join is Join.RTC and not real_time_chunking:
            self._join = Join.BLEND
        self._history: ChunkHistory | None = None
        self._history_epoch = -1

    def images(self, observation: Observation) -> dict[str, np.ndarray]:
        """Decode the images of an observation to (H, W, 3) uint8 RGB, by camera.

        Raises:
            ValueError: one of them cannot be read, or does not change although the arm moves.
        """
        images = {name: self._decode(name, image) for name, image in observation.images.items()}
        self._cameras.check(observation.stamp, images, observation.joints)
        return images

    def chunk(
        self,
        observation: Observation,
        images: dict[str, np.ndarray],
        instruction: str,
        epoch: int,
        sequence: int,
    ) -> Chunk:
        """Predict a chunk.

        Args:
            images: of :meth:`images`.
            epoch: of the instruction; a chunk continues only one of the same epoch.
            sequence: number of the chunk in its epoch.

        Raises:
            PolicyUnavailable: the policy server cannot answer.
            ValueError: the policy returns no finite chunk of the contract's size.
        """
        options = {}
        if self._join is Join.RTC:
            options["continuation"] = self._history_of(epoch).continuation(
                observation.stamp, observation.joints
            )
        begin = time.perf_counter()
        data = np.asarray(
            self._policy.predict(images, observation.joints, instruction, **options), dtype=float
        )
        inference_s = time.perf_counter() - begin
        self._check(data)
        return Chunk.of(
            self._contract,
            data,
            stamp=observation.stamp,
            reference=observation.joints,
            policy_id=self._policy.policy_id,
            instruction=instruction,
            epoch=epoch,
            sequence=sequence,
            inference_latency_s=inference_s,
            join=self._join,
        )

    def published(self, chunk: Chunk, latency_s: float) -> None:
        """Record that the chunk was published ``latency_s`` after its observation: the next one may
        continue it.
        """
        if self._join is Join.RTC:
            self._history_of(chunk.epoch).note(chunk, latency_s)

    def not_followed(self) -> None:
        """Record that the arm does not follow the last chunk: the next one starts anew."""
        if self._history is not None:
            self._history.forget()

    def _history_of(self, epoch: int) -> ChunkHistory:
        """Return the history of an epoch. Each epoch starts an empty one: no chunk continues
        another instruction or one from before a pause.
        """
        if self._history is None or epoch != self._history_epoch:
            # Imported late, because it loads the kinematics library.
            from sf_policy_node.session.continuation import ChunkHistory

            self._history, self._history_epoch = ChunkHistory(self._contract), epoch
        return self._history

    def _check(self, data: np.ndarray) -> None:
        action = self._contract.action
        expected = (action.horizon, len(action.names))
        if data.shape != expected:
            raise ValueError(
                f"it returned a chunk of shape {data.shape}, the contract says {expected}"
            )
        if not np.isfinite(data).all():
            raise ValueError(
                f"it returned {data[~np.isfinite(data)][0]} in column"
                f" {action.names[np.argwhere(~np.isfinite(data))[0][1]]}"
            )
