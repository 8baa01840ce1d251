"""Start the programs of this package for ``ros2 run sf_training ...``.

See :mod:`sf_policy_node.programs`.
"""

from __future__ import annotations

from sf_policy_node.programs import start


def sf_training() -> int | None:
    """Run the command line from episodes to a checkpoint."""
    return start("sf_training.cli")


def train() -> int | None:
    """Train a model on episodes, from scratch or from given weights."""
    return start("sf_training.training.train")


def demonstrations() -> int | None:
    """Record episodes of the simulated arm."""
    return start("sf_training.simulation.demonstrations")


def evaluate() -> int | None:
    """Evaluate a checkpoint in the simulator."""
    return start("sf_training.simulation.evaluate")


def report() -> int | None:
    """Compare training runs."""
    return start("sf_training.training.report")


def recorder() -> int | None:
    """Run the recorder as a node."""
    return start("sf_training.recording.recorder_node")


def recorder_keys() -> int | None:
    """Control the recorder from a terminal."""
    return start("sf_training.recording.keyboard_node")


def recorder_joy() -> int | None:
    """Control the recorder with the buttons of a gamepad."""
    return start("sf_training.recording.joy_node")


def teleoperation() -> int | None:
    """Run teleoperation as a node."""
    return start("sf_training.teleoperation.teleoperation_node")


def teleoperation_keys() -> int | None:
    """Read keys for teleoperation in a terminal."""
    return start("sf_training.teleoperation.keyboard_node")


def replay() -> int | None:
    """Replay an episode on the robot."""
    return start("sf_training.teleoperation.replay_node")
