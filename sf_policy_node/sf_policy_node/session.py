"""Follows instructions with a policy: when to predict, for which instruction, and when to give up. No ROS here.

Callers deliver messages and instructions from one thread; one worker thread predicts. All public methods
may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.latency import Latencies
from sf_policy_node.motion.types import Chunk
from sf_policy_node.observation import NoObservation, Observation, ObservationBuffer, validate_instruction

_LOOK_S = 0.1  # the worker looks again this often when nothing arrives
_STAMP_JITTER = 0.5  # of a camera period: an image this much early still counts for the next prediction
_CLOCK_BACK_S = 1.0


class ActionPolicy(Protocol):
    """What a session needs of a policy; ``vla.policy.Policy`` is one."""

    policy_id: str
    device: str

    def warm_up(self) -> None:
        """Run once, so that the first real prediction is not slow."""

    def predict(self, images: dict[str, np.ndarray], joint_positions: np.ndarray, instruction: str) -> np.ndarray:
        """A chunk (horizon, columns) for images (H, W, 3) uint8 RGB by camera and joints (J,)."""


class PolicyState(IntEnum):
    """Same numbers as the constants of ``sf_msgs/PolicyStatus``."""

    UNCONFIGURED = 0
    LOADING = 1
    IDLE = 2
    RUNNING = 3
    WAITING = 4
    ERROR = 5


class Termination(IntEnum):
    """Why an instruction ended; same numbers as the constants of ``sf_msgs/RunInstruction``."""

    TIMEOUT = 0
    CANCELLED = 1
    REPLACED = 2
    STOPPED = 3
    NO_OBSERVATION = 4
    REFUSED = 5
    ERROR = 6


@dataclass
class InstructionRun:
    """One instruction from its start to its end; times on the node's clock [s]."""

    instruction: str
    epoch: int
    started: float
    timeout_s: float | None = None
    chunks: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    last_observation: float | None = None  # stamp
    waiting_since: float | None = None
    duration_s: float = 0.0
    termination: Termination | None = None
    message: str = ""


@dataclass(frozen=True)
class SessionStatus:
    """A snapshot; latencies are (p50, p95, p99) [s]."""

    state: PolicyState
    reason: str
    instruction: str
    epoch: int
    chunks: int
    observations_refused: int
    camera_ages: list[float]
    skew: float
    joint_state_age: float
    inference: tuple[float, float, float]
    chunk_latency: tuple[float, float, float]


