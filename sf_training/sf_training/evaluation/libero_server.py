"""Serve a published LIBERO policy by openpi's websocket protocol (command ``libero-serve``).

The policy uses LIBERO's own columns (tool pose and fingers in, controller commands out). No robot
contract describes them, so it never runs on a robot. ``libero_client.py`` queries it from LIBERO's
environment.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from sf_policy_node.vla.backbones.pretrained import BackboneError
from sf_policy_node.vla.backbones.words import WordsError
from sf_policy_node.vla.normalisation import Normalisation, Spread
from sf_policy_node.vla.preprocessing import prepare
from sf_policy_node.vla.real_time_chunking import sample
from sf_policy_node.vla.remote.server import OpenpiServer, ServeError, is_loopback
from sf_training.config_file import parse, print_settings
from sf_training.training.published_statistics import StatisticsError, read_statistics

STATE, ACTION = 8, 7  # LIBERO's
_CAMERAS = {"scene": "observation/image", "wrist": "observation/wrist_image"}


@dataclass(frozen=True)
class Arguments:
    """Serve a LIBERO policy: OpenVLA-OFT's or Spatial Forcing's, or openpi's pi0 or pi0.5.

    $ python3 -m sf_training libero-serve --kind openvla_oft --weights openvla-7b-oft-libero-spatial
    """

    weights: Path
    """Directory of the published weights, statistics and tokenizer."""
    kind: Literal["openvla_oft", "pi0", "pi05"] = "openvla_oft"
    """Model kind of the weights."""
    statistics: Path | None = None
    """File or directory of the statistics; None is the directory of the weights."""
    dataset: str = ""
    """Name of the statistics where there are several, such as libero_spatial_no_noops."""
    horizon: int | None = None
    """Actions of a chunk; None is 8 for openvla_oft and that of config.json for the others."""
    add_state: bool = False
    """Add the state's first six values to the actions, for openpi's pi0_libero, which was trained
    on differences from the state.
    """
    host: str = "127.0.0.1"
    """Address to listen on; only loopback is accepted."""
    port: int = 8000
    """0 takes a free one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the weights."""


class LiberoPolicy:
    """A published policy with LIBERO's state and action columns."""

    def __init__(self, arguments: Arguments, **sizes: Any) -> None:
        oft = arguments.kind == "openvla_oft"
        spread: Spread = "deviation" if arguments.kind == "pi0" else "quantiles"
        self._statistics: Normalisation = read_statistics(
            arguments.statistics or arguments.weights, spread, STATE, ACTION, arguments.dataset
        )[0]
        horizon = arguments.horizon or (8 if oft else _horizon(arguments.weights))
        sizes = {
            "cameras": 2,
            "state_size": STATE,
            "action_size": ACTION,
            "horizon": horizon,
            "dtype": arguments.dtype,
            "fit": "stretch" if oft else "letterbox",
            **sizes,
        }
        self._model = _model_class(arguments.kind).from_pretrained(arguments.weights, **sizes)
        self._device = torch.device(_device(arguments.device))
        self._model = self._model.to(self._device).eval()
        self._oft, self._add_state = oft, arguments.add_state
        self._noise = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def actions(self, images: dict[str, np.ndarray], state: np.ndarray, prompt: str) -> np.ndarray:
        """Return commands (H, 7) as LIBERO's environment takes them; gripper -1 open, 1 closed."""
        model, config = self._model, self._model.config
        pixels = prepare(images, list(_CAMERAS), config.image_size, config.fit)
        context = model.context(
            torch.from_numpy(pixels[None]).to(self._device),
            torch.from_numpy(self._statistics.state.normalise(state[None])).to(self._device),
            model.words.encode([prompt]).to(self._device),
        )
        if config.head == "flow":
            shape = (1, config.horizon, model.columns)
            noise = torch.randn(shape, generator=self._noise).to(self._device)
            chunk = sample(partial(model.velocity, context), noise, model.steps)[..., :ACTION]
        else:
            chunk = model.head(context)
        found = self._statistics.action.restore(chunk.float().cpu().numpy())[0]
        if self._add_state:
            found[:, :6] += state[:6]
        if self._oft:  # trained with 0 closed, 1 open
            found[:, 6] = -np.sign(2.0 * found[:, 6] - 1.0)
        return found


class LiberoServer(OpenpiServer):
    """Answer openpi's LIBERO observations with chunks of a policy.

    Raises:
        ServeError: other machines can reach the address, or it is in use.
    """

    def __init__(self, policy: LiberoPolicy, name: str, host: str, port: int) -> None:
        if not is_loopback(host):
            raise ServeError(
                f"--host {host}: others can reach it, and libero-serve checks no token; serve on"
                " 127.0.0.1"
            )
        self._policy, self._lock = policy, threading.Lock()
        super().__init__({"policy_id": name, "environment": "libero"}, host, port)

    def reply(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return ``actions`` (H, 7); see :class:`OpenpiServer`."""
        images: dict[str, np.ndarray] = {}
        for name, key in _CAMERAS.items():
            image = observation.get(key)
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
                raise ValueError(f"{key}: needs an array (H, W, 3) uint8 RGB")
            images[name] = image
        state, prompt = observation.get("observation/state"), observation.get("prompt")
        state = state if isinstance(state, np.ndarray) else np.zeros(0)
        if state.shape != (STATE,) or not np.isfinite(state).all():
            raise ValueError(
                "observation/state: needs 8 finite values: tool position, rotation vector, fingers"
            )
        if not isinstance(prompt, str):
            raise ValueError("prompt: needs the instruction as text")
        with self._lock:
            begin = time.perf_counter()
            actions = self._policy.actions(images, state.astype(float), prompt)
            took = time.perf_counter() - begin
        return {"actions": actions, "policy_timing": {"infer_ms": 1e3 * took}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "libero-serve")
    console = Console()
    print_settings(arguments, console)
    try:
        policy = LiberoPolicy(arguments)
        server = LiberoServer(policy, arguments.weights.name, arguments.host, arguments.port)
    except (BackboneError, WordsError, StatisticsError, ServeError, OSError) as error:
        sys.exit(f"libero-serve: {error}")
    print(f"{arguments.weights.name}: ws://{arguments.host}:{server.port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0


def _model_class(kind: str) -> Any:
    if kind == "openvla_oft":
        from sf_policy_node.vla.backbones.openvla_oft.model import OpenVlaOft

        return OpenVlaOft
    from sf_policy_node.vla.backbones.pi0 import Pi0, Pi05

    return Pi05 if kind == "pi05" else Pi0


def _horizon(weights: Path) -> int:
    path = weights / "config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    for name in ("action_horizon", "chunk_size"):
        if name in values:
            return int(values[name])
    raise BackboneError(f"{path}: gives no action_horizon; give --horizon")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


if __name__ == "__main__":
    sys.exit(main())
