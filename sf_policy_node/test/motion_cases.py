"""Helpers of the motion tests: contracts of ``sim_arm``, chunks, an observer that checks all sent
trajectories, and a bench of executor, perfect arm and clock.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from sf_policy_node.contract import ActionSpace, Contract, load_contract, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.types import Chunk, Trajectory

CONTRACT_PATH = (
    Path(__file__).resolve().parents[2] / "sf_bringup" / "config" / "robots" / "sim_arm.yaml"
)
# The tool points down, in the middle of the workspace.
HOME = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])


@cache
def sim_arm() -> Contract:
    return load_contract(CONTRACT_PATH)


@cache
def contract_for(space: ActionSpace, *, rate_hz: float = 50.0, rotation: bool = False) -> Contract:
    """Return the simulated arm's contract with another action space or rate."""
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
    """Create a chunk that is valid except for ``changes``; observed at 0 s at :data:`HOME`."""
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
    """Return ee_delta data (horizon, 4) with a constant tool velocity."""
    steps = np.arange(1, contract.action.horizon + 1)[:, None]
    return np.hstack([steps * np.array(per_step), np.full((len(steps), 1), opening)])


FORWARD = straight(sim_arm())
STAY = straight(sim_arm(), (0.0, 0.0, 0.0))


JUMP = 1e-4  # rad or m: a command that starts further from the controller's state is a jump


def rest_time(times: np.ndarray, velocities: np.ndarray) -> float:
    """Return when a motion with times (N,) and velocities (N, J) ends [s]."""
    moving = np.flatnonzero(np.abs(velocities).max(axis=1) > 0.0)
    return float(times[moving[-1] + 1] if len(moving) else times[0])


def stop_time(trajectory: Trajectory, now: float) -> float:
    """Return how long after ``now`` a trajectory ends [s]."""
    return trajectory.stamp + rest_time(trajectory.times, trajectory.velocities) - now


