"""Moves the arms to a pose of the contract: for the action ``~/go_home`` and before a shutdown."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.homing import Pose
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.types import Trajectory
from sf_policy_node.nodes.lifecycle import ManagedNode

_PERIOD_S = 0.05  # between two trajectories of the motion


class PoseMotion:
    """Executes one motion at a time; see :meth:`ChunkExecutor.go_home`.

    Args:
        refusal: returns why the controller cannot be commanded now; empty when it can.
        send: publishes a trajectory.
    """

    def __init__(
        self,
        node: ManagedNode,
        motion: ChunkExecutor,
        refusal: Callable[[], str],
        send: Callable[[Trajectory | None], None],
    ) -> None:
        self._node, self._motion, self._refusal, self._send = node, motion, refusal, send
        self._continued = 0.0  # when the last trajectory was sent [s]

    @property
    def distance(self) -> float | None:
        """The largest distance of a commanded joint from the pose [rad or m]; None: unknown."""
        homing, path = self._motion.homing, self._motion.path
        if homing is None or path is None:
            return None
        return homing.distance(path.state(self._node.now())[0])

    def begin(self, pose: Pose, arms: Collection[str]) -> None:
        """Plan the motion.

        Raises:
            MotionRefused: the arm may not move, or the motion is not possible.
        """
        if refusal := self._refusal():
            raise MotionRefused(refusal)
        self._motion.go_home(self._node.now(), arms, pose)

    def step(self) -> bool:
        """Continue the motion and return whether the arm has arrived; call it at every tick.

        Raises:
            MotionRefused: the motion ended early, and the arm was stopped.
        """
        if time.monotonic() - self._continued < _PERIOD_S:
            return False
        self._continued, now = time.monotonic(), self._node.now()
        try:
            if refusal := self._refusal():
                raise MotionRefused(refusal)
            trajectory = self._motion.continue_homing(now)
        except MotionRefused as error:
            self.end(f"homing stopped: {error}")
            raise
        arrived = self._motion.homing is None
        is_planned = not arrived and trajectory is not None  # None: the last one still has to begin
        if is_planned and self._motion.is_too_late(self._node.now()):
            self._motion.withdraw_teleoperation()
            return False  # the next trajectory follows soon
        self._send(trajectory)
        return arrived

    def end(self, reason: str) -> None:
        """Stop the arm wherever it is."""
        self._send(self._motion.end_homing(self._node.now(), reason))
