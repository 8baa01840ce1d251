"""Tests of /diagnostics of both nodes: level, one sentence, figures with units."""

from array import array

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from motion_cases import FORWARD, sim_arm

from sf_msgs.msg import ControlSource, ExecutorStatus, PolicyStatus
from sf_policy_node.motion.cycles import Cycles
from sf_policy_node.motion.status import ExecutorStatus as MotionStatus
from sf_policy_node.nodes.conversions import status_to_message
from sf_policy_node.nodes.diagnostics import executor_diagnostics, policy_diagnostics

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
JOINTS = sim_arm().command_joints


_SHORT = (
    "waiting for the first chunk; joint states on joint_states have 7 names, 6 positions; correct"
    " the driver"
)
_NOBODY = "no controller subscribes to /arm/joint_trajectory: load and activate the controller"


def policy_status(**fields):
    """Return the status of a policy that follows an instruction at its rate."""
    usual = {
        "state": PolicyStatus.RUNNING,
        "instruction": "pick the red cube",
        "policy_id": "nano-12ab",
        "device": "cpu",
        "camera_names": ["scene", "wrist"],
        "camera_age_s": array("f", [0.031, 0.042]),
        "camera_skew_s": 0.002,
        "joint_state_age_s": 0.008,
        "rate_hz": 3.3,
        "rate_wanted_hz": 3.333,
        "worst_cycle_s": 0.331,
        "chunk_latency_p50_s": 0.045,
        "chunk_latency_p95_s": 0.061,
        "chunk_latency_p99_s": 0.0705,
    }
    return PolicyStatus(**(usual | fields))


def executor_status(**fields):
    """Return the status of an executor that follows chunks."""
    usual = {
        "state": ExecutorStatus.EXECUTING,
        "instruction": "pick the red cube",
        "joint_names": JOINTS,
        "position_clips": array("Q", [0] * 7),
        "velocity_clips": array("Q", [0, 3, 0, 0, 0, 0, 1]),
        "acceleration_clips": array("Q", [0] * 7),
        "step_clips": array("Q", [0] * 7),
        "control_source": ControlSource.POLICY,
        "queue_depth": 5,
        "joint_state_age_s": 0.006,
        "executor_latency_p50_s": 0.0008,
        "executor_latency_p95_s": 0.0012,
        "executor_latency_p99_s": 0.0019,
        "border_jump": 0.0123,
        "border_jump_max": 0.0456,
        "clip_rate": 0.04,
        "join": "ensemble",
        "cycles": 1000,
    }
    return ExecutorStatus(**(usual | fields))


def values(status):
    return {item.key: item.value for item in status.values}


@pytest.mark.parametrize(
    ("fields", "level", "sentence"),
    [
        ({}, OK, "follows: pick the red cube"),
        ({"state": PolicyStatus.IDLE}, OK, "no instruction"),
        ({"state": PolicyStatus.IDLE, "reason": "ran for 8 s"}, OK, "no instruction; ran for 8 s"),
        (
            {"state": PolicyStatus.PAUSED},
            OK,
            "paused: pick the red cube; ~/pause (false) resumes it",
        ),
        ({"state": PolicyStatus.LOADING}, STALE, "the policy is not loaded yet"),
        (
            {"state": PolicyStatus.ERROR, "reason": "the policy failed: out of memory"},
            ERROR,
            "the policy failed: out of memory",
        ),
        (
            {"state": PolicyStatus.WAITING, "reason": "no joint states on joint_states"},
            WARN,
            "no joint states on joint_states",
        ),
        (
            {"state": PolicyStatus.IDLE, "camera_age_s": [0.03, -1.0]},
            WARN,
            (
                "camera wrist: no image on wrist_camera/image_raw; start its driver, or correct"
                " cameras.wrist.topic"
            ),
        ),
        (
            {"state": PolicyStatus.IDLE, "camera_age_s": [0.8, 0.03]},
            WARN,
            (
                "camera scene: the newest image is 0.800 s old, budgets.observation_age_s allows"
                " 0.25 s; check its driver, the network and the clocks"
            ),
        ),
        (
            {"rate_hz": 1.5},
            WARN,
            (
                "1.50 chunks per second, 3.33 are wanted: use a faster device or policy, or raise"
                " replan_steps"
            ),
        ),
    ],
)
def test_the_policy_status_gives_level_and_sentence(fields, level, sentence):
    status = policy_diagnostics(policy_status(**fields), sim_arm())
    assert (status.level, status.message) == (level, sentence)
    assert (status.name, status.hardware_id) == ("policy_node: policy", "sim_arm")


def test_lost_joint_states_are_reported_once_they_are_many():
    """The policy receives joints interpolated across gaps, and the operator can fix the cause."""
    few, many = (policy_diagnostics(policy_status(), sim_arm(), (lost, 1000)) for lost in (3, 120))
    assert few.level == OK and values(few)["joint states lost"] == "3 of 1000"
    assert many.level == WARN and many.message.startswith(
        "120 of the last 1000 joint states on joint_states were lost"
    )
    worse = policy_diagnostics(
        policy_status(state=PolicyStatus.ERROR, reason="the policy failed"), sim_arm(), (120, 1000)
    )
    assert worse.level == ERROR and worse.message == "the policy failed"


