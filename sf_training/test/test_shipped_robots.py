"""Tests of every robot of config/robots: loading, simulation, random chunks within limits."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pinocchio
import pytest

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract, load_contract
from sf_policy_node.motion.arm.collision import Box, CollisionModel
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.homing import Pose
from sf_policy_node.motion.types import Chunk
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.joint_operator import demonstrate_joints
from sf_training.simulation.one_arm import in_base_frame

FOLDER = Path(__file__).parents[2] / "sf_bringup/config/robots"
ROBOTS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "sim_arm")
CHUNKS = 3  # per robot; `python3 test_shipped_robots.py` runs 100
_TICK = 0.01  # s
_HOMING_S = 0.05  # between two trajectories of homing, as in the executor's node
_EVERY = 4  # physics steps from one collision check of the observer to the next


@cache
def contract_of(robot: str) -> Contract:
    return load_contract(FOLDER / f"{robot}.yaml")


class Follower:
    """Executor and simulated arm; ``violations`` come from the arm's own steps."""

    def __init__(self, contract: Contract) -> None:
        self.contract, self.limits = contract, JointLimits.of(contract)
        self.sim, self.executor = ArmSim(contract, render=False), ChunkExecutor(contract)
        self.commands, self.action = contract.columns.commands, contract.columns.action
        self.is_joint = self.commands.mask(ColumnKind.JOINT)
        self.arms = [
            (
                Kinematics(contract, name),
                self.commands.indices(ColumnKind.JOINT, arm=name),
                arm.workspace,
            )
            for name, arm in in_base_frame(contract).arms.items()
        ]
        parts = self.sim._parts
        cubes = Box(
            "cubes", (-2.0, -2.0, -2.0), (2.0, 2.0, parts.table + parts.pedestal_height + 0.04)
        )
        self.collisions = CollisionModel.of(contract, boxes=[cubes])
        self._contact = CollisionModel.of(contract, margin=0.0)
        self.sequence, self.violations = 0, []
        self.setpoints: list[np.ndarray] = []
        self.sim.reset(0)
        for _ in range(50):  # half a second: the executor checks the joint states before motion
            self.sim.step(round(_TICK / ArmSim.TIMESTEP))
            self._report()
        self.executor.activate(self.sim.time)

    def follow(self, target: np.ndarray) -> np.ndarray:
        """Send one chunk to ``target`` (J,), let it end, and return the final joints."""
        contract, begin = self.contract, self.sim.joint_positions()
        share = np.minimum(
            1.0, np.arange(1, contract.action.horizon + 1) / (contract.action.horizon - 6)
        )
        share = share**2 * (3.0 - 2.0 * share)  # at rest at both ends, as the limits require
        rows = begin + share[:, None] * (target - begin)
        data = np.empty((len(rows), len(self.action)))
        data[:, self.action.indices(ColumnKind.JOINT)] = rows[:, self.is_joint]
        for name, arm in contract.arms.items():
            fingers = rows[:, self.commands.indices(ColumnKind.GRIPPER, arm=name)]
            for column in self.action.indices(ColumnKind.GRIPPER, arm=name):
                data[:, column] = [arm.gripper.mean_opening(each) for each in fingers]
        identity = {"policy_id": "test", "instruction": "go", "epoch": 1, "sequence": self.sequence}
        self.sequence += 1
        chunk = Chunk.of(
            contract,
            data,
            stamp=self.sim.time,
            reference=begin,
            inference_latency_s=0.0,
            **identity,
        )
        self._send(self.executor.on_chunk(chunk, self.sim.time))
        self._run(contract.action.horizon * contract.action.step_s + contract.budgets.hold_s)
        self._judge()
        return self.sim.joint_positions()

    def go_home(self, pose: Pose = Pose.HOME) -> np.ndarray:
        """Move all arms to their home or rest pose, and return the measured positions (J,)."""
        self.executor.go_home(self.sim.time, pose=pose)
        while self.executor.homing is not None:
            self._send(self.executor.continue_homing(self.sim.time))
            self._run(_HOMING_S)
        self._run(0.5)
        self._judge()
        return self.sim.joint_positions()

    def _run(self, seconds: float) -> None:
        for _ in range(round(seconds / _TICK)):
            self._send(self.executor.tick(self.sim.time))
            for _ in range(round(_TICK / ArmSim.TIMESTEP)):
                self.setpoints.append(self.sim.controller.sample(self.sim.time)[0].copy())
                self.sim.step()
            self._report()

    def random_target(self, random: np.random.Generator) -> np.ndarray:
        """Return a nearby pose within box and limits without self-collision."""
        begin, lower, upper = self.sim.joint_positions(), self.limits.lower, self.limits.upper
        horizon, step = self.contract.action.horizon, self.contract.action.step_s
        seconds = (horizon - 6) * step
        for attempt in range(1000):
            reach = 0.2 * (1.0 - attempt / 1000) * (upper - lower)
            target = np.clip(
                begin + random.uniform(-reach, reach),
                lower + 0.02 * (upper - lower),
                upper - 0.02 * (upper - lower),
            )
            way = begin + np.linspace(0.0, 1.0, 40)[:, None] * (target - begin)
            slow = np.abs(target - begin) / seconds < 0.35 * self.limits.velocity
            if (
                slow[self.is_joint].all()
                and all(self._fits(way, seconds, *each) for each in self.arms)
                and self.collisions.first_collision(way[1:], begin) is None
            ):
                return target
        raise AssertionError("no reachable target near the arm")

    @staticmethod
    def _fits(way: np.ndarray, seconds: float, kinematics, columns, box) -> bool:
        """Return whether the tool stays inside its box, at half of the allowed speed at most."""
        tool, _ = kinematics.tool_motion(way[:, columns])
        speed = np.linalg.norm(np.diff(tool, axis=0), axis=1).max() * (len(way) - 1) / seconds
        return _inside(tool, box, -0.01) and speed < 0.5 * box.tool_speed

    def _send(self, trajectory) -> None:
        if trajectory is not None:
            self.sim.controller.accept(trajectory, self.sim.time)

    def _report(self) -> None:
        self.executor.on_joint_state(
            self.sim.time, self.sim.joint_positions(), self.sim.joint_velocities()
        )

    def _judge(self) -> None:
        path, limits, step = np.array(self.setpoints), self.limits, ArmSim.TIMESTEP
        self.setpoints = self.setpoints[-2:]
        speed, bend = np.diff(path, axis=0) / step, np.diff(path, 2, axis=0) / step**2
        checks = {
            "position": (path >= limits.lower - 1e-6).all() and (path <= limits.upper + 1e-6).all(),
            "velocity": (np.abs(speed) <= 1.01 * limits.velocity).all(),
            "acceleration": (np.abs(bend) <= 1.1 * limits.acceleration).all(),
            "workspace": all(
                _inside(kinematics.tool_motion(path[:, columns])[0], box, 2e-3)
                for kinematics, columns, box in self.arms
            ),
            "tool speed": all(
                (_speed(kinematics, path[:, columns]) <= 1.05 * box.tool_speed).all()
                for kinematics, columns, box in self.arms
            ),
            "collision": self._contact.first_collision(path[::_EVERY]) is None,
            "clip": not (
                self.sim.controller.position_clips.any() or self.sim.controller.velocity_clips.any()
            ),
        }
        self.violations += [name for name, holds in checks.items() if not holds]


