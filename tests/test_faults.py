"""Tests of fault injection with real processes, and of the observer that judges them.

``make faults`` runs all cases; here a selection runs in one graph.
"""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from faults.faulty_arm import FaultyArm, faulty_arm
from faults.injector import corrupted, remappings, stamp_of, with_stamp
from faults.memory import BASELINE_S, MemoryWatch
from faults.motion_check import MotionCheck
from faults.observer import MotionObserver
from faults.processes import Processes
from faults.run import cases_of_the_robot
from faults.trial import Outcome, carry_out
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_msgs.msg import ActionChunk
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.simulation.arm_sim import TOOL_DOWN, ArmSim
from sf_training.simulation.motion_trace import Motion, MotionTrace

CONTRACT = load_contract(find_robot("sim_arm"))
KINEMATICS = Kinematics(CONTRACT)
STEP = ArmSim.TIMESTEP
VELOCITY = np.array([joint.velocity for joint in CONTRACT.joints])
ACCELERATION = np.array([joint.acceleration for joint in CONTRACT.joints])
HOME = np.append(
    KINEMATICS.inverse(
        ToolPose(np.array([0.3, 0.0, 0.2]), TOOL_DOWN), np.array([0, 0.4, 1.4, 1.3, 0, 0])
    ).positions,
    0.02,
)


def motion(positions, begin=0.0):
    """Return a motion through these joints (N, J), followed exactly."""
    tool = np.array([KINEMATICS.forward(joints[:6]).position for joints in positions])
    return Motion(
        begin + STEP * (len(positions) - 1),
        positions,
        np.gradient(positions, STEP, axis=0),
        positions,
        tool,
    )


def moved_joint(joint, distance, seconds=1.0):
    """Move one joint from HOME by ``distance`` along a smooth curve, then rest."""
    share = np.clip(np.arange(0, seconds + 0.2, STEP) / seconds, 0, 1)
    positions = np.tile(HOME, (len(share), 1))
    positions[:, joint] += distance * (10 * share**3 - 15 * share**4 + 6 * share**5)
    return positions


def found(*pieces, **options):
    check = MotionCheck(CONTRACT)
    for piece in pieces:
        check.add(piece, STEP, **options)
    last = pieces[-1]  # the check lags a few steps behind
    rest = [
        np.tile(part[-1], (20, 1))
        for part in (last.positions, 0 * last.velocities, last.setpoints, last.tool)
    ]
    check.add(Motion(last.time + 20 * STEP, *rest), STEP)
    return {(violation.quantity, violation.what) for violation in check.violations}


def test_a_motion_inside_the_limits_is_no_violation():
    assert not found(motion(moved_joint(0, 0.2)), motion(moved_joint(0, 0.2)[::-1], 1.2))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (moved_joint(0, 0.6, 0.45), ("velocity", "joint1")),
        (moved_joint(5, 0.4, 0.22), ("acceleration", "joint6")),
        (moved_joint(0, 0.6, 0.45), ("commanded velocity", "joint1")),
        (moved_joint(5, 0.4, 0.22), ("commanded acceleration", "joint6")),
        (moved_joint(5, 3.5 - HOME[5], 3.0), ("position", "joint6")),
        (moved_joint(1, 0.8, 1.5), ("workspace", "the tool")),
        (moved_joint(0, 0.8, 0.8), ("speed", "the tool")),
        (moved_joint(0, 0.8, 0.8), ("commanded speed", "the tool")),
        (moved_joint(6, -0.015, 0.05), ("commanded acceleration", "gripper")),
    ],
)
def test_the_check_reports_every_kind_of_violation(positions, expected):
    assert expected in found(motion(positions))


def test_the_check_reports_a_jump_and_a_lost_message_but_not_a_reset():
    first, second = moved_joint(0, 0.1), moved_joint(0, 0.1) + 0.1 * (np.arange(7) < 6)
    assert ("commanded acceleration", "joint2") in found(motion(first), motion(second, 1.2))
    assert ("gap", "the truth") in found(motion(first), motion(first[::-1], 1.3))
    assert not found(motion(first), motion(second, 1.2), follows_on=False)


def test_slipping_off_an_obstacle_breaks_no_limit_but_commanding_it_does():
    calm, slip = moved_joint(0, 0.1), moved_joint(0, 0.1)
    slip[100:, 5] += 0.05
    true = motion(slip)
    pushed = Motion(true.time, true.positions, true.velocities, calm, motion(calm).tool)
    assert not found(pushed)
    assert ("commanded acceleration", "joint6") in found(true)


def test_motion_at_the_full_limits_stays_inside_the_tolerances():
    sim = ArmSim(CONTRACT, render=False)
    sim.reset(1, 1)
    sim.trace = MotionTrace()
    start = sim.joint_positions()
    times = np.arange(0.0, 0.62, 0.02)
    share = np.clip(times / 0.2, 0, 1) - np.clip(
        (times - 0.4) / 0.2, 0, 1
    )  # accelerate, cruise, brake
    signs = np.array([0.5, -1, 1, -1, 1, 1, 0])
    velocities = share[:, None] * signs * np.append(np.minimum(VELOCITY, 0.2 * ACCELERATION), 0.0)
    distance = np.cumsum(0.5 * (velocities[1:] + velocities[:-1]) * 0.02, axis=0)
    positions = start + np.vstack([np.zeros(7), distance])
    command = SimpleNamespace(
        stamp=sim.time,
        joint_names=CONTRACT.command_joints,
        times=times,
        positions=positions,
        velocities=velocities,
    )
    sim.controller.accept(command, sim.time)
    sim.step(200)
    broken = found(sim.trace.take())
    assert {quantity for quantity, _ in broken} <= {
        "speed",
        "commanded speed",
    }  # tool speeds: the joint limits allow more
    sim.close()


