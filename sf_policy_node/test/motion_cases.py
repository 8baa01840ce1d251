"""What the motion tests share: the simulated arm's contract, chunks for it, and an observer that trusts only what was sent."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from sf_policy_node.contract import ActionSpace, Contract, load_contract, parse_contract
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.kinematics import Kinematics
from sf_policy_node.motion.limits import JointLimits
from sf_policy_node.motion.types import Chunk, Trajectory

CONTRACT_PATH = Path(__file__).resolve().parents[2] / "sf_bringup" / "config" / "robots" / "sim_arm.yaml"
HOME = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])  # tool points down, in the middle of the workspace


@cache
def sim_arm() -> Contract:
    return load_contract(CONTRACT_PATH)


@cache
def contract_for(space: ActionSpace, *, rate_hz: float = 50.0, rotation: bool = False) -> Contract:
    """The simulated arm's contract with another action space or rate."""
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["action"]["space"] = str(space)
    data["command"]["rate_hz"] = rate_hz
    if not space.is_tool:
        data["action"]["names"] = [joint["name"] for joint in data["joints"]] + ["gripper"]
    elif rotation:
        data["action"]["names"] = ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    return parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml)


@cache
def kinematics() -> Kinematics:
    return Kinematics(sim_arm())


def make_chunk(contract: Contract, data: np.ndarray, **changes) -> Chunk:
    """A chunk that is right in all but ``changes``; observed at 0 s at :data:`HOME`."""
    chunk = Chunk(
        stamp=0.0,
        frame=contract.base_frame,
        policy_id="test",
        contract_hash=contract.hash,
        instruction="pick the red cube",
        epoch=1,
        sequence=1,
        space=contract.action.space,
        names=tuple(contract.action.names),
        step_s=contract.action.step_s,
        data=np.asarray(data, dtype=float),
        reference_names=tuple(contract.command_joints),
        reference=HOME.copy(),
    )
    return dataclasses.replace(chunk, **changes)


def straight(contract: Contract, per_step=(0.01, 0.0, 0.0), opening: float = 1.0) -> np.ndarray:
    """Rows (horizon, 4) of ee_delta with a steady tool velocity."""
    steps = np.arange(1, contract.action.horizon + 1)[:, None]
    return np.hstack([steps * np.array(per_step), np.full((len(steps), 1), opening)])


class Observer:
    """A trajectory controller that moves perfectly, and the limits it saw broken.

    It joins a new trajectory as ros2_controllers do: points in the past are dropped, and a cubic leads from
    where it is to the first one left.
    """

    def __init__(self, contract: Contract, position: np.ndarray) -> None:
        self.limits = JointLimits.of(contract)
        self._times = np.array([-1.0])
        self._positions, self._velocities = position[None].copy(), np.zeros((1, len(position)))
        self.violations: list[str] = []
        self.sent: list[Trajectory] = []

    def receive(self, trajectory: Trajectory | None, now: float) -> None:
        if trajectory is None:
            return
        self.sent.append(trajectory)
        times = trajectory.stamp + trajectory.times
        ahead = times > now + 1e-9
        assert ahead.any(), "a trajectory arrived that had passed as a whole"
        position, velocity, _ = self.state(now)
        self._times = np.append(now, times[ahead])
        self._positions = np.vstack([position, trajectory.positions[ahead]])
        self._velocities = np.vstack([velocity, trajectory.velocities[ahead]])

    def state(self, now: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position, velocity and acceleration at a time, on cubics between the points."""
        if now >= self._times[-1]:
            still = np.zeros_like(self._positions[-1])
            return self._positions[-1], still, still
        k = int(np.searchsorted(self._times, now, side="right")) - 1
        h = self._times[k + 1] - self._times[k]
        s = (now - self._times[k]) / h
        p0, p1 = self._positions[k], self._positions[k + 1]
        m0, m1 = self._velocities[k] * h, self._velocities[k + 1] * h
        c2, c3 = 3 * (p1 - p0) - 2 * m0 - m1, m0 + m1 - 2 * (p1 - p0)
        return p0 + s * (m0 + s * (c2 + s * c3)), (m0 + s * (2 * c2 + 3 * s * c3)) / h, (2 * c2 + 6 * s * c3) / h**2

    def watch(self, now: float) -> None:
        """Look at one moment."""
        position, velocity, acceleration = self.state(now)
        limits = self.limits
        for what, broken in (
            ("position", (position < limits.lower - 1e-9) | (position > limits.upper + 1e-9)),
            ("velocity", np.abs(velocity) > limits.velocity * (1 + 1e-6)),
            ("acceleration", np.abs(acceleration) > limits.acceleration),
        ):
            if broken.any():
                names = [limits.names[n] for n in np.flatnonzero(broken)]
                self.violations.append(f"{now:.4f}: {what} of {', '.join(names)}: {position} {velocity} {acceleration}")

    @property
    def at_rest_after(self) -> float:
        return float(self._times[-1])


class Bench:
    """An executor, a perfect arm and a clock, in steps of 5 ms."""

    STEP = 0.005

    def __init__(self, contract: Contract, position: np.ndarray = HOME, *, shadow: bool = False, start: float = 0.0) -> None:
        self.contract, self.now = contract, start
        self.executor = ChunkExecutor(contract, shadow=shadow)
        self.observer = Observer(contract, position)
        self.observer._times[0] = start - 1.0
        self.joint_states, self.sequence = True, 0
        self.offset = np.zeros(len(position))  # measured minus commanded
        self.measured: list[tuple[float, np.ndarray]] = []
        self.measure()
        self.executor.activate(self.now)

    def measure(self) -> None:
        position, velocity, _ = self.observer.state(self.now)
        self.measured.append((self.now, position + self.offset))
        if self.joint_states:
            self.executor.on_joint_state(self.now, position + self.offset, velocity)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.STEP)):
            self.now += self.STEP
            self.measure()
            self.observer.watch(self.now - self.STEP / 2)
            self.observer.watch(self.now)
            self.observer.receive(self.executor.tick(self.now), self.now)

    def chunk(self, data: np.ndarray, age: float = 0.0, **changes) -> Chunk:
        """The next chunk, right in all but ``changes``, observed ``age`` seconds ago where the arm was then."""
        self.sequence += 1
        stamp, reference = self.measured[max(0, len(self.measured) - 1 - round(age / self.STEP))]
        return make_chunk(self.contract, data, **{"stamp": stamp, "reference": reference, "sequence": self.sequence, **changes})

    def send(self, chunk: Chunk, transit: float = 0.0) -> Trajectory:
        trajectory = self.executor.on_chunk(chunk, self.now)
        self.observer.receive(trajectory, self.now + transit)
        return trajectory

    def tool(self) -> np.ndarray:
        return kinematics().forward(self.observer.state(self.now)[0][:6]).position