def _speed(kinematics: Kinematics, path: np.ndarray) -> np.ndarray:
    """Return the speed of the tool [m/s] between physics steps."""
    tool, _ = kinematics.tool_motion(path)
    return np.linalg.norm(np.diff(tool, axis=0), axis=1) / ArmSim.TIMESTEP


def _inside(positions: np.ndarray, box, room: float) -> bool:
    lower, upper = np.array(box.lower) - room, np.array(box.upper) + room
    return bool((positions >= lower).all() and (positions <= upper).all())


@pytest.mark.parametrize("robot", ROBOTS)
def test_limits_are_those_of_the_urdf_or_narrower(robot):
    contract = contract_of(robot)
    model = pinocchio.buildModelFromXML(contract.urdf_xml)
    for joint in (joint for arm in contract.arms.values() for joint in arm.joints):
        kind = model.joints[model.getJointId(joint.name)]
        assert model.lowerPositionLimit[kind.idx_q] - 1e-4 <= joint.lower
        assert joint.upper <= model.upperPositionLimit[kind.idx_q] + 1e-4
        assert joint.velocity <= model.upperVelocityLimit[kind.idx_v] + 1e-4


@pytest.mark.parametrize("robot", ROBOTS)
def test_cameras_see_cubes_and_the_tool_pose_equals_the_urdf(robot):
    contract = contract_of(robot)
    small = [camera.model_copy(update={"width": 240, "height": 180}) for camera in contract.cameras]
    sim = ArmSim(contract.model_copy(update={"cameras": small}))
    try:
        sim.reset(1)
        for arm in contract.arms:
            columns = contract.columns.commands.indices(ColumnKind.JOINT, arm=arm)
            pose = Kinematics(contract, arm).forward(sim.joint_positions()[columns])
            np.testing.assert_allclose(pose.position, sim.tool_position(arm), atol=1e-6)
            turned = sim._data.site(f"tool/{arm}").xmat.reshape(3, 3)
            np.testing.assert_allclose(pose.rotation, turned, atol=1e-6)
        pixels = sim.render(contract.cameras[0].name).astype(int)
        assert (pixels.max(axis=-1) - pixels.min(axis=-1) > 90).sum() > 20
        before = sim.joint_positions()
        sim.step(100)
        np.testing.assert_allclose(sim.joint_positions(), before, atol=2e-3)
    finally:
        sim.close()