class PolicySession:
    """One policy on one robot.

    Args:
        decode: (camera name, stored message) -> (H, W, 3) uint8 RGB; ValueError with one sentence when it cannot be read.
        publish: called with each chunk, from the worker.
        notify: called when an instruction ended or the state changed, from any thread.
        clock: the node's time [s].
        replan_s: time between the observations of two chunks; a slower model runs as often as it can [s].
        observation_timeout_s: an instruction is dropped after this long without a usable observation [s].
    """

    def __init__(
        self,
        contract: Contract,
        policy: ActionPolicy,
        *,
        decode: Callable[[str, object], np.ndarray],
        publish: Callable[[Chunk], None],
        notify: Callable[[], None],
        clock: Callable[[], float],
        replan_s: float,
        observation_timeout_s: float,
    ) -> None:
        self._contract, self._policy = contract, policy
        self._decode, self._publish, self._notify, self._clock = decode, publish, notify, clock
        self._replan_s, self._observation_timeout_s = replan_s, observation_timeout_s
        self._early_s = _STAMP_JITTER / max(camera.rate_hz for camera in contract.cameras)
        self._buffer = ObservationBuffer(contract)
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closing = False
        self._run: InstructionRun | None = None
        self._ended: list[InstructionRun] = []
        self._epoch = 0
        self._chunks = self._observations_refused = 0
        self._inference, self._chunk_latency = Latencies(), Latencies()
        self._state, self._reason = PolicyState.IDLE, ""
        self._worker = threading.Thread(target=self._work, name="inference", daemon=True)
        self._worker.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the instruction in force and the worker; waits for a prediction under way."""
        self.end(Termination.STOPPED, "the policy node was shut down")
        self._closing = True
        self._wake.set()
        self._worker.join(timeout_s)

    # ---- what arrives ----

    def add_image(self, camera: str, stamp: float, image: object) -> None:
        """The newest image of a camera, not decoded."""
        with self._lock:
            self._buffer.add_image(camera, stamp, image)
        self._wake.set()

    def add_joints(self, stamp: float, positions: np.ndarray) -> None:
        """Measured joints (J,)."""
        with self._lock:
            self._buffer.add_joints(stamp, positions)

    # ---- instructions ----

    def begin(self, text: str, timeout_s: float | None = None) -> InstructionRun:
        """Follow an instruction from now on; one in force is replaced.

        Raises:
            ValueError: it is empty or too long; the one in force goes on.
        """
        text = validate_instruction(text)
        with self._lock:
            self.end(Termination.REPLACED, "another instruction arrived")
            # The wall clock, so that epochs also rise from one start of this node to the next.
            self._epoch = max(self._epoch + 1, int(1e3 * time.time()))
            now = self._clock()
            self._run = InstructionRun(text, self._epoch, now, timeout_s, waiting_since=now)
            self._set_state(PolicyState.RUNNING, "")
            self._wake.set()
            return self._run

    def end(self, termination: Termination, message: str, run: InstructionRun | None = None) -> None:
        """End the instruction in force, or only ``run`` if that is it."""
        with self._lock:
            if self._run is None or (run is not None and run is not self._run):
                return
            ended, self._run = self._run, None
            ended.termination, ended.message = termination, message
            ended.duration_s = self._clock() - ended.started
            self._ended.append(ended)
            failed = termination is Termination.ERROR
            self._set_state(PolicyState.ERROR if failed else PolicyState.IDLE, "" if termination is Termination.CANCELLED else message)
            self._notify()

    def refuse(self, message: str) -> None:
        """Tell in the status why an instruction was not taken."""
        with self._lock:
            self._set_state(self._state, message)

    def take_ended(self) -> list[InstructionRun]:
        """Instructions that ended since the last call."""
        with self._lock:
            ended, self._ended = self._ended, []
            return ended

    @property
    def run(self) -> InstructionRun | None:
        """The instruction in force."""
        return self._run

    def check_time(self) -> None:
        """End an instruction whose time is over, or that has seen nothing for too long; to be called regularly."""
        with self._lock:
            if (run := self._run) is None:
                return
            now = self._clock()
            if now < max(run.started, run.last_observation or 0.0) - _CLOCK_BACK_S:
                self.end(Termination.STOPPED, "the clock went back")
            elif run.timeout_s is not None and now - run.started > run.timeout_s:
                self.end(Termination.TIMEOUT, f"ran for {run.timeout_s:g} s")
            elif run.waiting_since is not None and now - run.waiting_since > self._observation_timeout_s:
                what = self._reason or "no observation"
                self.end(Termination.NO_OBSERVATION, f"nothing usable for {self._observation_timeout_s:g} s: {what}")

    def status(self) -> SessionStatus:
        """A snapshot of now."""
        with self._lock:
            now = self._clock()
            return SessionStatus(
                state=self._state,
                reason=self._reason,
                instruction=self._run.instruction if self._run else "",
                epoch=self._epoch,
                chunks=self._chunks,
                observations_refused=self._observations_refused,
                camera_ages=self._buffer.camera_ages(now),
                skew=self._buffer.skew,
                joint_state_age=self._buffer.joint_state_age(now),
                inference=self._inference.percentiles(),
                chunk_latency=self._chunk_latency.percentiles(),
            )

    # ---- the worker ----

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            run = self._run
            if run is None:
                continue
            try:
                self._predict_once(run)
            except Exception as error:  # a worker that dies in silence would leave the arm without a word
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                self.end(Termination.ERROR, f"the policy failed: {kind}{' '.join(str(error).split())}", run)

    def _predict_once(self, run: InstructionRun) -> None:
        observation = self._observe(run)
        if observation is None:
            return
        try:
            images = {name: self._decode(name, image) for name, image in observation.images.items()}
        except ValueError as error:
            self._wait(run, str(error))
            return
        begin = time.perf_counter()
        data = np.asarray(self._policy.predict(images, observation.joints, run.instruction), dtype=float)
        inference_s = time.perf_counter() - begin
        self._check_prediction(data)
        with self._lock:
            if run is not self._run:
                return  # the instruction has changed meanwhile: this chunk must not leak into the next one
            run.last_observation = observation.stamp
            run.chunks += 1
            self._publish(self._chunk(run, observation, data, inference_s))
            latency = self._clock() - observation.stamp
            self._chunks += 1
            self._inference.add(inference_s)
            self._chunk_latency.add(latency)
            run.latencies.add(latency)
            self._set_state(PolicyState.RUNNING, "")

    def _observe(self, run: InstructionRun) -> Observation | None:
        """The next observation to predict from; None when it is too early or there is none."""
        with self._lock:
            if run is not self._run:
                return None
            try:
                observation = self._buffer.pick(self._clock())
            except NoObservation as problem:
                self._observations_refused += 1
                self._wait(run, str(problem))
                return None
            run.waiting_since = None
            last = run.last_observation
            # Not before the instruction either: the scene may have been another one.
            early = observation.stamp < run.started if last is None else observation.stamp < last + self._replan_s - self._early_s
            return None if early else observation

    def _wait(self, run: InstructionRun, reason: str) -> None:
        with self._lock:
            if run is self._run:
                if run.waiting_since is None:
                    run.waiting_since = self._clock()
                self._set_state(PolicyState.WAITING, reason)

    def _check_prediction(self, data: np.ndarray) -> None:
        action = self._contract.action
        expected = (action.horizon, len(action.names))
        if data.shape != expected:
            raise ValueError(f"it returned a chunk of shape {data.shape}, the contract says {expected}")
        if not np.isfinite(data).all():
            raise ValueError(f"it returned {data[~np.isfinite(data)][0]} in column {action.names[np.argwhere(~np.isfinite(data))[0][1]]}")

    def _chunk(self, run: InstructionRun, observation: Observation, data: np.ndarray, inference_s: float) -> Chunk:
        return Chunk.of(
            self._contract,
            data,
            stamp=observation.stamp,
            reference=observation.joints,
            policy_id=self._policy.policy_id,
            instruction=run.instruction,
            epoch=run.epoch,
            sequence=run.chunks,
            inference_latency_s=inference_s,
        )

    def _set_state(self, state: PolicyState, reason: str) -> None:
        changed = state is not self._state
        self._state, self._reason = state, reason
        if changed:
            self._notify()