class Observer:
    """A trajectory controller with a perfect arm, which records violations of the limits.

    It replaces its trajectory as joint_trajectory_controller does. If the first point is in the
    future, it moves there on a cubic from its own state. Otherwise it is on the cubics between the
    points at once; if they start away from its state, that is a jump. A trajectory that has ended
    is an error of the test.
    """

    def __init__(self, contract: Contract, position: np.ndarray, start: float = 0.0) -> None:
        self.limits = JointLimits.of(contract)
        self._times = np.array([start - 1.0])
        self._positions, self._velocities = position[None].copy(), np.zeros((1, len(position)))
        self._seen = start
        # A gripper that still moves when it gets a new trajectory may overshoot a little.
        self.slack = np.where(np.isfinite(self.limits.tracking_error), 1e-4, 1e-3)
        self._violations: list[str] = []
        self.acceleration_allowed = 1.0  # as a share of the limit
        self._workspace = Workspace(contract, kinematics())
        self.top_tool_speed = self.outside_box = 0.0
        self.sent: list[Trajectory] = []

    def receive(self, trajectory: Trajectory | None, now: float) -> None:
        if trajectory is None:
            return
        self.watch(now)
        self.sent.append(trajectory)
        held = trajectory.held()
        times, points, speeds = held.stamp + held.times, held.positions, held.velocities
        assert times[-1] > now, "the trajectory ended before it arrived"
        position, velocity = self.state(now)
        if times[0] > now + 1e-9:  # in a shorter segment rounding looks like an acceleration
            times = np.append(now, times)
            points, speeds = np.vstack([position, points]), np.vstack([velocity, speeds])
        self._times, self._positions, self._velocities = times, points, speeds
        jump = np.abs(self.state(now)[0] - position)
        if jump.max() > JUMP:
            name = self.limits.names[int(jump.argmax())]
            self._violations.append(f"{now:.4f}: {name} is commanded to jump by {jump.max():.4f}")

    def state(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity (J,) at a time [s]."""
        if now >= self._times[-1]:
            return self._positions[-1].copy(), np.zeros(self._positions.shape[1])
        if len(self._times) == 1:
            return self._positions[0].copy(), np.zeros(self._positions.shape[1])
        # As _evaluate does for many times, in a third of its time for one.
        k = max(0, int(np.searchsorted(self._times, now, side="right")) - 1)
        h = self._times[k + 1] - self._times[k]
        s = (now - self._times[k]) / h
        m0, m1 = self._velocities[k] * h, self._velocities[k + 1] * h
        p0, way = self._positions[k], self._positions[k + 1] - self._positions[k]
        c2, c3 = 3 * way - 2 * m0 - m1, m0 + m1 - 2 * way
        return p0 + s * (m0 + s * (c2 + s * c3)), (m0 + s * (2 * c2 + 3 * s * c3)) / h

    def watch(self, until: float) -> None:
        """Check all commands up to a time [s], every 2 ms."""
        times = np.arange(self._seen, until, 0.002)
        self._seen = max(self._seen, until)
        if not len(times):
            return
        position, velocity, acceleration = self._evaluate(times)
        limits = self.limits
        self.top_tool_speed = max(
            self.top_tool_speed,
            self._workspace.survey(
                np.vstack([position[:1], position]), np.vstack([velocity[:1], velocity])
            ).top_speed,
        )
        self.outside_box = max(
            self.outside_box, max(self._workspace.outside(joints) for joints in position[::5])
        )
        # Seconds since 1970 are rounded to 2.4e-7 s in a float. In a short first segment this
        # rounding alone looks like an acceleration.
        k = np.clip(
            np.searchsorted(self._times, times, side="right") - 1, 0, max(0, len(self._times) - 2)
        )
        piece = np.diff(self._times)[k][:, None] if len(self._times) > 1 else np.inf
        blur = 12.0 * np.abs(velocity) * np.spacing(until) / piece**2
        for what, broken in (
            (
                "position",
                (position < limits.lower - self.slack) | (position > limits.upper + self.slack),
            ),
            ("velocity", np.abs(velocity) > limits.velocity),
            (
                "acceleration",
                np.abs(acceleration) > self.acceleration_allowed * limits.acceleration + blur,
            ),
        ):
            for row, joint in np.argwhere(broken)[:3]:
                value = {"position": position, "velocity": velocity, "acceleration": acceleration}[
                    what
                ][row, joint]
                self._violations.append(
                    f"{times[row]:.4f}: {what} of {limits.names[joint]} is {value}"
                )

    def violations(self, until: float) -> list[str]:
        self.watch(until)
        found = list(self._violations)
        if self.outside_box > 5e-3:
            found.append(f"the tool was {self.outside_box:.4f} m outside its box")
        if self.top_tool_speed > 1.06 * self._workspace.tool_speed:
            found.append(f"the tool moved at {self.top_tool_speed:.3f} m/s")
        return found

    @property
    def at_rest_after(self) -> float:
        """Return when the last commanded motion ends [s]."""
        return rest_time(self._times, self._velocities)

    def _evaluate(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions, velocities and accelerations (N, J) on the cubics between points."""
        if len(self._times) == 1:
            still = np.zeros((len(times), self._positions.shape[1]))
            return np.tile(self._positions[-1], (len(times), 1)), still, still
        k = np.clip(np.searchsorted(self._times, times, side="right") - 1, 0, len(self._times) - 2)
        h = (self._times[k + 1] - self._times[k])[:, None]
        s = np.minimum((times - self._times[k])[:, None] / h, 1.0)
        p0, p1 = self._positions[k], self._positions[k + 1]
        m0, m1 = self._velocities[k] * h, self._velocities[k + 1] * h
        c2, c3 = 3 * (p1 - p0) - 2 * m0 - m1, m0 + m1 - 2 * (p1 - p0)
        moving = (times < self._times[-1])[:, None]
        velocity, acceleration = (m0 + s * (2 * c2 + 3 * s * c3)) / h, (2 * c2 + 6 * s * c3) / h**2
        return p0 + s * (m0 + s * (c2 + s * c3)), velocity * moving, acceleration * moving


class Bench:
    """An executor, a perfect arm and a clock, in steps of ``step`` [s]."""

    def __init__(
        self,
        contract: Contract,
        position: np.ndarray = HOME,
        *,
        start: float = 0.0,
        step: float = 0.005,
        **options,
    ) -> None:
        self.contract, self.now, self._step = contract, start, step
        # Only the executor's clock jumps, by set_by; stopwatch and controller do not.
        self.stopwatch = self.set_by = 0.0
        self.executor = ChunkExecutor(contract, stopwatch=lambda: self.stopwatch, **options)
        self.observer = Observer(contract, position, start)
        self.joint_states, self.sequence = True, 0
        self.offset = np.zeros(len(position))  # measured minus commanded
        # Converts the true state to the joint states that the driver publishes.
        self.driver = lambda stamp, position, velocity: [(stamp, position, velocity)]
        self._mail: list[tuple[float, Trajectory | None]] = []
        self.received: list[float] = []  # when each trajectory of ``observer.sent`` was sent
        self.measured: list[tuple[float, np.ndarray]] = []
        for before in np.arange(0.3, 0.0, -0.01):  # the arm has been stationary for a while
            self.executor.on_joint_state(
                start - before, np.array(position), np.zeros(len(position))
            )
        self.measure()
        self.executor.on_controller_reference(start, np.array(position), np.zeros(len(position)))
        self.executor.activate(self.now)

    @property
    def clock(self) -> float:
        return self.now + self.set_by

    def measure(self) -> None:
        position, velocity = self.observer.state(self.now)
        self.measured.append((self.now, position + self.offset))
        if self.joint_states:
            for reading in self.driver(self.clock, position + self.offset, velocity):
                self.executor.on_joint_state(*reading)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self._step)):
            self.now += self._step
            self.stopwatch += self._step
            while self._mail and self._mail[0][0] <= self.now:
                arrival, trajectory = self._mail.pop(0)
                self.observer.receive(trajectory, arrival)
            self.measure()
            self.post(self.executor.tick(self.clock))

    def post(self, trajectory: Trajectory | None, transit: float = 0.0) -> None:
        """Deliver a trajectory ``transit`` seconds from now, but not before an earlier one."""
        if trajectory is not None:
            trajectory = dataclasses.replace(trajectory, stamp=trajectory.stamp - self.set_by)
            self.received.append(self.now)
        arrival = max([self.now + transit, *(time for time, _ in self._mail)])
        if arrival <= self.now:
            self.observer.receive(trajectory, arrival)
        else:
            self._mail.append((arrival, trajectory))

    def chunk(self, data: np.ndarray, age: float = 0.0, **changes) -> Chunk:
        """Create the next chunk, observed ``age`` seconds ago where the arm was then.

        It is valid except for ``changes``.
        """
        self.sequence += 1
        stamp, reference = self.measured[max(0, len(self.measured) - 1 - round(age / self._step))]
        valid = {"stamp": stamp + self.set_by, "reference": reference, "sequence": self.sequence}
        return make_chunk(self.contract, data, **{**valid, **changes})

    def send(self, chunk: Chunk, transit: float = 0.0) -> Trajectory:
        trajectory = self.executor.on_chunk(chunk, self.clock)
        self.post(trajectory, transit)
        return trajectory

    def violations(self) -> list[str]:
        return self.observer.violations(self.now)

    def tool(self) -> np.ndarray:
        return kinematics().forward(self.observer.state(self.now)[0][:6]).position


def keep_moving(
    bench: Bench, seconds: float, data: np.ndarray = FORWARD, every: float = 0.3, age: float = 0.1
) -> None:
    """Send a chunk every ``every`` seconds."""
    for _ in range(round(seconds / every)):
        bench.send(bench.chunk(data, age=age))
        bench.run(every)


def teleoperate(
    bench: Bench, targets: Iterable[np.ndarray], before: Callable[[], object] = lambda: None
) -> list[str]:
    """Send one target (J,) of a leader every 0.02 s; return the refusals.

    Args:
        before: is called before each target.
    """
    sentences = []
    for target in targets:
        before()
        try:
            bench.post(
                bench.executor.on_teleoperation(bench.now, target, np.zeros(len(target)), bench.now)
            )
        except MotionRefused as refusal:
            sentences.append(str(refusal))
        bench.run(0.02)
    return sentences
