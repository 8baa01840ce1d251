"""Assemble synchronised observations from single messages, and validate instructions, without ROS.

An image is any object that the caller stores; times are seconds on one clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.perception.joint_states import NO_CLOCK, ROUNDING_S, JointStates

MAX_INSTRUCTION = 500  # characters


def validate_instruction(text: str) -> str:
    """Return the instruction without spaces around it.

    Raises:
        ValueError: it is empty or too long.
    """
    text = text.strip()
    if not text:
        raise ValueError(
            "the instruction is empty; say what to do, for example 'pick the red cube'"
        )
    if len(text) > MAX_INSTRUCTION:
        raise ValueError(
            f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION} are read;"
            " shorten it"
        )
    return text


class NoObservation(ValueError):
    """Raised without a usable observation; the message gives what is missing or too old."""


@dataclass(frozen=True)
class Observation:
    """Hold one image of each camera, the ``stamp`` of the oldest one [s], and the ``joints`` (J,)
    at that time, in the contract's order [rad or m].
    """

    stamp: float
    images: dict[str, object]
    joints: np.ndarray


class ObservationBuffer:
    """Store the newest images of each camera and the joint states. Not thread-safe.

    Args:
        future_s: how far stamps may be ahead of this computer's clock [s].
    """

    def __init__(self, contract: Contract, future_s: float = FUTURE_S) -> None:
        self._contract, self._future_s = contract, future_s
        self._images: dict[str, deque[tuple[float, object]]] = {
            name: deque() for name in contract.camera_names
        }
        self._topics = {camera.name: camera.topic for camera in contract.cameras}
        self._joints = JointStates(contract, contract.budgets.observation_age_s + 1.0, future_s)

    def add_image(self, camera: str, stamp: float, image: object) -> None:
        """Store an image. If it is older than the newest, the clock was set back, and the earlier
        images of the camera are dropped.
        """
        images = self._images[camera]
        if images and stamp < images[-1][0]:
            images.clear()
        images.append((stamp, image))
        # Limited by age, not by number: a camera of 60 Hz must still have the image that matches
        # the last one of 10 Hz.
        while images[0][0] < stamp - self._contract.budgets.observation_age_s:
            images.popleft()

    def add_joint_state(
        self, stamp: float, names: Sequence[str], positions: Sequence[float]
    ) -> None:
        """Store a joint state, which may name only some joints, in any order."""
        self._joints.add(stamp, names, positions)

    def clear(self) -> None:
        """Drop all images and joint states."""
        for images in self._images.values():
            images.clear()
        self._joints.clear()

    def pick(self, now: float) -> Observation:
        """Return the newest images that belong together, with the joints at the time of the oldest
        of them.

        Raises:
            NoObservation: a camera or the joint states are missing, too old or too far apart.
        """
        if now <= 0.0:
            raise NoObservation(NO_CLOCK)
        budgets = self._contract.budgets
        for name, images in self._images.items():
            if not images:
                raise NoObservation(no_image(name, self._topics[name]))
            if images[-1][0] <= 0.0:
                raise NoObservation(
                    f"camera {name}: images on {self._topics[name]} have no time stamp; set it in"
                    " the driver"
                )
            self._check_age(
                f"camera {name}: the newest image",
                now - images[-1][0],
                "observation_age_s",
                budgets.observation_age_s,
            )
        chosen = self._matching()
        oldest = min(chosen, key=lambda name: chosen[name][0])
        newest = max(chosen, key=lambda name: chosen[name][0])
        stamp, skew = chosen[oldest][0], chosen[newest][0] - chosen[oldest][0]
        if skew > budgets.camera_skew_s + ROUNDING_S:
            raise NoObservation(
                f"cameras {oldest} and {newest} are {skew:.3f} s apart, budgets.camera_skew_s"
                f" allows {budgets.camera_skew_s:g} s; trigger them together, or raise their rates"
            )
        self._check_age(
            f"camera {oldest}: the matching image",
            now - stamp,
            "observation_age_s",
            budgets.observation_age_s,
        )
        return Observation(
            stamp,
            {name: image for name, (_, image) in chosen.items()},
            self._joints_at(stamp, chosen[newest][0], now),
        )

    def camera_ages(self, now: float) -> list[float]:
        """Return the age of the newest image of each camera, in the contract's order [s]: 0 for a
        stamp after ``now``, -1 before the first.
        """
        return [
            max(0.0, now - images[-1][0]) if images else -1.0 for images in self._images.values()
        ]

    @property
    def skew(self) -> float:
        """Return the largest difference between the stamps of the newest matching images [s]; -1
        until all cameras have an image.
        """
        if not all(self._images.values()):
            return -1.0
        stamps = [stamp for stamp, _ in self._matching().values()]
        return max(stamps) - min(stamps)

    def joint_state_age(self, now: float) -> float:
        """Return the age of the oldest arm joint [s]; -1 while one is missing."""
        return self._joints.age(now)

    def _matching(self) -> dict[str, tuple[float, object]]:
        """Return stamp and image by camera: the newest of the slowest camera, and of each other
        camera the nearest to it in time.
        """
        latest = min(images[-1][0] for images in self._images.values())
        # Rounded, so that the earlier of two equally near images is taken, as in recorded data.
        return {
            name: min(images, key=lambda item: round(abs(item[0] - latest) / ROUNDING_S))
            for name, images in self._images.items()
        }

    def _joints_at(self, stamp: float, known_until: float, now: float) -> np.ndarray:
        """Return the joints at ``stamp``, from what had been measured when the last image was
        taken. The result does not depend on how late the images arrive.
        """
        if problem := self._joints.problem(now):
            raise NoObservation(problem)
        joints = self._joints.at(stamp, known_until + ROUNDING_S)
        if joints is None:
            raise NoObservation("there was no joint state yet when the images were taken")
        if gap := self._joints.gap(stamp):
            raise NoObservation(gap)
        return joints

    def _check_age(self, what: str, age: float, key: str, budget: float) -> None:
        if age > budget + ROUNDING_S:
            raise NoObservation(late(what, age, key, budget))
        if age < -self._future_s:
            raise NoObservation(
                f"{what} is stamped {-age:.3f} s in the future; synchronise the clocks"
            )


def no_image(camera: str, topic: str) -> str:
    """Return the sentence about a camera without any image."""
    return (
        f"camera {camera}: no image on {topic}; start its driver, or correct cameras.{camera}.topic"
    )


def late(what: str, age: float, key: str, budget: float) -> str:
    """Return the sentence about images that are older [s] than ``budgets.<key>`` allows."""
    return (
        f"{what} is {age:.3f} s old, budgets.{key} allows {budget:g} s; check its driver, the"
        " network and the clocks"
    )
