"""From messages that arrive one by one to an observation that fits together, and what an instruction may be.

No ROS here: an image is whatever the caller stored, times are seconds on one clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.safety.measured import JointHistory

MAX_INSTRUCTION = 500  # characters
_ROUNDING_S = 1e-6  # of stamps in float seconds: what is exactly on a budget is inside it, as in recorded data
_IMAGES_KEPT = 4  # per camera: enough to match cameras that deliver in turn


def validate_instruction(text: str) -> str:
    """The instruction without spaces around it.

    Raises:
        ValueError: it is empty or too long.
    """
    text = text.strip()
    if not text:
        raise ValueError("the instruction is empty; say what to do, for example 'pick the red cube'")
    if len(text) > MAX_INSTRUCTION:
        raise ValueError(f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION} are read; shorten it")
    return text


class NoObservation(ValueError):
    """There is no usable observation; the message says what is missing or too old, and by how much."""


@dataclass(frozen=True)
class Observation:
    """Images that belong together. ``stamp`` [s]: the oldest image; ``joints`` (J,): measured then, in the contract's order."""

    stamp: float
    images: dict[str, object]
    joints: np.ndarray


class JointStates:
    """Joint states of any publisher into arrays in the contract's order.

    A joint state may name more joints, in any order, or only some: then it completes the others' newest values.
    """

    def __init__(self, contract: Contract) -> None:
        self._names = contract.command_joints
        self._newest: dict[str, tuple[float, float, float]] = {}  # stamp, position, velocity

    def read(
        self, stamp: float, names: Sequence[str], positions: Sequence[float], velocities: Sequence[float]
    ) -> tuple[float, np.ndarray, np.ndarray] | None:
        """Stamp of the oldest joint, positions and velocities (J,); None as long as a joint has never been named.

        Velocities that a publisher leaves out are computed from its positions.
        """
        if len(positions) == len(names):
            given = velocities if len(velocities) == len(names) else [None] * len(names)
            for name, position, velocity in zip(names, positions, given, strict=True):
                if velocity is None:
                    before = self._newest.get(name)
                    velocity = (position - before[1]) / (stamp - before[0]) if before and stamp > before[0] else 0.0
                self._newest[name] = (stamp, position, velocity)
        if any(name not in self._newest for name in self._names):
            return None
        rows = np.array([self._newest[name] for name in self._names])
        return float(rows[:, 0].min()), rows[:, 1], rows[:, 2]

    @property
    def missing(self) -> list[str]:
        """Joints of the contract that no joint state has named yet."""
        return [name for name in self._names if name not in self._newest]


class ObservationBuffer:
    """The newest images of every camera and the joint states around them. Calls must not overlap."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._images: dict[str, deque[tuple[float, object]]] = {name: deque(maxlen=_IMAGES_KEPT) for name in contract.camera_names}
        self._topics = {camera.name: camera.topic for camera in contract.cameras}
        self._joints = JointHistory(contract.budgets.observation_age_s + 1.0)

    def add_image(self, camera: str, stamp: float, image: object) -> None:
        """Keep an image; one that is older than the newest means that the clock was set back, and empties the camera."""
        kept = self._images[camera]
        if kept and stamp < kept[-1][0]:
            kept.clear()
        kept.append((stamp, image))

    def add_joints(self, stamp: float, positions: np.ndarray) -> None:
        """Keep measured joints (J,), unless a value is not finite."""
        if np.isfinite(positions).all():
            if self._joints and stamp < self._joints.newest[0] - 1.0:
                self._joints.clear()
            self._joints.add(stamp, positions, positions)

    def clear(self) -> None:
        """Forget all images and joint states."""
        for kept in self._images.values():
            kept.clear()
        self._joints.clear()

    def pick(self, now: float) -> Observation:
        """The newest images that belong together, with the joints at the time of the oldest of them.

        Raises:
            NoObservation: a camera or the joint states are missing, too old or too far apart.
        """
        budgets = self._contract.budgets
        for name, kept in self._images.items():
            if not kept:
                raise NoObservation(f"camera {name}: no image on {self._topics[name]}")
            if kept[-1][0] <= 0.0:
                raise NoObservation(f"camera {name}: images on {self._topics[name]} have no time stamp; set it in the driver")
            self._check_age(f"camera {name}: the newest image", now - kept[-1][0], "observation_age_s", budgets.observation_age_s)
        latest = min(kept[-1][0] for kept in self._images.values())
        # Rounded, so that of two images equally far the earlier one is taken, as in recorded data.
        chosen = {name: min(kept, key=lambda item: round(abs(item[0] - latest) / _ROUNDING_S)) for name, kept in self._images.items()}
        oldest = min(chosen, key=lambda name: chosen[name][0])
        newest = max(chosen, key=lambda name: chosen[name][0])
        stamp, skew = chosen[oldest][0], chosen[newest][0] - chosen[oldest][0]
        if skew > budgets.camera_skew_s + _ROUNDING_S:
            raise NoObservation(
                f"cameras {oldest} and {newest} are {skew:.3f} s apart, budgets.camera_skew_s allows {budgets.camera_skew_s:g} s"
            )
        self._check_age(f"camera {oldest}: the matching image", now - stamp, "observation_age_s", budgets.observation_age_s)
        return Observation(stamp, {name: image for name, (_, image) in chosen.items()}, self._joints_at(stamp, chosen[newest][0], now))

    def camera_ages(self, now: float) -> list[float]:
        """Age of the newest image of each camera, in the contract's order [s]; -1 before the first."""
        return [now - kept[-1][0] if kept else -1.0 for kept in self._images.values()]

    @property
    def skew(self) -> float:
        """Spread of the newest stamps [s]; -1 before all cameras have delivered."""
        stamps = [kept[-1][0] for kept in self._images.values() if kept]
        return max(stamps) - min(stamps) if len(stamps) == len(self._images) else -1.0

    def joint_state_age(self, now: float) -> float:
        """Age of the newest joint state [s]; -1 before the first."""
        return now - self._joints.newest[0] if self._joints else -1.0

    def _joints_at(self, stamp: float, known_until: float, now: float) -> np.ndarray:
        """Joints at ``stamp`` from what had been measured when the last image was taken: the same, however late the images arrive."""
        budget = self._contract.budgets.joint_state_age_s
        if not self._joints:
            raise NoObservation(f"no joint states on {self._contract.topics.joint_states}")
        self._check_age("the newest joint state", now - self._joints.newest[0], "joint_state_age_s", budget)
        joints = self._joints.at(stamp, known_until + _ROUNDING_S)
        if joints is None:
            raise NoObservation("there was no joint state yet when the images were taken")
        return joints

    def _check_age(self, what: str, age: float, key: str, budget: float) -> None:
        if age > budget + _ROUNDING_S:
            raise NoObservation(f"{what} is {age:.3f} s old, budgets.{key} allows {budget:g} s")
        if age < -FUTURE_S:
            raise NoObservation(f"{what} is stamped {-age:.3f} s in the future; synchronise the clocks")
