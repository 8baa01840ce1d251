"""The executor with a model of the real controller, at its default parameters first.

The model is ``sf_policy_node.controller``, which was compared with joint_trajectory_controller. The
tests check the commands to the hardware in every cycle.
"""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
from motion_cases import FORWARD, HOME, make_chunk, sim_arm, straight

from sf_policy_node.controller.control_loop import ControlLoop
from sf_policy_node.controller.limiter import JointLimiter
from sf_policy_node.controller.parameters import ControllerParameters
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.status import ExecutorState
from sf_policy_node.motion.types import Trajectory

LIMITS = JointLimits.of(sim_arm())
TICK = 0.01
FAST = straight(sim_arm(), (0.02, 0.01, 0.0))


class Arm:
    """Executor, controller and servos; messages take ``transit`` [s].

    Args:
        reports: the controller publishes its state at 50 Hz, as it does by default.
    """

    def __init__(self, *, transit=0.004, velocity_state=True, reports=True, **options):
        parameters = ControllerParameters(
            interpolate_from_desired_state=options.pop("desired", False)
        )
        self.loop = options.pop("loop", ControlLoop)(
            LIMITS.names, HOME, 0.0, parameters=parameters, velocity_state=velocity_state, **options
        )
        self.executor = ChunkExecutor(sim_arm(), stopwatch=lambda: self.now)
        self.now, self.transit, self.sequence = 0.0, transit, 0
        self.set_by = 0.0  # what the clock of executor and controller was set by [s]
        self.stop_transit, self.reports = None, reports
        self._mail, self.refused = [], 0
        self.places = []
        self.executor.activate(0.0)
        self.run(0.5)

    def run(self, seconds):
        for _ in range(round(seconds / TICK)):
            self.now = round(self.now + TICK, 6)
            for arrival, trajectory in [mail for mail in self._mail if mail[0] <= self.now]:
                self.refused += not self.loop.receive(trajectory.held(), arrival)
            self._mail = [mail for mail in self._mail if mail[0] > self.now]
            self.loop.advance(self.now)
            self.read()
            self.report()
            self.send(self.executor.tick(self.clock))

    def read(self):
        """Publish a joint state."""
        self.executor.on_joint_state(self.stamp, self.loop.measured, self.loop.velocity)
        self.places.append((self.now, self.loop.measured))

    def report(self):
        if self.reports and round(self.now / TICK) % 2 == 0:
            reference = self.loop.controller.reference
            velocity = np.zeros(7) if reference.velocity is None else reference.velocity
            self.executor.on_controller_reference(self.stamp, reference.position, velocity)

    @property
    def stamp(self):
        """Stamp of what the controller's host publishes now [s]."""
        return self.now + self.loop.clock_offset_s

    @property
    def clock(self):
        """The executor's clock [s]."""
        return self.now + self.set_by

    def set_clock(self, seconds):
        """Set the clock of the host on which executor and controller run."""
        self.set_by += seconds
        self.loop.clock_offset_s += seconds

    def send(self, trajectory, transit=None):
        if trajectory is not None:
            late = self.transit if transit is None else transit
            if trajectory.hold_s and self.stop_transit is not None:
                late = self.stop_transit
            self._mail.append((self.now + late, trajectory))

    def chunk(self, rows=FAST, age=0.1):
        self.sequence += 1
        stamp, position = self.places[-1 - round(age / TICK)]
        chunk = make_chunk(
            sim_arm(), rows, stamp=stamp + self.set_by, sequence=self.sequence, epoch=self.sequence
        )
        chunk = dataclasses.replace(chunk, reference=position)
        self.send(self.executor.on_chunk(chunk, self.clock))

    def shares(self):
        """Return peak velocity and acceleration of hardware commands, as shares of the limits."""
        commanded = self.loop.take()
        velocity = np.abs(commanded.velocities) / LIMITS.velocity
        acceleration = np.abs(commanded.accelerations) / LIMITS.acceleration
        return float(velocity.max()), float(acceleration.max())

    def check_limits(self, case=None):
        """Check that all hardware commands since the last call kept the limits."""
        velocity, acceleration = self.shares()
        assert velocity <= 1.02 and acceleration <= 1.05, (case, velocity, acceleration)