def test_with_stamp_changes_only_the_stamp_of_a_serialized_message():
    chunk = ActionChunk(
        policy_id="nano", rows=2, columns=2, names=["x", "y"], data=[1.0, 2.0, 3.0, 4.0]
    )
    chunk.header.stamp.sec, chunk.header.stamp.nanosec = 5, 900_000_000
    message = serialize_message(chunk)
    assert stamp_of(message) == 5_900_000_000
    later = deserialize_message(with_stamp(message, stamp_of(message) + 200_000_000), ActionChunk)
    assert (later.header.stamp.sec, later.header.stamp.nanosec) == (6, 100_000_000)
    later.header.stamp = chunk.header.stamp
    assert later == chunk
    assert np.isnan(deserialize_message(corrupted(message, "nan"), ActionChunk).data[2])
    assert list(deserialize_message(corrupted(message, "size"), ActionChunk).data) == [1.0, 2.0]
    assert list(deserialize_message(corrupted(message, "names"), ActionChunk).names) == ["y", "x"]


def test_every_topic_between_arm_and_suite_goes_through_the_injector():
    renamed = {old for node in ("sim_arm", "policy_node") for old, _ in remappings(CONTRACT, node)}
    topics = CONTRACT.topics
    assert renamed == {
        "/clock",
        topics.joint_states,
        topics.action_chunk,
        CONTRACT.command.topic,
        *(each.topic for each in CONTRACT.cameras),
    }


def test_a_case_is_good_only_if_the_arm_held_within_limits_with_a_reason():
    good = Outcome("a", held=True, reason="because")
    assert good.good
    assert not any(
        outcome.good
        for outcome in (
            Outcome("a", reason="because"),
            Outcome("a", held=True),
            Outcome("a", held=True, reason="b", violations=[{}]),
        )
    )


def test_memory_growth_is_reported():
    watch = MemoryWatch(dict)
    watch.close()
    watch.samples = {
        "leaky": [(at, 100.0 + 0.01 * at) for at in np.arange(0.0, 1320.0, 10.0)],
        "young": [(0.0, 5.0)],
    }
    report = watch.growth()
    assert set(report) == {"leaky"} and report["leaky"]["first_mb"] == pytest.approx(
        100 + 0.01 * BASELINE_S, abs=0.5
    )
    assert report["leaky"]["growth_percent"] == pytest.approx(11.3, abs=0.5)


@pytest.mark.ros
def test_the_observer_reports_a_violation_of_the_running_arm(ros_domain, tmp_path):
    with Processes(CONTRACT, tmp_path, policy="none", faulty=False) as processes:
        client, observer = ArmClient(CONTRACT, alive=processes.check), MotionObserver(CONTRACT)
        try:
            client.wait_for_arm(PATIENCE_S)
            client.reset(3, 1)
            client.wait_until(
                lambda: observer.now > 1.0 and observer.now - observer.moved_at > 0.3,
                PATIENCE_S,
                "the arm was not stationary",
            )
            observer.begin()
            client.wait_until(lambda: observer.steps > 100, PATIENCE_S, "nothing was seen")
            assert not observer.violations
            publisher = client._node.create_publisher(JointTrajectory, CONTRACT.command.topic, 1)
            client.wait_until(
                publisher.get_subscription_count, PATIENCE_S, "no subscriber takes commands"
            )
            jump = JointTrajectoryPoint(
                positions=[1.0, *HOME[1:].tolist()], time_from_start=Duration(nanosec=50_000_000)
            )
            publisher.publish(JointTrajectory(joint_names=CONTRACT.command_joints, points=[jump]))
            client.wait_until(lambda: observer.speed > 0.5, PATIENCE_S, "it did not move")
            client.wait_until(
                lambda: observer.now - observer.moved_at > 0.3,
                PATIENCE_S,
                "it did not come to rest",
            )
            assert ("acceleration", "joint1") in {
                (each.quantity, each.what) for each in observer.violations
            }
        finally:
            observer.close()
            client.close()


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> FaultyArm:
    """Start the graph with the shipped policy and the injector."""
    from faults.run import own_domain

    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
            patch.setenv(name, "")  # so that monkeypatch restores them
        with own_domain(), faulty_arm(tmp_path_factory.mktemp("faults")) as arm:
            yield arm


SELECTION = (
    "chunks with NaN",
    "a camera is gone",
    "joint states lost",
    "joint states read zero",
    "emergency stop while chunks arrive",
)


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTION)
def test_a_fault_during_motion_ends_in_a_hold_within_limits_with_a_reason(arm, name):
    (case,) = [case for case in cases_of_the_robot() if case.name == name]
    for attempt in range(
        3
        # On a busy machine a command may arrive too late for its own limits. `make
        # faults` judges every attempt.
    ):
        outcome = carry_out(arm, case, 982_000 + SELECTION.index(name) + 10 * attempt)
        arm.processes.check()
        if outcome.good:
            break
    assert outcome.good, outcome
    assert outcome.speed_at_fault > 0.1 and outcome.hold_time_s > 0.0


def test_an_unknown_case_gives_one_sentence():
    command = ["python3", "-m", "faults.run", "--only", "earthquake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd="tests")
    assert (
        done.returncode == 2
        and "'earthquake' names no case" in done.stdout
        and "Traceback" not in done.stderr
    )