def test_the_figures_of_the_policy_have_names_and_units():
    read = values(policy_diagnostics(policy_status(), sim_arm()))
    assert read["camera to chunk p50 / p95 / p99"] == "45.0 / 61.0 / 70.5 ms"
    assert (read["camera scene age"], read["camera wrist age"], read["camera skew"]) == (
        "31.0 ms",
        "42.0 ms",
        "2.0 ms",
    )
    assert read["rate"] == "3.30 Hz of 3.33 Hz wanted" and read["worst cycle"] == "331.0 ms"
    assert (read["state"], read["policy"], read["instruction"]) == (
        "running",
        "nano-12ab",
        "pick the red cube",
    )


def test_unmeasured_figures_are_reported_as_missing():
    read = values(
        policy_diagnostics(
            policy_status(camera_age_s=[-1.0, 0.1], camera_skew_s=-1.0, joint_state_age_s=-1.0),
            sim_arm(),
        )
    )
    assert read["camera scene age"] == read["camera skew"] == read["joint state age"] == "none yet"


@pytest.mark.parametrize(
    ("fields", "level", "sentence"),
    [
        ({}, OK, "executing"),
        ({"state": ExecutorStatus.HOLDING, "reason": "no chunk yet"}, OK, "no chunk yet"),
        (
            {"state": ExecutorStatus.HOLDING, "reason": "stopped: ran for 8 s"},
            OK,
            "stopped: ran for 8 s",
        ),
        ({"state": ExecutorStatus.INACTIVE}, STALE, "inactive: nothing is sent; activate it"),
        ({"state": ExecutorStatus.STOPPED, "reason": "emergency stop"}, ERROR, "emergency stop"),
        (
            {"joint_state_age_s": -1.0},
            ERROR,
            (
                "no joint states on joint_states; start the robot's driver, or correct"
                " topics.joint_states"
            ),
        ),
        ({"joint_state_age_s": -1.0, "reason": _SHORT}, ERROR, _SHORT),
        ({"reason": f"no chunk yet; {_NOBODY}"}, OK, f"no chunk yet; {_NOBODY}"),
        (
            {"joint_state_age_s": 0.5},
            ERROR,
            (
                "the newest joint state is 0.500 s old, budgets.joint_state_age_s allows 0.1 s;"
                " check the robot's driver, and the load of this computer"
            ),
        ),
        (
            {"guard_refusals": 2},
            WARN,
            "the guard refused 2 motions, which should not happen: please report this",
        ),
        (
            {"missed_deadlines": 20, "cycle_late_max_s": 0.045},
            WARN,
            "20 of 1000 control cycles were late, one by 0.045 s; reduce the load of this computer",
        ),
        (
            {"clip_rate": 1.0},
            OK,
            "executing",
        ),  # the acceleration limit slows a motion from rest: no fault
    ],
)
def test_the_executor_status_gives_level_and_sentence(fields, level, sentence):
    status = executor_diagnostics(executor_status(**fields), sim_arm())
    assert (status.level, status.message) == (level, sentence)
    assert (status.name, status.hardware_id) == ("chunk_executor: motion", "sim_arm")


@pytest.mark.parametrize(
    "problem",
    [
        _NOBODY,
        "/joint_states: 2 publishers (/a, /b) report joint1; stop all but one of them",
        "teleoperation commands on leader are not used: they have no time stamp",
        "no joint states of mast so far: the collision check assumes position 0",
    ],
)
def test_a_problem_of_the_executor_is_a_warning(problem):
    """Before, only reasons with certain phrases were."""
    message = executor_status(reason=f"no chunk yet; {problem}")
    status = executor_diagnostics(message, sim_arm(), problems=[problem])
    assert (status.level, status.message) == (WARN, message.reason)


def test_implausible_joint_states_require_an_operator(bench):
    bench.send(bench.chunk(FORWARD))
    bench.run(0.2)
    bench.offset = np.array([1.0, 0, 0, 0, 0, 0, 0])
    bench.run(0.1)
    message = status_to_message(bench.executor.status, bench.now, (0.0, 0.0, 0.0), Cycles(0.02))
    message.joint_state_age_s = 0.01
    status = executor_diagnostics(message, sim_arm())
    assert (
        status.level == WARN
        and "sensor" in status.message
        and "give an instruction again" in status.message
    )


@pytest.mark.parametrize(("age", "reported"), [(-0.02, 0.0), (0.03, 0.03), (-1.0, -1.0)])
def test_stamps_slightly_ahead_are_not_reported_as_missing(age, reported):
    status = MotionStatus(tuple(JOINTS), joint_state_age_s=age)
    message = status_to_message(status, 5.0, (0.0, 0.0, 0.0), Cycles(0.02))
    assert message.joint_state_age_s == pytest.approx(reported)


def test_the_figures_of_the_executor_have_names_and_units():
    read = values(executor_diagnostics(executor_status(), sim_arm()))
    assert read["chunk to command p50 / p95 / p99"] == "0.8 / 1.2 / 1.9 ms"
    assert (read["queue depth"], read["clip rate"], read["join"]) == (
        "5 steps",
        "4 % of the last 100 chunks",
        "ensemble",
    )
    assert (read["border jump, newest"], read["border jump, largest"]) == (
        "0.0123 rad or m",
        "0.0456 rad or m",
    )
    assert read["velocity clips"] == "joint2 3, gripper 1" and read["position clips"] == "0"
    assert (read["control source"], read["missed deadlines"]) == ("policy", "0")


def test_a_message_without_measurements_is_readable():
    assert policy_diagnostics(PolicyStatus(), sim_arm()).level == STALE
    assert executor_diagnostics(ExecutorStatus(), sim_arm()).level == STALE