class BusyArm(Arm):
    """An arm whose executor is called up to ``late`` [s] late; messages are as late."""

    def __init__(self, late, seed, **options):
        self._late, self._dice, self._next_call = late, np.random.default_rng(seed), 0.0
        super().__init__(**options)

    def run(self, seconds):
        end = self.now + seconds - 1e-9
        while self.now < end:
            self.now = round(self.now + TICK, 6)
            for arrival, trajectory in [mail for mail in self._mail if mail[0] <= self.now]:
                self.refused += not self.loop.receive(trajectory.held(), arrival)
            self._mail = [mail for mail in self._mail if mail[0] > self.now]
            self.loop.advance(self.now)
            self.places.append((self.now, self.loop.measured))
            if self.now >= self._next_call:
                self._next_call = self.now + TICK + self._dice.uniform(0.0, self._late)
                self.executor.on_joint_state(self.stamp, self.loop.measured, self.loop.velocity)
                self.report()
                self.send(self.executor.tick(self.clock))

    def send(self, trajectory, transit=None):
        newest = max((arrival for arrival, _ in self._mail), default=0.0)
        arrival = self.now + self.transit + self._dice.uniform(0.0, self._late)
        super().send(trajectory, transit=max(arrival, newest) - self.now)  # never overtakes


STOPS = {
    "none": lambda arm: None,
    "emergency stop": lambda arm: arm.send(arm.executor.emergency_stop(arm.clock)),
    "pause": lambda arm: arm.send(arm.executor.pause(True, arm.now)),
    "deactivate": lambda arm: arm.send(arm.executor.deactivate(arm.now)),
    "policy": lambda arm: arm.send(arm.executor.on_policy_state(False, 99, "done", arm.now)),
}


def enforced():
    """Return the limiter of a controller manager whose URDF has the margin of ``outputs.md``."""
    return JointLimiter(LIMITS.lower, LIMITS.upper, LIMITS.velocity / 0.8)


# Every update rate with every servo lag, every `interpolate_from_desired_state`, and the limiter
# off and on; clocks and stops take turns. 50 and 1000 Hz are the rates at the ends.
GRID = [
    *itertools.product((100.0, 250.0, 500.0), (0.0, 0.05), (False, True), (False, True)),
    (50.0, 0.05, False, True),
    (1000.0, 0.05, False, True),
]
CLOCKS = (0.0, -0.03, 0.03)


@pytest.mark.parametrize("case", range(len(GRID)))
def test_blending_and_stops_keep_the_limits_at_the_hardware(case):
    rate, lag, desired, limited = GRID[case]
    rng = np.random.default_rng(case)
    for n in (case, case + 2):
        stop, limiter = list(STOPS)[n % len(STOPS)], enforced() if limited else None
        arm = Arm(
            update_rate_hz=rate,
            servo_lag_s=lag,
            desired=desired,
            clock_offset_s=CLOCKS[n % len(CLOCKS)],
            limiter=limiter,
        )
        for _ in range(5):
            rows = FAST * np.append(rng.uniform(-1.0, 1.0, 3), 1.0)
            with contextlib.suppress(ChunkRefused):  # out of reach, at a few seeds
                arm.chunk(rows + np.append(rng.normal(0.0, 0.002, 3), 0.0))
            arm.run(float(rng.choice([0.2, 0.27])))
        STOPS[stop](arm)
        arm.run(1.8)
        arm.check_limits((GRID[case], stop))
        assert arm.executor.status.chunks_accepted >= 3
        assert not arm.refused and arm.executor.status.guard_refusals == 0
        assert np.abs(arm.loop.velocity).max() < 1e-3
        if limiter is not None:
            assert not limiter.position_clips.any() and not limiter.velocity_clips.any()


