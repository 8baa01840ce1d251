"""Random sequences with a faulty driver, wrong reports and set clocks, on a model of the real
controller: every command to the hardware keeps the limits.
"""

import contextlib
import os

import numpy as np
import pytest
from faulty_driver import FaultyDriver
from motion_cases import HOME, make_chunk, sim_arm
from test_executor_and_controller import LIMITS, Arm
from test_executor_random import random_rows

from sf_policy_node.motion.refusals import MotionRefused

# The seeds of the sequences are 0 to this number.
SEQUENCES = int(os.environ.get("SF_CONTROLLER_SEQUENCES", "120"))
PARTS = 4  # tests among which the sequences are divided, for several processes
TRANSIT_S = 0.015
STEPS_S = [-3.0, 5.0, -0.045, 0.03, 0.12, -0.02]  # by which the clock is set
SHARES = {"chunk": 0.5, "teleoperate": 0.28, "stop": 0.05, "pause": 0.04, "activate": 0.03}
SHARES |= {"clock": 0.06, "report": 0.04}


class LyingArm(Arm):
    """An arm whose driver lies to the executor; the controller reads the true joints."""

    def __init__(self, rng, **options):
        self.rng, self.driver, self.target = rng, None, HOME.copy()
        super().__init__(**options)
        self.driver = FaultyDriver(rng, len(HOME))

    def read(self):
        true = self.stamp, self.loop.position, self.loop.velocity
        for reading in [true] if self.driver is None else self.driver(*true):
            self.executor.on_joint_state(*reading)
            self.places.append((self.now, reading[1]))

    def act(self):
        """Do one random action of a policy, an operator, a clock or a controller."""
        action = self.rng.choice(list(SHARES), p=list(SHARES.values()))
        with contextlib.suppress(MotionRefused, ValueError):
            getattr(self, f"do_{action}")()

    def do_chunk(self):
        rows = random_rows(sim_arm(), self.rng, self.rng.choice([0.3, 1.0]))
        self.sequence += 1
        chunk = make_chunk(
            sim_arm(),
            rows,
            stamp=self.clock - 0.05,
            sequence=self.sequence,
            epoch=self.sequence,
            reference=self.places[-1][1],
        )
        transit = self.rng.uniform(0.0, TRANSIT_S)
        self.send(self.executor.on_chunk(chunk, self.clock), transit=transit)

    def do_teleoperate(self):
        self.target = self.target + self.rng.normal(0.0, 0.03, len(HOME))
        if self.rng.random() < 0.1:
            self.target = np.zeros(len(HOME))
        for _ in range(self.rng.integers(1, 15)):
            command = self.clock, self.target, np.zeros(len(HOME)), self.clock
            self.send(self.executor.on_teleoperation(*command))
            self.run(0.02)

    def do_stop(self):
        self.send(self.executor.on_emergency_stop(True, self.clock))
        self.run(self.rng.uniform(0.0, 0.4))
        self.executor.on_emergency_stop(False, self.clock)
        self.executor.reset_emergency_stop(self.clock)

    def do_pause(self):
        self.send(self.executor.pause(True, self.clock))
        self.run(self.rng.uniform(0.0, 0.3))
        self.send(self.executor.pause(False, self.clock))

    def do_activate(self):
        self.send(self.executor.deactivate(self.clock))
        self.run(self.rng.uniform(0.3, 0.5))
        self.executor.activate(self.clock)

    def do_clock(self):
        # A controller times a message that is on its way by the new clock; no sender prevents it.
        idle = 0
        while idle < 2:
            self.run(0.01)
            idle = 0 if self._mail else idle + 1
        self.set_clock(float(self.rng.choice(STEPS_S)))

    def do_report(self):
        for _ in range(self.rng.integers(1, 3)):
            wrong = self.loop.position + self.rng.normal(0.0, 0.2, len(HOME))
            self.executor.on_controller_reference(self.stamp, wrong, np.zeros(len(HOME)))
            self.run(0.01)


def violations_of_a_sequence(seed):
    """Return the limits that a random sequence breaks at the hardware."""
    rng = np.random.default_rng(seed)
    arm = LyingArm(
        rng,
        update_rate_hz=float(rng.choice([100.0, 250.0])),
        servo_lag_s=float(rng.choice([0.0, 0.02, 0.05])),
        desired=bool(rng.integers(2)),
        clock_offset_s=float(rng.choice([0.0, 0.03, -0.03])),
    )
    for _ in range(rng.integers(4, 12)):
        arm.act()
        arm.run(float(rng.choice([0.02, 0.1, 0.3])))
    arm.run(2.0)
    commands = arm.loop.take()
    velocity = np.abs(commands.velocities).max(axis=0) / LIMITS.velocity
    acceleration = np.abs(commands.accelerations).max(axis=0) / LIMITS.acceleration
    # A controller that is met with one point bridges from where a lagging gripper is measured.
    allowed = np.where(LIMITS.is_gripper, 3.0, 1.2)
    found = []
    if (velocity > 1.05).any() or (acceleration > allowed).any():
        found.append(f"velocity {velocity.round(2)}, acceleration {acceleration.round(2)}")
    if np.abs(arm.loop.velocity).max() > 1e-3:
        found.append("it does not come to rest")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_lie_makes_the_controller_break_a_limit(part):
    broken = {}
    for seed in range(part, SEQUENCES, PARTS):
        if found := violations_of_a_sequence(seed):
            broken[seed] = found
    assert not broken
