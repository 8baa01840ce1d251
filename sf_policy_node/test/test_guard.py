"""The guard finds every violation of a limit, independently of how a motion was planned."""

import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, HOME, kinematics, sim_arm

from sf_policy_node.contract import ContractError, parse_contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.refusals import MotionRefused
from sf_policy_node.motion.safety.commanded import CommandedPath, Start
from sf_policy_node.motion.safety.guard import Guard
from sf_policy_node.motion.safety.meeting import meeting_times, samples
from sf_policy_node.motion.safety.verification import Motion, find_violation

PERIOD = 0.02
LIMITS = JointLimits.of(sim_arm())
WORKSPACE = Workspace(sim_arm(), kinematics())


def there_and_stop(joint=0, acceleration=1.0, seconds=0.2, start=HOME):
    """Return a motion that accelerates one joint and brakes it again, exactly at the limit."""
    count = round(seconds / PERIOD)
    rates = np.concatenate([np.full(count, acceleration), np.full(count, -acceleration)])
    velocity = np.concatenate([[0.0], np.cumsum(rates) * PERIOD])
    velocity[-1] = 0.0
    positions = np.tile(start, (len(velocity), 1))
    positions[1:, joint] += np.cumsum(0.5 * (velocity[1:] + velocity[:-1])) * PERIOD
    velocities = np.zeros_like(positions)
    velocities[:, joint] = velocity
    return Motion(PERIOD, positions, velocities)


def changed(motion, **arrays):
    return dataclasses.replace(motion, **arrays)


def test_a_motion_inside_all_limits_passes():
    assert find_violation(there_and_stop(), LIMITS, WORKSPACE) == ""


@pytest.mark.parametrize(
    ("motion", "sentence"),
    [
        (there_and_stop(0, 13.0, 0.1), "joint1 would accelerate more than its limit"),
        (there_and_stop(5, 18.0, 0.2), "joint6 would be faster than its velocity limit"),
        (there_and_stop(0, 5.0, 0.3), "the tool would"),
        (
            there_and_stop(5, 5.0, 0.2, start=np.array([0, 0.4, 1.4, 1.3, 0, 2.95, 0.035])),
            "joint6 would leave its position limits",
        ),
        (
            changed(there_and_stop(), velocities=np.ones_like(there_and_stop().velocities)),
            "does not end at rest",
        ),
        (
            changed(there_and_stop(), positions=np.full_like(there_and_stop().positions, np.nan)),
            "not finite",
        ),
        (changed(there_and_stop(), positions=there_and_stop().positions[:, :5]), "for 7 joints"),
    ],
)
def test_a_violation_is_a_sentence_that_names_the_joint(motion, sentence):
    assert sentence in find_violation(motion, LIMITS, WORKSPACE)


def test_a_step_in_position_counts_as_an_acceleration():
    motion = there_and_stop()
    positions = motion.positions.copy()
    positions[5:, 3] += 0.01
    assert "joint4 would accelerate" in find_violation(
        changed(motion, positions=positions), LIMITS, WORKSPACE
    )


def test_the_tool_speed_limit_holds_although_every_joint_keeps_its_own():
    slow = parse_contract(
        yaml.safe_dump(_contract(workspace={"tool_speed": 0.05})), sim_arm().urdf_xml
    )
    sentence = find_violation(there_and_stop(), LIMITS, Workspace(slow, kinematics()))
    assert "workspace.tool_speed allows 0.05" in sentence


