"""Moves arms that fall without power to their rest pose before the chunk executor ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto

from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.homing import Pose, check_rest_poses
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.types import Trajectory
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.nodes.pose_motion import PoseMotion

REST_S = 20.0
"""The longest time that a shutdown waits for the rest pose [s]."""
_STOP_S = 3.0  # the arm must be stationary this long after the stop was sent


class _Phase(Enum):
    IDLE = auto()
    STOPPING = auto()
    MOVING = auto()
    OVER = auto()


class RestMotion:
    """Stops all arms, then moves those that have a rest pose there.

    The motion is skipped, and the log says why, after an emergency stop or a fault, and where it is
    not possible.

    Args:
        send: publishes a trajectory.

    Raises:
        ContractError: a rest pose cannot be reached.
    """

    def __init__(
        self,
        node: ManagedNode,
        motion: ChunkExecutor,
        pose_motion: PoseMotion,
        send: Callable[[Trajectory | None], None],
    ) -> None:
        check_rest_poses(motion.contract)
        self._node, self._motion, self._pose_motion, self._send = node, motion, pose_motion, send
        self._arms = [name for name, arm in motion.contract.arms.items() if arm.rest is not None]
        self._phase, self._begun = _Phase.IDLE, 0.0

    @property
    def is_over(self) -> bool:
        """Whether no motion is in progress: it has ended, or was never begun."""
        return self._phase in (_Phase.IDLE, _Phase.OVER)

    def begin(self) -> None:
        """Stop the arm; :meth:`step` moves it. Do nothing if begun before, or without a pose."""
        if self._phase is not _Phase.IDLE or not self._arms:
            return
        self._phase, self._begun = _Phase.STOPPING, time.monotonic()
        situation, reason = self._motion.situation, self._motion.status.reason
        self._send(self._motion.shut_down(self._node.now()))
        if situation.latched or situation.blocked:
            self._skip(reason)

    def step(self) -> None:
        """Continue; must be called at every tick of the executor."""
        waited = time.monotonic() - self._begun
        try:
            if self._phase is _Phase.STOPPING:
                if self._motion.is_stationary(self._node.now()):
                    self._start()
                elif waited > _STOP_S:
                    raise MotionRefused(f"the arm was not stationary {_STOP_S:g} s after the stop")
            elif self._phase is _Phase.MOVING:
                if self._pose_motion.step():
                    self._phase = _Phase.OVER
                    self._node.get_logger().info("the arm is in its rest pose")
                elif waited > REST_S:
                    self._pose_motion.end("the time for the motion to the rest pose is over")
                    raise MotionRefused(f"the arm did not arrive within {REST_S:g} s")
        except MotionRefused as refusal:
            self._skip(str(refusal))

    def _start(self) -> None:
        self._pose_motion.begin(Pose.REST, self._arms)
        homing = self._motion.homing
        assert homing is not None  # the line above made it
        self._phase, needed = _Phase.MOVING, homing.seconds
        if needed > REST_S - _STOP_S:
            self._motion.homing = None
            raise MotionRefused(
                f"the motion takes {needed:.0f} s and a shutdown waits {REST_S:g} s; choose a rest"
                " pose nearer to the workspace, or move the arm there first"
            )

    def _skip(self, reason: str) -> None:
        self._phase = _Phase.OVER
        self._node.get_logger().warning(
            f"the arm is not in its rest pose and may fall when its power goes: {reason}"
        )
