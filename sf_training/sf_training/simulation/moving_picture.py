"""``python3 -m sf_training.simulation.moving_picture``: film the simulated arm for the README.

A policy, or the scripted expert, follows one instruction per seed. A free camera records it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.vla.policy import Policy
from sf_training.config_file import parse
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.joint_operator import demonstrate_joints
from sf_training.simulation.operator import demonstrate
from sf_training.simulation.rollout import run_episode

_LOOK_AT, _ELEVATION = (0.20, 0.02, 0.16), -20.0  # [m], [degrees]


@dataclass(frozen=True)
class Arguments:
    """Film one episode per seed of the simulated arm as an animated WebP.

    $ python3 -m sf_training.simulation.moving_picture --contract sim_arm.yaml --checkpoint nano
    """

    contract: Path
    """Contract of the robot."""
    checkpoint: Path | None = None
    """Checkpoint directory of the policy; default the scripted expert."""
    out: Path = Path("out/sim_arm.webp")
    """File to write; the suffix chooses the format (.webp or .gif)."""
    seeds: tuple[int, ...] = (970_003, 970_006, 970_009)
    """One episode each, one after the other."""
    width: int = 480
    """Width of a frame [pixels]; the height is three quarters of it."""
    rate_hz: float = 15.0
    """Frames per second of simulated time."""
    distance: float = 1.1
    """From the camera to the middle of the scene [m]."""
    azimuth: float = 145.0
    """Direction in which the camera looks [degrees]."""
    quality: int = 70
    """WebP quality, 0 to 100."""


class FilmedArm(ArmSim):
    """A simulated arm that keeps a frame of a free camera every ``1 / rate_hz`` seconds."""

    def __init__(
        self,
        contract: Contract,
        *,
        width: int,
        rate_hz: float,
        distance: float = 1.1,
        azimuth: float = 145.0,
    ) -> None:
        self.frames: list[Image.Image] = []
        self._rate_hz, self._due = rate_hz, 0.0
        self._film: Any = None  # MuJoCo's renderer, after the first steps
        super().__init__(contract)
        self._camera = self._mujoco.MjvCamera()
        self._camera.lookat[:], self._camera.elevation = _LOOK_AT, _ELEVATION
        self._camera.distance, self._camera.azimuth = distance, azimuth
        height = width * 3 // 4
        buffer = self._model.vis.global_  # the largest image that MuJoCo can render off screen
        buffer.offwidth, buffer.offheight = (
            max(buffer.offwidth, width),
            max(buffer.offheight, height),
        )
        self._film = self._mujoco.Renderer(self._model, height, width)

    def step(self, steps: int = 1) -> None:
        """Advance the simulation and record a frame when one is due."""
        super().step(steps)
        if self._film is not None and self.time >= self._due:
            self._film.update_scene(self._data, self._camera)
            self.frames.append(Image.fromarray(np.ascontiguousarray(self._film.render())))
            self._due = self.time + 1.0 / self._rate_hz

    def close(self) -> None:
        """Free the GL contexts."""
        self._film.close()
        super().close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "moving_picture")
    contract = load_contract(arguments.contract)
    view = {name: getattr(arguments, name) for name in ("width", "rate_hz", "distance", "azimuth")}
    sim = FilmedArm(contract, **view)
    policy = Policy.load(arguments.checkpoint, contract=contract) if arguments.checkpoint else None
    for seed in arguments.seeds:
        if policy:
            success = run_episode(sim, policy, seed).success
        else:
            success = _demonstrate(sim, contract, seed)
        print(f"seed {seed}: success {success}")
        sim.frames.extend(sim.frames[-1:] * round(arguments.rate_hz))  # a second to look at it
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = sim.frames
    is_webp = arguments.out.suffix == ".webp"
    more: dict[str, Any] = {"quality": arguments.quality, "method": 6} if is_webp else {}
    first.save(
        arguments.out,
        save_all=True,
        append_images=rest,
        duration=round(1000 / arguments.rate_hz),
        loop=0,
        **more,
    )
    size = arguments.out.stat().st_size
    print(f"{arguments.out}: {len(sim.frames)} frames, {size / 1e6:.2f} MB")
    sim.close()
    return 0


def _demonstrate(sim: FilmedArm, contract: Contract, seed: int) -> bool:
    sim.reset(seed)
    rng = np.random.default_rng(seed)
    frames = (
        demonstrate(sim, contract, Kinematics(contract), rng)
        if contract.action.space.is_tool
        else demonstrate_joints(sim, contract, rng)
    )
    for _ in frames:
        pass
    return sim.task_state().picked()


if __name__ == "__main__":
    sys.exit(main())