@pytest.mark.parametrize("robot", [*ROBOTS, "sim_arm"])
def test_random_chunks_are_followed_without_a_violation(robot):
    assert follow_chunks(robot, CHUNKS) == (CHUNKS, [])


@pytest.mark.parametrize("robot", ROBOTS)
def test_home_pose_is_reached_without_a_violation(robot):
    contract = contract_of(robot)
    follower, is_joint = Follower(contract), contract.columns.commands.mask(ColumnKind.JOINT)
    start = follower.sim.joint_positions()
    home = np.concatenate([arm.home for arm in contract.arms.values()])
    assert np.abs(start[is_joint] - home).max() > 0.05
    np.testing.assert_allclose(follower.go_home()[is_joint], home, atol=0.005)
    assert follower.violations == []


@pytest.mark.parametrize("robot", ROBOTS)
def test_grippers_close_and_open_completely(robot):
    follower = Follower(joint_positions(contract_of(robot)))
    follower.go_home()
    for opening in (0.0, 1.0, 0.0):
        target = follower.sim.joint_positions()
        for name, arm in follower.contract.arms.items():
            fingers = follower.commands.indices(ColumnKind.GRIPPER, arm=name)
            target[fingers] = arm.gripper.to_joints(opening)
        for _ in range(3):  # a slow gripper needs more than one chunk
            positions = follower.follow(target)
        np.testing.assert_allclose(positions, target, atol=0.01)
    assert follower.violations == []


FALLING = ["piper", "piper_pair", "so101", "so101_pair", "vx300s_pair"]


@pytest.mark.parametrize("robot", FALLING)
def test_arms_that_fall_without_power_reach_their_rest_pose_at_shutdown(robot):
    contract = contract_of(robot)
    follower, is_joint = Follower(contract), contract.columns.commands.mask(ColumnKind.JOINT)
    rest = np.concatenate([arm.rest for arm in contract.arms.values()])
    follower.go_home()
    positions = follower.go_home(Pose.REST)
    np.testing.assert_allclose(positions[is_joint], rest, atol=0.005)
    assert CollisionModel.of(contract).nearest(positions[None])[0].distance > 0.006
    assert follower.violations == []


