"""Compare the borders between chunks with and without real-time chunking.

Both runs give the flow policy the same observations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from bench.figures import Figures

from sf_bringup.graph import find_policy, find_robot
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.types import Chunk
from sf_policy_node.session.continuation import ChunkHistory
from sf_policy_node.vla.policy import Policy
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.rollout import run_episode

FLOW_POLICY = "nano_flow"
FIRST_SEED = 985_000
RECORDED_DELAY_S = 0.05
DELAYS_S = (0.05, 0.2)


@dataclass(frozen=True)
class _Seen:
    stamp: float
    images: dict[str, np.ndarray]
    joints: np.ndarray
    instruction: str


class _Watching:
    """Forward requests to a policy and record its observations."""

    def __init__(self, policy: Policy, sim: ArmSim) -> None:
        self.contract, self.policy_id, self.join = policy.contract, policy.policy_id, policy.join
        self.seen: list[_Seen] = []
        self._policy, self._sim = policy, sim

    def predict(
        self, images: dict[str, np.ndarray], joints: np.ndarray, instruction: str, **more
    ) -> np.ndarray:
        self.seen.append(_Seen(self._sim.time, dict(images), joints.copy(), instruction))
        return self._policy.predict(images, joints, instruction, **more)


def bench_continuation(figures: Figures, rollouts: int) -> None:
    """Replay the observations of ``rollouts`` episodes to the policy.

    With ``continued`` the policy continues from its own last chunk.
    """
    contract = load_contract(find_robot("sim_arm"))
    sim, episodes = ArmSim(contract), []
    for number in range(rollouts):
        watching = _Watching(_load(contract), sim)
        run_episode(
            sim, watching, FIRST_SEED + number, cubes=2 + number % 2, latency_s=RECORDED_DELAY_S
        )
        episodes.append(watching.seen)
    sim.close()
    how = (
        f"between the tool targets of two chunks for the first row that is new; {rollouts} rollouts"
    )
    for delay_s in DELAYS_S:
        for name, continued in (("alone", False), ("continued", True)):
            jumps, seconds = _borders(contract, episodes, delay_s, continued)
            figures.spread(
                f"flow_border_{name}_{1e3 * delay_s:g}ms", 1e3 * jumps, "mm", how, percents=(50, 95)
            )
            figures.add(
                f"flow_border_{name}_{1e3 * delay_s:g}ms_mean",
                1e3 * jumps.mean(),
                "mm",
                len(jumps),
                how,
            )
            figures.spread(
                f"flow_predict_{name}_{1e3 * delay_s:g}ms",
                1e3 * seconds,
                "CPU-ms",
                "no ROS",
                percents=(50, 95),
            )


def _borders(
    contract, episodes: list[list[_Seen]], delay_s: float, continued: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return jumps at the borders [m] and processor time of each prediction [s]."""
    policy = _load(contract)
    policy.warm_up()
    jumps, seconds = [], []
    for episode in episodes:
        history = ChunkHistory(contract)
        for number, seen in enumerate(episode):
            ahead = history.continuation(seen.stamp, seen.joints)
            started = time.process_time()
            data = policy.predict(
                seen.images,
                seen.joints,
                seen.instruction,
                continuation=ahead if continued else None,
            )
            seconds.append(time.process_time() - started)
            if ahead is not None and ahead.delay_rows < len(ahead.rows):
                row = ahead.delay_rows
                jumps.append(np.linalg.norm(data[row, :3] - ahead.rows[row, :3]))
            about = {
                "policy_id": policy.policy_id,
                "instruction": seen.instruction,
                "epoch": 1,
                "sequence": number,
            }
            history.note(
                Chunk.of(contract, data, stamp=seen.stamp, reference=seen.joints, **about), delay_s
            )
    return np.array(jumps), np.array(seconds)


def _load(contract) -> Policy:
    """Load the policy with a fresh noise generator, so that every run draws the same noise."""
    return Policy.load(find_policy(FLOW_POLICY), contract=contract, device="cpu")
