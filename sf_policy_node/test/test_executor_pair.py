"""Two arms on one timeline, each with its own controller: a fault of one arm stops both.

The tests check the commands to the hardware of each arm in every cycle. The controllers are models
of the real one.
"""

import contextlib

import numpy as np
import pytest
from arm_pair import PAIR_HOME, pair
from faulty_driver import FaultyDriver
from motion_cases import make_chunk, sim_arm

from sf_policy_node.controller.control_loop import ControlLoop
from sf_policy_node.motion.arm.collision import CollisionModel
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.state_machine import State
from sf_policy_node.motion.types import of_joints

TICK = 0.01
LIMITS = JointLimits.of(pair())
LEFT, RIGHT = (np.array(joints) for joints in pair().command_groups.values())
TURN = np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0])  # rad per step of a chunk: 0.5 rad/s


def rows(left=TURN, right=-TURN, start=PAIR_HOME):
    """Return the joint targets of a chunk that moves both arms steadily from ``start``."""
    data = start + np.arange(1, 9)[:, None] * np.concatenate([left, right])
    data[:, [6, 13]] = 1.0
    return data


class Pair:
    """An executor, and for each arm a controller with servos; messages take 4 ms."""

    def __init__(self, contract=None, **options):
        self.contract = contract or pair()
        self.loops = [
            ControlLoop(
                [LIMITS.names[joint] for joint in joints], PAIR_HOME[joints], 0.0, **options
            )
            for joints in (LEFT, RIGHT)
        ]
        self.now, self.sequence, self.mail, self.places = 0.0, 0, [], []
        self.driver = lambda stamp, position, velocity: [(stamp, position, velocity)]
        self.sent = []
        self.executor = ChunkExecutor(self.contract, stopwatch=lambda: self.now)
        self.executor.activate(0.0)
        self.run(0.5)

    def run(self, seconds):
        for _ in range(round(seconds / TICK)):
            self.now = round(self.now + TICK, 6)
            for arrival, trajectory in [mail for mail in self.mail if mail[0] <= self.now]:
                for loop, joints in zip(self.loops, (LEFT, RIGHT), strict=True):
                    if not set(joints.tolist()) & set(trajectory.left_out):
                        loop.receive(of_joints(trajectory, joints).held(), arrival)
            self.mail = [mail for mail in self.mail if mail[0] > self.now]
            for loop in self.loops:
                loop.advance(self.now)
            for reading in self.driver(self.now, self.position, self.velocity):
                self.executor.on_joint_state(*reading)
            self.places.append((self.now, self.position))
            self.send(self.executor.tick(self.now))

    @property
    def position(self):
        return np.concatenate([loop.position for loop in self.loops])

    @property
    def velocity(self):
        return np.concatenate([loop.velocity for loop in self.loops])

    def send(self, trajectory):
        if trajectory is not None:
            self.sent.append(trajectory)
            self.mail.append((self.now + 0.004, trajectory))

    def chunk(self, data=None, age=0.1, epoch=None):
        self.sequence += 1
        stamp, point = self.places[-1 - round(age / TICK)]
        epoch = self.sequence if epoch is None else epoch
        chunk = make_chunk(
            self.contract,
            rows(start=point) if data is None else data,
            stamp=stamp,
            sequence=self.sequence,
            epoch=epoch,
            reference=point,
        )
        self.send(self.executor.on_chunk(chunk, self.now))

    def keep_moving(self, times=2):
        for _ in range(times):
            self.chunk()
            self.run(0.25)
        assert (np.abs(self.velocity[[0, 7]]) > 0.3).all(), "both arms move"

    def shares(self):
        """Return peak velocity and acceleration commanded to each arm, as shares of the limits."""
        result = []
        for loop, joints in zip(self.loops, (LEFT, RIGHT), strict=True):
            commanded = loop.take()
            velocity = np.abs(commanded.velocities) / LIMITS.velocity[joints]
            acceleration = np.abs(commanded.accelerations) / LIMITS.acceleration[joints]
            result.append((float(velocity.max()), float(acceleration.max())))
        return result

    def assert_inside_limits(self, acceleration=1.05):
        for arm, (speed, change) in zip(self.contract.arms, self.shares(), strict=True):
            assert speed <= 1.02 and change <= acceleration, (arm, speed, change)