def test_a_motion_that_starts_outside_a_limit_may_come_back():
    outside = HOME.copy()
    outside[5] = 3.05
    assert find_violation(there_and_stop(5, -2.0, start=outside), LIMITS, None) == ""
    assert "joint6" in find_violation(there_and_stop(5, 2.0, start=outside), LIMITS, None)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["position", "velocity", "acceleration"]),
    joint=st.integers(0, 5),
    factor=st.floats(1.05, 50.0),
)
def test_no_motion_that_breaks_a_limit_passes(seed, kind, joint, factor):
    """A random admissible motion of all joints is changed so that one joint breaks a limit."""
    rng = np.random.default_rng(seed)
    parts = [there_and_stop(j, rng.uniform(-1, 1) * 0.3, 0.2) for j in range(6)]
    positions = HOME + sum(part.positions - HOME for part in parts)
    velocities = sum(part.velocities for part in parts)
    assert find_violation(Motion(PERIOD, positions, velocities), LIMITS, None) == ""
    row = rng.integers(1, len(positions) - 1)
    if kind == "position":
        positions = positions.copy()
        positions[row, joint] = LIMITS.upper[joint] + 0.02 * factor
    elif kind == "velocity":
        velocities = velocities.copy()
        velocities[row, joint] = LIMITS.velocity[joint] * factor
    else:
        speed = there_and_stop(joint, LIMITS.acceleration[joint] * factor, PERIOD)
        positions, velocities = speed.positions, speed.velocities
    assert LIMITS.names[joint] in find_violation(
        Motion(PERIOD, positions, velocities), LIMITS, None
    )


def steady(guard, position=HOME, until=0.0):
    for n in range(30, -1, -1):
        guard.monitor.add(until - 0.01 * n, position, np.zeros(7))


def test_the_guard_keeps_the_current_path_when_it_refuses_a_motion():
    guard = Guard(sim_arm(), WORKSPACE)
    with pytest.raises(MotionRefused, match="no joint states"):
        guard.start(0.0)
    steady(guard)
    start = guard.start(0.0)
    motion = there_and_stop(0, 13.0)
    with pytest.raises(MotionRefused, match="the guard refuses the motion: joint1"):
        guard.admit(start, motion.positions[1:], motion.velocities[1:], 0.0)
    assert guard.path is None and guard.refusals == 1


def test_every_motion_starts_at_the_last_command():
    """The guard refuses a motion on a path that it did not create."""
    guard = Guard(sim_arm(), WORKSPACE)
    steady(guard)
    motion = there_and_stop(0, 5.0)
    guard.admit(guard.start(0.0), motion.positions[1:], motion.velocities[1:], 0.0)
    end = guard.path.positions[-1]
    beside = CommandedPath.resting(2.0, PERIOD, end + [0.01, 0, 0, 0, 0, 0, 0])
    start = Start(beside, 0, 2.0, *beside.at(0), False)
    path = guard.path
    with pytest.raises(MotionRefused, match="does not start at the last command"):
        guard.admit(start, beside.positions, beside.velocities, 2.0)
    assert guard.path is path


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_meeting_point_keeps_the_limits_from_every_possible_state(seed):
    rng = np.random.default_rng(seed)
    middle = 0.5 * (LIMITS.lower + LIMITS.upper)
    spread = 0.2 * (LIMITS.upper - LIMITS.lower)
    position = middle + rng.uniform(-spread, spread)
    starts = [
        (
            middle + rng.uniform(-spread, spread),
            rng.uniform(-0.3, 0.3, 7) * LIMITS.velocity * [1, 1, 1, 1, 1, 1, 0.0],
        )
        for _ in range(3)
    ]
    duration = next(meeting_times(starts, position, LIMITS, PERIOD, bounded=True))
    for start in starts:
        positions, velocities = samples(*start, position, duration, PERIOD)
        motion = Motion(PERIOD, np.vstack([start[0], positions]), np.vstack([start[1], velocities]))
        assert find_violation(motion, LIMITS, None) == ""
        assert positions[-1] == pytest.approx(position)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"budgets": {"hold_s": None}}, "budgets.hold_s"),
        ({"budgets": {"teleop_age_s": None}}, "budgets.teleop_age_s"),
        ({"workspace": {"tool_speed": None}}, "workspace.tool_speed"),
        ({"joints": {"step": None}}, "joints.joint1.step"),
        ({"budgets": {"hold_s": 0.2}}, "budgets.hold_s: 0.2 s is too short"),
    ],
)
def test_an_executor_refuses_a_contract_without_explicit_limits(change, key):
    contract = parse_contract(yaml.safe_dump(_contract(**change)), sim_arm().urdf_xml)
    with pytest.raises(ContractError, match=key):
        ChunkExecutor(contract)


def _contract(**changes):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    for section, values in changes.items():
        for part in data[section] if isinstance(data[section], list) else [data[section]]:
            part.update(values)
    return data
