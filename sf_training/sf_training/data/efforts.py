"""Read measured efforts of the joints at given times. They are optional: many drivers send none."""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.stream import Stream
from sf_training.data.synchronisation import JointStream, Knots
from sf_training.recording.topics import absolute


def measured_efforts(
    contract: Contract,
    section: dict[str, Stream],
    times: np.ndarray,
    known_until: np.ndarray,
    now: np.ndarray | None = None,
) -> np.ndarray:
    """Return the efforts (N, J) float32 of the command joints at ``times`` [N m or N].

    NaN where unknown.

    Efforts are interpolated, and become too old, like positions (:meth:`JointStream.measured`). A
    message counts if it has a finite effort of the joint, and one effort for each name.

    Args:
        section: streams between two clock steps, by topic.
        times, known_until, now: (N,) [ns], as for :meth:`JointStream.measured`.
    """
    states = section[absolute(contract.topics.joint_states)]
    ages = [round(seconds * 1e9) for seconds in contract.joint_ages_s]
    found = np.full((len(times), len(contract.command_joints)), np.nan)
    for column, (name, age) in enumerate(zip(contract.command_joints, ages, strict=True)):
        if not len(states.stamps):
            continue
        rows, values = states.joint_messages.efforts(name)
        if len(rows):
            knots = Knots(states.stamps[rows], values, np.zeros(len(rows), bool))
            stream = JointStream.of_knots([name], {name: knots})
            found[:, column] = stream.measured(times, known_until, age, now)[:, 0]
    found[np.abs(found) > np.finfo(np.float32).max] = np.nan  # of a damaged message
    return found.astype(np.float32)