def with_offset(joints, seconds, by):
    """Return a driver that adds ``by`` to some joints for ``seconds`` from its installation."""

    def install(pair_):
        until = pair_.now + seconds

        def driver(stamp, position, velocity):
            measured = position.copy()
            if stamp <= until:
                measured[joints] += by
            return [(stamp, measured, velocity)]

        pair_.driver = driver

    return install


def test_both_arms_execute_one_chunk_on_one_timeline():
    robot = Pair()
    robot.chunk(rows(), age=0.0)
    robot.run(2.0)
    assert np.allclose(robot.position[[0, 7]], [0.4, -0.4], atol=2e-3)
    stamps = {trajectory.stamp for trajectory in robot.sent}
    parts = [of_joints(robot.sent[0], joints) for joints in (LEFT, RIGHT)]
    assert len(stamps) == 1 and parts[0].stamp == parts[1].stamp
    assert parts[1].joint_names[0] == "right_joint1"
    robot.assert_inside_limits()


@pytest.mark.parametrize("arm", [0, 1])
def test_a_faulty_encoder_of_one_arm_stops_both_inside_the_limits(arm):
    robot = Pair()
    robot.keep_moving()
    with_offset([7 * arm + 1], 5.0, 0.9)(robot)
    robot.run(0.5)
    assert np.abs(robot.velocity).max() < 1e-3
    reason = robot.executor.status.reason
    assert pair().command_joints[7 * arm + 1] in reason and "sensor" in reason
    assert robot.executor.situation.state is State.BLOCKED
    robot.assert_inside_limits()
    with pytest.raises(ChunkRefused):
        robot.chunk(epoch=0)


@pytest.mark.parametrize("arm", [0, 1])
def test_a_controller_that_stops_following_stops_the_other_arm(arm):
    """The controller does not report it: only the measured joints show it."""
    robot = Pair()
    robot.keep_moving()
    start = robot.position
    robot.loops[arm].deactivate()
    before = robot.now
    while np.abs(robot.velocity).max() > 1e-3 and robot.now < before + 2.5:
        if robot.executor.situation.state is State.FOLLOWING:
            way = (robot.now - before) / 0.1 * np.concatenate([TURN, -TURN])
            with contextlib.suppress(ChunkRefused):
                robot.chunk(rows(start=start + way), age=0.0)
        robot.run(0.1)
    assert robot.now < before + 2.0, "the other arm must stop as well"
    name = ("left", "right")[arm]
    reason = robot.executor.status.reason
    assert f"{name}_joint" in reason and "does not move" in reason, "though the other one moves"
    other = robot.shares()[1 - arm]  # the stopped controller itself exceeds the limits
    assert other[0] <= 1.02 and other[1] <= 1.05


def test_a_lost_controller_is_sent_nothing_and_the_other_one_stops():
    robot = Pair()
    robot.keep_moving()
    robot.run(0.05)
    robot.loops[0].deactivate()
    point = robot.loops[0].commanded.copy()
    robot.loops[0].activate()  # restarted: it holds the position where the arm is
    stop = robot.executor.on_controller_lost("the controller was restarted", robot.now, LEFT)
    assert stop is not None and set(stop.left_out) == set(LEFT.tolist())
    robot.send(stop)
    robot.run(0.3)
    assert np.abs(robot.velocity).max() < 1e-3
    assert np.abs(robot.loops[0].commanded - point).max() < 0.02, "the left arm held position"
    assert "restarted" in robot.executor.status.reason
    for loop in robot.loops:
        loop.take()  # the left arm stopped in one step
    robot.run(0.5)
    robot.chunk(rows(start=robot.position), age=0.0)
    robot.run(2.0)
    assert np.abs(robot.velocity).max() < 1e-3
    robot.assert_inside_limits()


def test_a_controller_is_lost_while_the_clock_is_read_late_and_the_other_one_stops():
    """Before, no stop was planned then, and the path was forgotten: the other arm moved on."""
    robot = Pair()
    robot.keep_moving()
    robot.loops[0].deactivate()
    robot.loops[0].activate()
    robot.send(robot.executor.on_controller_lost("it was restarted", robot.now - 0.006, LEFT))
    robot.run(0.35)
    assert np.abs(robot.velocity).max() < 1e-3
    speed, change = robot.shares()[1]
    assert speed <= 1.02 and change <= 1.05, (speed, change)


