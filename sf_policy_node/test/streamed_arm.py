"""An arm that follows streamed commands, with servos that lag and droop."""

import numpy as np
import yaml
from motion_cases import CONTRACT_PATH, HOME, make_chunk, sim_arm, straight

from sf_policy_node.contract import parse_contract
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.types import Trajectory

_LAG_S = 0.03
_STEP_S = 0.005  # at most, between two joint states
DROOP = np.array([0.0, 0.03, 0.015, 0.0, 0.0, 0.0, 0.0])
FAST = straight(sim_arm(), (0.02, 0.0, 0.0))


class StreamedArm:
    """An executor of ``rate`` [Hz] and an arm that holds each streamed command until the next."""

    def __init__(self, rate: float) -> None:
        data = yaml.safe_load(CONTRACT_PATH.read_text())
        data["command"].update(output="forward_command", rate_hz=rate)
        self.contract = parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml)
        self.period, self.now, self.sequence, self.active = 1.0 / rate, 0.0, 0, True
        self.executor = ChunkExecutor(self.contract, stopwatch=lambda: self.now)
        self.commands, self.times = [HOME.copy()], [0.0]
        self.measured: list[tuple[float, np.ndarray]] = []
        self._position = HOME.copy()
        self.wait(0.5)
        self.executor.activate(self.now)
        self.run(0.1)

    def wait(self, seconds: float) -> None:
        """Let the arm move while the process of the executor only receives joint states."""
        count = max(1, round(seconds / _STEP_S))
        for _ in range(count):
            self.now += seconds / count
            share = 1.0 - np.exp(-seconds / count / _LAG_S)
            self._position = self._position + share * (self.commands[-1] - self._position)
            self.measured.append((self.now, self._position + DROOP))
            self.executor.on_joint_state(*self.measured[-1], np.zeros(7))

    def run(self, seconds: float) -> None:
        """Run the cycles of the executor."""
        for _ in range(round(seconds / self.period)):
            self.wait(self.period)
            self.executor.tick(self.now)
            setpoint = self.executor.setpoint(self.now) if self.active else None
            if setpoint is not None:
                self._command(setpoint.positions)

    def follow(self, data: np.ndarray = FAST, epoch: int = 1) -> None:
        """Send a chunk to the executor."""
        self.sequence += 1
        stamp, reference = self.measured[-5]
        valid = {"stamp": stamp, "reference": reference, "sequence": self.sequence}
        self.executor.on_chunk(make_chunk(self.contract, data, epoch=epoch, **valid), self.now)

    def deactivate(self) -> None:
        """Deactivate the executor and stream its stop, as the node does."""
        self.play(self.executor.deactivate(self.now))
        self.active = False

    def activate(self) -> None:
        """Activate the executor again."""
        self.executor.activate(self.now)
        self.active = True

    def play(self, stop: Trajectory | None) -> None:
        """Follow the points of a stop that are due."""
        if stop is None:
            return
        due = stop.stamp + stop.times
        for index in np.flatnonzero(due > self.now + 1e-9):
            self.wait(max(1e-6, due[index] - self.now))
            self._command(stop.positions[index])

    def _command(self, positions: np.ndarray) -> None:
        self.commands.append(positions)
        self.times.append(self.now)
