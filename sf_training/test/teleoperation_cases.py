"""Shared parts of the teleoperation tests: contract, devices, and an operator's hand."""

from functools import cache
from pathlib import Path

import numpy as np
import yaml

from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_training.teleoperation.device import Device
from sf_training.teleoperation.session import TeleoperationSession

CONFIG = Path(__file__).resolve().parents[2] / "sf_bringup" / "config"
DEVICES = CONFIG / "teleoperation"
HOME = np.array(
    [0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035]
)  # the tool points down in the middle of the workspace
PERIOD = 0.02


@cache
def robot(name):
    return load_contract(CONFIG / "robots" / f"{name}.yaml")


def sim_arm():
    return robot("sim_arm")


@cache
def kinematics():
    return Kinematics(sim_arm())


def shipped(name, **changes) -> Device:
    """Return a shipped device with some top-level keys changed."""
    return Device.model_validate(
        {**yaml.safe_load((DEVICES / f"{name}.yaml").read_text()), **changes}
    )


class Hand:
    """A session and a clock with an arm that follows commands exactly."""

    def __init__(self, device: Device, contract=None, measured=HOME):
        self.contract = contract or sim_arm()
        self.session = TeleoperationSession(self.contract, device)
        self.now, self.measured, self.follows = 100.0, np.array(measured), True
        self.commands = []

    def run(self, seconds, each=lambda: None):
        """Send joint states and input every 20 ms; return the commands."""
        commands = []
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            self.session.on_measured(self.measured, np.zeros(len(self.measured)), self.now)
            each()
            command = self.session.command(self.now, PERIOD)
            if command is not None:
                commands.append(command)
                if self.follows:
                    self.measured = command.positions.copy()
        self.commands += commands
        return commands

    @property
    def tool(self):
        return kinematics().forward(self.measured[:6]).position


class Pad(Hand):
    """A gamepad, or another device behind one Joy topic."""

    def __init__(self, name="gamepad", axes=6, buttons=15, *, arms=None, measured=HOME, **changes):
        super().__init__(shipped(name, **changes), arms, measured)
        self.axes, self.buttons = [0.0] * axes, [0] * buttons
        self.topic = self.session.device.dead_man.topic
        self.grip = self.session.device.dead_man.button
        self.run(0.1)  # the switch is released in the first message

    def press(self, seconds=0.0, *, grip=True, axes=None, buttons=()):
        """Hold or release the dead-man switch, deflect axes and press buttons for a time."""
        self.axes = [(axes or {}).get(index, 0.0) for index in range(len(self.axes))]
        self.buttons = [
            int(index in buttons or (grip and index == self.grip))
            for index in range(len(self.buttons))
        ]
        return super().run(seconds, self.say)

    def run(self, seconds, each=None):
        return super().run(seconds, each or self.say)

    def say(self):
        self.session.on_joy(self.topic, self.axes, self.buttons, self.now)


def written(folder, name, **changes):
    """Write a shipped device's YAML with some keys changed; return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({**yaml.safe_load((DEVICES / f"{name}.yaml").read_text()), **changes})
    )
    return path