def test_blending_and_stops_keep_the_limits_on_a_busy_machine():
    """With fixed leads the controller jumped onto late messages: 12 times the limit."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arm = BusyArm(0.08, seed, update_rate_hz=250.0)
        for _ in range(4):
            rows = FAST * np.append(rng.uniform(-1.0, 1.0, 3), 1.0)
            arm.chunk(rows + np.append(rng.normal(0.0, 0.002, 3), 0.0))
            arm.run(float(rng.choice([0.2, 0.27])))
        arm.send(arm.executor.emergency_stop(arm.clock))
        arm.run(1.8)
        arm.check_limits(seed)
        assert not arm.refused and np.abs(arm.loop.velocity).max() < 1e-3


@pytest.mark.parametrize("late", [0.13, 0.25, 0.4])
@pytest.mark.parametrize("stop", ["emergency stop", "pause", "policy"])
def test_a_stop_that_arrives_late_is_still_executed(late, stop):
    """Before, the controller dropped it as past, and the arm continued to the end of the chunk."""
    arm = Arm()
    for _ in range(2):
        arm.chunk()
        arm.run(0.25)
    arm.chunk()
    arm.run(0.1)
    moving = np.abs(arm.loop.velocity[:6]).max()
    assert moving > 0.2
    arm.stop_transit = late
    before = arm.loop.position.copy()
    STOPS[stop](arm)
    arm.run(late + 0.15)
    assert np.abs(arm.loop.velocity).max() < 1e-3 and not arm.refused
    assert np.abs(arm.loop.position - before)[:6].max() <= moving * (late + 0.1)
    arm.run(1.0)
    assert np.abs(arm.loop.velocity).max() < 1e-3


def test_a_stop_that_is_lost_is_repeated_until_the_arm_stops():
    arm = Arm()
    for _ in range(2):
        arm.chunk()
        arm.run(0.25)
    arm.chunk()
    arm.run(0.1)
    arm.executor.emergency_stop(arm.clock)  # never sent
    arm.run(0.35)
    assert np.abs(arm.loop.velocity).max() < 1e-3
    assert arm.executor.status.state is ExecutorState.STOPPED


def test_an_emergency_stop_works_after_a_wrong_report_of_the_controller():
    """Before, one wrong report made the executor forget the path, and the stop sent nothing."""
    arm = Arm(update_rate_hz=250.0)
    for _ in range(3):
        arm.chunk()
        arm.run(0.25)
    wrong = arm.loop.position + [0.2, 0, 0, 0, 0, 0, 0]
    arm.executor.on_controller_reference(arm.now, wrong, np.zeros(7))
    arm.run(0.02)
    assert np.abs(arm.loop.velocity).max() > 0.3
    arm.send(arm.executor.emergency_stop(arm.clock))
    arm.run(0.25)
    assert np.abs(arm.loop.velocity).max() < 1e-3
    arm.check_limits()


def test_wrong_reports_of_the_controller_in_two_motions_do_not_add_up():
    arm = Arm(update_rate_hz=250.0)
    for direction in (1, -1):
        arm.chunk(FAST * [direction, direction, direction, 1])
        arm.run(0.25)
        wrong = arm.loop.position + [0.2, 0, 0, 0, 0, 0, 0]
        arm.executor.on_controller_reference(arm.now, wrong, np.zeros(7))
        arm.run(0.02)
        assert arm.executor.situation.moves
        arm.run(1.7)
        arm.executor.on_controller_reference(arm.now, arm.loop.position, np.zeros(7))
        arm.run(0.3)
    assert "controller" not in arm.executor.status.reason


def test_an_arm_that_does_not_stop_is_reported():
    arm = Arm()
    arm.chunk(straight(sim_arm(), (0.02, 0.0, 0.0)))
    arm.run(0.4)
    arm.send = lambda *_: None  # the link is lost
    arm.executor.emergency_stop(arm.clock)
    reasons = []
    for _ in range(80):
        arm.run(0.01)
        position = HOME + 0.4 * arm.now  # and something moves it
        arm.executor.on_joint_state(arm.now + 0.001, position, np.zeros(7))
        reasons.append(arm.executor.status.reason)
    assert any("does not stop" in reason and "still moves" in reason for reason in reasons)


def test_the_first_steps_start_as_soon_as_delivery_allows():
    arm = Arm(update_rate_hz=250.0)
    arm.chunk(FORWARD)
    arm.run(3.0)
    arm.loop.take()
    begun = arm.now
    arm.chunk(-FORWARD * [1, 1, 1, -1])
    arm.run(0.2)
    commanded = arm.loop.take()
    moved = np.abs(commanded.positions - commanded.positions[0]).max(axis=1) > 1e-6
    assert commanded.times[int(moved.argmax())] - begun <= 0.03


def move(arm, seconds=0.75):
    for _ in range(round(seconds / 0.25)):
        arm.chunk()
        arm.run(0.25)
    assert np.abs(arm.loop.velocity).max() > 0.3


@pytest.mark.parametrize("stop", ["none", "emergency stop"])
def test_an_arm_on_a_path_that_its_controller_seems_to_have_left_is_stopped(stop):
    """Before, two wrong reports made the executor forget the path: no stop could be sent."""
    arm = Arm(update_rate_hz=250.0, reports=False)
    move(arm)
    for _ in range(2):
        wrong = arm.loop.position + [0.2, 0, 0, 0, 0, 0, 0]
        arm.executor.on_controller_reference(arm.now, wrong, np.zeros(7))
        arm.run(0.02)
    assert "does not follow" in arm.executor.status.reason
    STOPS[stop](arm)
    arm.run(0.35)
    assert np.abs(arm.loop.velocity).max() < 1e-3
    arm.check_limits()


def test_a_controller_that_left_its_path_is_not_commanded_back():
    arm = Arm(update_rate_hz=250.0)
    move(arm)
    arm.loop.deactivate()
    arm.loop.activate()  # it holds its last command
    arm.run(0.2)
    assert "does not follow" in arm.executor.status.reason
    held = arm.loop.position.copy()
    arm.run(0.8)
    assert np.abs(arm.loop.position - held).max() < 1e-6


def test_an_arm_that_another_node_stops_slowly_is_not_stopped_a_second_time():
    arm = Arm(update_rate_hz=250.0, reports=False)
    move(arm)
    target = arm.loop.position + 0.25 * arm.loop.velocity
    stop = Trajectory(arm.now, LIMITS.names, np.array([0.5]), target[None], np.zeros((1, 7)))
    arm.send(stop, transit=0.0)
    arm.executor.on_controller_lost("another node sent a trajectory", arm.now, taken=True)
    arm.run(1.0)
    np.testing.assert_allclose(arm.loop.position, target, atol=1e-6)
    arm.check_limits()


@pytest.mark.parametrize("seconds", [-0.045, -0.03, -0.012, 0.008, 0.02, 0.049, 0.14, 2.0, -3.0])
@pytest.mark.parametrize("stop", ["none", "emergency stop"])
def test_a_clock_that_is_set_during_a_motion_is_no_leap_in_the_next(seconds, stop):
    """A controller plays its trajectory by a steady clock, and times a new one by the set clock.

    Before, steps of -45 to 50 ms were not noticed: 4 to 7 times the velocity limit.
    """
    for lag in (0.0, 0.05):
        arm = Arm(update_rate_hz=250.0, servo_lag_s=lag)
        move(arm)
        arm.set_clock(seconds)
        for _ in range(6):
            with contextlib.suppress(ChunkRefused):
                arm.chunk()
            arm.run(0.01)
        STOPS[stop](arm)
        arm.run(0.3)
        if stop == "emergency stop":
            assert np.abs(arm.loop.velocity).max() < 0.05
        arm.run(1.5)
        arm.check_limits(lag)
        assert "clock" in arm.executor.status.reason or stop != "none"


@pytest.mark.parametrize("seconds", [-0.045, -0.012])
def test_a_stop_is_not_sent_again_by_a_clock_that_may_have_been_set_back(seconds):
    """Before, a button that repeats its message made the controller leap: 2.8 times the limit."""
    arm = Arm(update_rate_hz=250.0)
    move(arm)
    arm.send(arm.executor.emergency_stop(arm.clock))
    arm.run(0.03)
    arm.set_clock(seconds)
    arm.run(0.01)
    arm.send(arm.executor.emergency_stop(arm.clock))
    arm.run(0.3)
    assert np.abs(arm.loop.velocity).max() < 1e-3
    arm.check_limits()


def test_a_clock_that_is_set_back_twice_delays_the_next_motion_by_no_hour():
    arm = Arm(update_rate_hz=250.0)
    move(arm)
    arm.set_clock(5.0)
    arm.run(0.05)
    arm.send(arm.executor.emergency_stop(arm.clock))
    while arm.executor.path is None or arm.clock < arm.executor.path.end:
        arm.run(0.01)
    arm.set_clock(-3600.0)
    arm.run(1.0)
    assert not arm.executor.situation.settling


def teleoperate(arm, seconds, speed=1.0):
    """Move the first joint at ``speed`` [rad/s], from where they are commanded."""
    for _ in range(round(seconds / 0.02)):
        arm.target = getattr(arm, "target", HOME) + 0.02 * speed * (np.arange(7) == 0)
        with contextlib.suppress(MotionRefused):
            arm.send(arm.executor.on_teleoperation(arm.clock, arm.target, np.zeros(7), arm.clock))
        arm.run(0.02)


class FrozenLoop(ControlLoop):
    """A control loop whose driver can freeze: it then reports the same joints again and again."""

    frozen = None

    @property
    def measured(self):
        return super().measured if self.frozen is None else self.frozen

    @property
    def measured_velocity(self):
        return super().measured_velocity if self.frozen is None else 0.0 * self.frozen


def test_a_driver_that_freezes_does_not_make_the_controller_jump_to_frozen_joints():
    """Before, it was met where it was measured: the controller bridged from there, 28 times the
    velocity limit.
    """
    arm = Arm(update_rate_hz=250.0, loop=FrozenLoop)
    teleoperate(arm, 0.5)
    arm.loop.frozen = arm.loop.position.copy()
    teleoperate(arm, 0.6)
    assert "does not move" in arm.executor.status.reason
    arm.check_limits()


@pytest.mark.parametrize("lag", [0.0, 0.05])
def test_an_operator_who_starts_at_once_does_not_disturb_the_way_to_the_first_point(lag):
    """No report says that the controller commands more than the drooping arm shows."""
    arm = Arm(update_rate_hz=250.0, servo_lag_s=lag, reports=False, desired=True)
    arm.loop.offset[:6] = -0.04
    arm.run(1.0)
    arm.executor.deactivate(arm.now)
    arm.executor.activate(arm.now)
    teleoperate(arm, 0.8)
    arm.run(1.0)
    arm.check_limits()


@pytest.mark.parametrize("clock", [-0.03, 0.0])
def test_a_motion_right_after_a_stop_waits_for_a_controller_whose_clock_is_behind(clock):
    """Before, it began at the end of a stop that the controller still executed."""
    arm = Arm(update_rate_hz=500.0, clock_offset_s=clock)
    for pause in (0.0, 0.01, 0.02):
        move(arm, 0.5)
        arm.send(arm.executor.pause(True, arm.clock))
        arm.executor.pause(False, arm.clock)
        end = arm.executor.path.end
        while arm.now < end + pause:
            arm.run(0.01)
        arm.chunk(-FAST * [1, 1, 1, -1], age=0.0)
        arm.run(1.5)
    arm.check_limits()