def test_an_emergency_stop_stops_both_arms_together():
    robot = Pair()
    robot.keep_moving()
    robot.send(robot.executor.on_emergency_stop(True, robot.now))
    robot.run(0.3)
    assert np.abs(robot.velocity).max() < 1e-3
    robot.assert_inside_limits()


@pytest.mark.parametrize("seed", range(6))
def test_no_faulty_joint_states_of_one_arm_make_either_break_a_limit(seed):
    rng = np.random.default_rng(seed)
    robot = Pair(update_rate_hz=100.0, servo_lag_s=0.02)
    faulty = FaultyDriver(rng, 7)

    def driver(stamp, position, velocity):
        return [
            (when, np.append(point, position[7:]), np.append(speed, velocity[7:]))
            for when, point, speed in faulty(stamp, position[:7], velocity[:7])
        ]

    robot.driver = driver
    for _ in range(8):
        with contextlib.suppress(ChunkRefused):
            way = TURN * rng.uniform(-1.0, 1.0)
            robot.chunk(rows(way, -way, start=robot.position))
        robot.run(float(rng.choice([0.1, 0.25])))
    robot.send(robot.executor.on_emergency_stop(True, robot.now))
    robot.run(1.0)
    assert np.abs(robot.velocity).max() < 1e-3
    robot.assert_inside_limits(acceleration=1.2)


# ---- interaction of the arms ----


def test_arms_that_would_collide_stop_before_and_both_links_are_named():
    robot = Pair(pair(apart=0.16))
    for _ in range(8):
        with contextlib.suppress(ChunkRefused):
            robot.chunk(rows(-2.0 * TURN, 2.0 * TURN, start=robot.position), age=0.0)
        robot.run(0.25)
    robot.run(1.5)
    assert np.abs(robot.velocity).max() < 1e-3
    reason = robot.executor.status.reason
    assert "left_" in reason and "right_" in reason and "would" in reason
    assert robot.position[0] > -1.2, "both turned towards each other and were cut"
    assert robot.executor.status.workspace_clips > 0
    robot.assert_inside_limits()


def test_an_arm_is_checked_against_the_base_of_the_other_one():
    one, two = CollisionModel.of(sim_arm()), CollisionModel.of(pair())
    assert ("right_base_link", "left_link1") in two.checked
    assert ("left_base_link", "left_link1") in two.allowed
    radii = [{shape.capsule.radius for shape in model.shapes} for model in (one, two)]
    assert radii[0] == radii[1], "how far apart they stand does not make arms thicker"


def test_each_arm_has_its_own_box_and_tool_speed():
    robot = Pair()
    lift = np.array([0.0, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(12):
        with contextlib.suppress(ChunkRefused):
            robot.chunk(rows(0.0 * lift, lift, start=robot.position), age=0.0)
        robot.run(0.2)
    robot.run(1.5)
    assert "right: " in robot.executor.status.reason and "box" in robot.executor.status.reason
    robot.assert_inside_limits()


def test_tool_actions_of_each_arm_are_in_the_common_base_frame():
    contract = pair("ee_delta")
    robot = Pair(contract)
    executor = robot.executor
    boxes = executor._policy._planner._workspace.boxes
    before = [box.tool_positions(robot.position[None])[0] for box in boxes.values()]
    data = np.zeros((8, 8))
    data[:, 0], data[:, 5] = 0.005 * np.arange(1, 9), -0.005 * np.arange(1, 9)
    data[:, [3, 7]] = 1.0
    robot.chunk(data, age=0.0)
    robot.run(2.0)
    after = [box.tool_positions(robot.position[None])[0] for box in boxes.values()]
    assert np.allclose(after[0] - before[0], [0.04, 0.0, 0.0], atol=2e-3)
    assert np.allclose(after[1] - before[1], [0.0, -0.04, 0.0], atol=2e-3)
    robot.assert_inside_limits()


def test_the_gripper_of_each_arm_follows_its_own_column():
    robot = Pair()
    data = rows(0.0 * TURN, 0.0 * TURN)
    data[:, 6], data[:, 13] = 0.0, 1.0
    robot.chunk(data, age=0.0)
    robot.run(1.5)
    assert np.allclose(robot.position[[6, 13]], [0.0, 0.035], atol=1e-3)
