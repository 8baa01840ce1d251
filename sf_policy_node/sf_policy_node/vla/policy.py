"""A trained policy behind one call: observation in, chunk of actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.types import Join
from sf_policy_node.perception.robot_state import robot_state
from sf_policy_node.session.continuation import Continuation
from sf_policy_node.vla.checkpoint import Checkpoint, CheckpointError, Model, load_checkpoint
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.preprocessing import prepare
from sf_policy_node.vla.real_time_chunking import Guidance, sample, soft_mask
from sf_policy_node.vla.text import TextEncoder, text_encoder

__all__ = ["CheckpointError", "Policy"]


class Policy:
    """Runs a model for the robot of its contract. Not thread-safe."""

    def __init__(
        self,
        model: Model,
        contract: Contract,
        normalisation: Normalisation,
        *,
        policy_id: str = "untrained",
        device: str = "auto",
        encoder: TextEncoder | None = None,
    ) -> None:
        self.contract = contract
        self.policy_id = policy_id
        self._device = torch.device(_choose_device(device))
        self._model = model.to(self._device).eval()
        self._normalisation = normalisation
        self._kinematics = kinematics_of(contract)
        self._flow = model.config.head == "flow"
        self._noise = torch.Generator().manual_seed(0)
        # A model without a tokenizer reads sentence embeddings.
        self._encoder = None if model.words else encoder or text_encoder()

    @classmethod
    def load(
        cls, path: str | Path, *, contract: Contract | None = None, device: str = "auto"
    ) -> Policy:
        """Load a checkpoint directory.

        Args:
            contract: the robot's; a checkpoint that was trained for another contract is refused.
                None takes the one in the checkpoint.
            device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            CheckpointError: the checkpoint or the device cannot be used.
        """
        checkpoint: Checkpoint = load_checkpoint(path, contract)
        return cls(
            checkpoint.model,
            checkpoint.contract,
            checkpoint.normalisation,
            policy_id=checkpoint.identity,
            device=device,
        )

    @property
    def device(self) -> str:
        """``cpu``, or index and name of the GPU."""
        if self._device.type == "cpu":
            return "cpu"
        return f"{self._device} ({torch.cuda.get_device_name(self._device)})"

    def warm_up(self) -> None:
        """Predict once on zeros: the first inference takes longer than the following ones."""
        images = {
            camera.name: np.zeros((camera.height, camera.width, 3), np.uint8)
            for camera in self.contract.cameras
        }
        self.predict(images, np.zeros(len(self.contract.command_joints)), "warm up")

    @property
    def join(self) -> Join:
        """Blending mode of its chunks.

        A flow head continues the previous chunk (real-time chunking).
        """
        return Join.RTC if self._flow else Join.BLEND

    def predict(
        self,
        images: Mapping[str, np.ndarray],
        joint_positions: np.ndarray,
        instruction: str,
        *,
        continuation: Continuation | None = None,
    ) -> np.ndarray:
        """Predict the next chunk.

        Args:
            images: camera name to (H, W, 3) uint8 RGB.
            joint_positions: measured, in the order of ``contract.command_joints`` [rad, m].
            instruction: free text.
            continuation: steps of the previous chunk that are not executed yet; a regression head
                ignores them.

        Returns:
            (horizon, len(action.names)) float64 in the contract's action space. For ``ee_delta``:
            displacement of the tool in the base frame from its pose at ``joint_positions`` [m], and
            opening of the gripper (0 to 1).

        Raises:
            ValueError: a camera is missing, or a shape or value is wrong.
        """
        pixels = prepare(
            images, self.contract.camera_names, self.config.image_size, self.config.fit
        )
        return self._chunks(
            pixels[None],
            np.asarray(joint_positions)[None],
            [instruction],
            continuation=continuation,
        )[0]

    def predict_prepared(
        self,
        pixels: np.ndarray,
        joint_positions: np.ndarray,
        instructions: Sequence[str],
        *,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Predict B chunks from images that :func:`prepare` has fitted to the model.

        Args:
            pixels: (F, V, 3, H, W) uint8, made with ``config.image_size`` and ``config.fit``.
            joint_positions: (B, J), as for :meth:`predict`.
            instructions: B texts.
            rows: (B,) index into ``pixels`` for each prediction; None when F equals B.

        Returns:
            (B, horizon, len(action.names)) float64, as from :meth:`predict`.

        Raises:
            ValueError: a joint position is wrong.
        """
        return self._chunks(pixels, joint_positions, instructions, rows)

    @property
    def config(self) -> Any:
        """Configuration of the model: ``image_size``, ``fit``, ``head`` and more."""
        return self._model.config

    def _chunks(
        self,
        pixels: np.ndarray,
        joints: np.ndarray,
        instructions: Sequence[str],
        rows: np.ndarray | None = None,
        continuation: Continuation | None = None,
    ) -> np.ndarray:
        states = np.stack([robot_state(self.contract, self._kinematics, each) for each in joints])
        with torch.no_grad():  # not inference_mode: guidance needs gradients through the head
            context = self._model.context(
                torch.from_numpy(pixels).to(self._device),
                torch.from_numpy(self._normalisation.state.normalise(states)).to(self._device),
                self._text(list(instructions)).to(self._device),
                rows=None if rows is None else torch.from_numpy(rows).to(self._device),
            )
            actions = (
                self._sample(context, continuation, len(states))
                if self._flow
                else self._model.head(context)
            )
        return self._normalisation.action.restore(actions.float().cpu().numpy())

    def _text(self, instructions: list[str]) -> torch.Tensor:
        if self._encoder is None:
            return self._model.words.encode(instructions)
        return torch.from_numpy(
            self._normalisation.text.normalise(self._encoder.encode(instructions))
        )

    def _sample(
        self, context: object, continuation: Continuation | None, count: int
    ) -> torch.Tensor:
        head, config = self._model.head, self._model.config
        horizon, columns = config.horizon, config.action_size
        noise = torch.randn(count, horizon, head.columns, generator=self._noise).to(self._device)
        if continuation is None or not len(continuation.rows):
            return sample(partial(head.velocity, context), noise, head.steps)[..., :columns]
        # Columns beyond the action's are padding; they are zero in training too.
        known, delay = len(continuation.rows), continuation.delay_rows
        rows = torch.zeros(horizon, head.columns)
        rows[:known, :columns] = torch.from_numpy(
            self._normalisation.action.normalise(continuation.rows)
        )
        rows = rows.to(self._device)
        # Steps that will have been executed are given as a prefix if the head is trained with one,
        # else they guide with full weight. The steps after them guide with falling weight.
        given = delay if head.keeps_given else 0
        noise[:, :given] = rows[:given]
        guidance = Guidance(rows, soft_mask(horizon, delay, known).to(self._device))
        return sample(partial(head.velocity, context, given=given), noise, head.steps, guidance)[
            ..., :columns
        ]


def _choose_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CheckpointError(
            f"device {device}: PyTorch finds no GPU; take device cpu or auto, or check the driver"
        )
    return device
