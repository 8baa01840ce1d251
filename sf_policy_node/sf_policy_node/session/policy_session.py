"""Follow instructions with a policy: decide when to predict, for which instruction, and when to end
it, without ROS.

Callers deliver messages and instructions from one thread; one worker thread predicts. All public
methods may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.types import Chunk
from sf_policy_node.perception.observation import (
    NoObservation,
    Observation,
    ObservationBuffer,
    validate_instruction,
)
from sf_policy_node.session.cadence import Cadence
from sf_policy_node.session.instruction_run import InstructionRun, Termination
from sf_policy_node.session.latency import Latencies
from sf_policy_node.session.predictor import ActionPolicy, PolicyUnavailable, Predictor
from sf_policy_node.session.status import PolicyState, SessionStatus

_LOOK_S = 0.1  # maximum time between two checks of the worker
# Share of a camera period by which an image may be early and still be used for the next prediction.
_STAMP_JITTER = 0.5
_CLOCK_BACK_S = 1.0  # by which the clock must go back to end the instruction


class PolicySession:
    """Follow instructions with one policy on one robot.

    Args:
        decode: (camera name, stored message) -> (H, W, 3) uint8 RGB; ValueError with one sentence
            when it cannot be read.
        publish: called with each chunk, from the worker.
        notify: called when an instruction ended or the state changed, from any thread.
        clock: the node's time [s].
        replan_s: time between the observations of two chunks; a slower model runs as often as it
            can [s].
        observation_timeout_s: an instruction is dropped after this long without a usable
            observation [s].
        future_s: how far stamps of observations may be ahead of ``clock`` [s].
        real_time_chunking: see :class:`Predictor`.
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
        future_s: float = FUTURE_S,
        real_time_chunking: bool = False,
    ) -> None:
        self._predictor = Predictor(contract, policy, decode, real_time_chunking=real_time_chunking)
        self._publish, self._notify, self._clock = publish, notify, clock
        self._replan_s, self._observation_timeout_s = replan_s, observation_timeout_s
        self._early_s = _STAMP_JITTER / max(camera.rate_hz for camera in contract.cameras)
        # Predictions wait for the next image: one image late is as regular as the cameras
        # allow.
        self._cadence_tolerance_s = 1.0 / min(camera.rate_hz for camera in contract.cameras)
        self._buffer = ObservationBuffer(contract, future_s)
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closing = False
        self._run: InstructionRun | None = None
        self._last_run: InstructionRun | None = None
        self._ended: list[InstructionRun] = []
        self._epoch = 0
        self._chunks = self._observations_refused = 0
        self._clips: int | None = None
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
        """Store the newest image of a camera, not decoded."""
        with self._lock:
            self._buffer.add_image(camera, stamp, image)
        self._wake.set()

    def add_joint_state(
        self, stamp: float, names: Sequence[str], positions: Sequence[float]
    ) -> None:
        """Store measured joints, all or some of them."""
        with self._lock:
            self._buffer.add_joint_state(stamp, names, positions)

    def note_clips(self, total: int) -> None:
        """Take the number of commands that the executor has cut since it was started."""
        with self._lock:
            # A smaller total comes from a restarted executor.
            before = 0 if self._clips is not None and total < self._clips else self._clips
            if self._run is not None and before is not None:
                self._run.clips += total - before
            self._clips = total

    def note_not_followed(self) -> None:
        """Record that the executor refused a chunk or follows another source: the next chunk does
        not continue the last one.
        """
        with self._lock:
            self._predictor.not_followed()

    # ---- instructions ----

    def begin(self, text: str, timeout_s: float | None = None) -> InstructionRun:
        """Follow an instruction from now on; one in force is replaced, also when it is paused.

        Raises:
            ValueError: it is empty or too long; the current one continues.
        """
        text = validate_instruction(text)
        with self._lock:
            self.end(Termination.REPLACED, "another instruction arrived")
            cadence = Cadence(self._replan_s, self._cadence_tolerance_s)
            self._run = self._last_run = InstructionRun(
                text, self._next_epoch(), self._clock(), cadence, timeout_s
            )
            self._set_state(PolicyState.RUNNING, "")
            self._wake.set()
            return self._run

    def pause(self, paused: bool) -> InstructionRun:
        """Pause or resume the current instruction; its time limit is suspended
        meanwhile.

        Raises:
            ValueError: there is no instruction.
        """
        with self._lock:
            if (run := self._run) is None:
                raise ValueError(
                    f"there is no instruction to {'pause' if paused else 'resume'}; give one first"
                )
            if paused and not run.paused:
                run.pause(self._clock())
                self._set_state(PolicyState.PAUSED, "")
            elif run.paused and not paused:
                run.resume(self._clock(), self._next_epoch())
                self._set_state(PolicyState.RUNNING, "")
                self._wake.set()
            return run

    def end(
        self, termination: Termination, message: str, run: InstructionRun | None = None
    ) -> None:
        """End the instruction in force, or only ``run`` if that is it."""
        with self._lock:
            if self._run is None or (run is not None and run is not self._run):
                return
            ended, self._run = self._run, None
            ended.end(self._clock(), termination, message)
            self._ended.append(ended)
            failed = termination is Termination.ERROR
            self._set_state(
                PolicyState.ERROR if failed else PolicyState.IDLE,
                "" if termination is Termination.CANCELLED else message,
            )
            self._notify()

    def refuse(self, message: str) -> None:
        """Tell in the status why an instruction was not taken."""
        with self._lock:
            self._set_state(self._state, message)

    def take_ended(self) -> list[InstructionRun]:
        """Return the instructions that ended since the last call."""
        with self._lock:
            ended, self._ended = self._ended, []
            return ended

    @property
    def run(self) -> InstructionRun | None:
        """Return the current instruction, followed or paused."""
        return self._run

    @property
    def last_run(self) -> InstructionRun | None:
        """Return the current instruction, or the last one."""
        return self._last_run

    def check_time(self) -> None:
        """End an instruction whose time is over, or that has seen nothing for too long; to be
        called regularly.
        """
        with self._lock:
            if (run := self._run) is None:
                return
            now = self._clock()
            run.keep_time(now)
            if (
                now
                < max(run.look_from, run.last_observation or 0.0, run.paused_at or 0.0)
                - _CLOCK_BACK_S
            ):
                self.end(Termination.STOPPED, "the clock went back")
            elif run.paused:
                return
            elif run.timeout_s is not None and run.elapsed_s(now) > run.timeout_s:
                self.end(Termination.TIMEOUT, f"ran for {run.timeout_s:g} s")
            elif (
                run.waiting_since is not None
                and now - run.waiting_since > self._observation_timeout_s
            ):
                what = self._reason or "no observation"
                self.end(
                    Termination.NO_OBSERVATION,
                    f"nothing usable for {self._observation_timeout_s:g} s: {what}",
                )

    def status(self) -> SessionStatus:
        """Return a snapshot of the current state."""
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
                cadence=(
                    self._last_run.cadence_report(now)
                    if self._last_run
                    else Cadence(self._replan_s).report(now)
                ),
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
            # Of any kind: without its worker the session would no longer answer.
            except Exception as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                self.end(
                    Termination.ERROR,
                    f"the policy failed: {kind}{' '.join(str(error).split())}",
                    run,
                )

    def _predict_once(self, run: InstructionRun) -> None:
        epoch = run.epoch
        observation = self._observe(run)
        if observation is None:
            return
        try:
            images = self._predictor.images(observation)
        except ValueError as error:
            self._wait(run, str(error))
            return
        since, run.waiting_since = run.waiting_since or self._clock(), None
        try:
            chunk = self._predictor.chunk(
                observation, images, run.instruction, epoch, run.chunks + 1
            )
        except PolicyUnavailable as problem:  # no chunk: the arm holds once the last one is over
            run.waiting_since = since
            self._wait(run, str(problem))
            return
        with self._lock:
            if run is not self._run or run.paused or run.epoch != epoch:
                # The instruction was replaced or paused meanwhile: this chunk must not be executed.
                return
            run.last_observation = observation.stamp
            run.chunks += 1
            self._publish(chunk)
            now = self._clock()
            latency = now - observation.stamp
            self._predictor.published(chunk, latency)
            self._chunks += 1
            run.cadence.add(now)
            run.latencies.add(latency)
            self._chunk_latency.add(latency)
            self._inference.add(chunk.inference_latency_s)
            self._set_state(PolicyState.RUNNING, "")

    def _observe(self, run: InstructionRun) -> Observation | None:
        """Return the next observation to predict from; None when it is too early, there is none, or
        none is wanted.
        """
        with self._lock:
            if run is not self._run or run.paused:
                return None
            now = self._clock()
            run.keep_time(now)
            try:
                observation = self._buffer.pick(now)
            except NoObservation as problem:
                self._wait(run, str(problem))
                return None
            last = run.last_observation
            early = (
                observation.stamp < run.look_from
                if last is None
                else observation.stamp < last + self._replan_s - self._early_s
            )
            return None if early else observation

    def _wait(self, run: InstructionRun, reason: str) -> None:
        with self._lock:
            self._observations_refused += 1
            if run is self._run and not run.paused:
                if run.waiting_since is None:
                    run.waiting_since = self._clock()
                self._set_state(PolicyState.WAITING, reason)

    def _next_epoch(self) -> int:
        # The wall clock, so that epochs also rise from one start of this node to the next.
        self._epoch = max(self._epoch + 1, int(1e3 * time.time()))
        return self._epoch

    def _set_state(self, state: PolicyState, reason: str) -> None:
        changed = state is not self._state
        self._state, self._reason = state, reason
        if changed:
            self._notify()