@pytest.mark.parametrize("robot", sorted(set(ROBOTS) - set(FALLING)))
def test_arms_with_brakes_do_not_move_at_shutdown(robot):
    assert [arm.rest for arm in contract_of(robot).arms.values()] == [None]


def test_scripted_expert_picks_with_a_gripper_of_which_one_jaw_moves():
    contract = contract_of("so101")
    small = [camera.model_copy(update={"width": 32, "height": 24}) for camera in contract.cameras]
    contract = contract.model_copy(update={"cameras": small})
    sim = ArmSim(contract)
    try:
        sim.reset(1)
        for _ in demonstrate_joints(sim, contract, np.random.default_rng(1)):
            pass
        assert sim.task_state().picked()
    finally:
        sim.close()


def test_observer_sees_what_breaks_a_limit():
    follower = Follower(joint_positions(contract_of("piper_pair")))
    target = follower.random_target(np.random.default_rng(0))
    follower.limits = replace(follower.limits, velocity=0.1 * follower.limits.velocity)
    follower._contact = CollisionModel.of(follower.contract, margin=0.3)
    follower.follow(target)
    assert {"velocity", "collision"} <= set(follower.violations)


def follow_chunks(robot: str, count: int) -> tuple[int, list[str]]:
    """Return the number of random chunks that reached their target, and the violations."""
    follower, random, arrived = (
        Follower(joint_positions(contract_of(robot))),
        np.random.default_rng(0),
        0,
    )
    for _ in range(count):
        target = follower.random_target(random)
        arrived += bool((np.abs(follower.follow(target) - target) < 0.005).all())
    return arrived, follower.violations


def joint_positions(contract: Contract) -> Contract:
    """Return the contract with joint targets, whatever its own action space is."""
    if contract.action.space is ActionSpace.JOINT_POSITION:
        return contract
    names = [*contract.arm_joints, "gripper"]
    action = contract.action.model_copy(
        update={"space": ActionSpace.JOINT_POSITION, "names": names}
    )
    return contract.model_copy(update={"action": action})


def test_ur5e_agrees_with_the_published_dh_parameters():
    """https://www.universal-robots.com/articles/ur/application-installation/dh-parameters-for-calculations-of-kinematics-and-dynamics"""
    a, d = [0.0, -0.425, -0.3922, 0.0, 0.0, 0.0], [0.1625, 0.0, 0.0, 0.1333, 0.0997, 0.0996]
    alpha = [np.pi / 2, 0.0, 0.0, np.pi / 2, -np.pi / 2, 0.0]
    contract = contract_of("ur5e_robotiq")
    kinematics = Kinematics(contract.model_copy(update={"tool_frame": "tool0"}))
    for joints in np.random.default_rng(0).uniform(-2.0, 2.0, (5, 6)):
        pose = pinocchio.SE3.Identity()
        for q, length, offset, twist in zip(joints, a, d, alpha, strict=True):
            turn = pinocchio.SE3(
                pinocchio.exp3(np.array([0.0, 0.0, q])), np.array([0.0, 0.0, offset])
            )
            pose = (
                pose
                * turn
                * pinocchio.SE3(
                    pinocchio.exp3(np.array([twist, 0.0, 0.0])), np.array([length, 0.0, 0.0])
                )
            )
        half_turn = np.diag([-1.0, -1.0, 1.0])  # of the DH base against base_link (REP 199)
        np.testing.assert_allclose(
            kinematics.forward(joints).position, half_turn @ pose.translation, atol=1e-6
        )


if __name__ == "__main__":
    for name in [*ROBOTS, "sim_arm"]:
        print(name, *follow_chunks(name, 100), flush=True)
