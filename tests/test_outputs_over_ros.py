"""Tests of every output of the executor with real processes.

The arm follows the chunks through the controller that the contract names.
"""

import importlib.util
import os
import re
import signal

import numpy as np
import pytest
import yaml
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from sf_bringup.arm_client import ArmClient, ArmClientError
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.types import Chunk
from sf_policy_node.nodes.conversions import chunk_to_message, to_seconds
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = pytest.mark.ros
GRIPPER = {"output": "forward_command", "topic": "/gripper_controller/commands"}
ACTION = {
    "output": "parallel_gripper",
    "topic": "/gripper_controller/gripper_cmd",
    "max_effort": 12.0,
}
COMMANDS = {
    "joint_trajectory": {"topic": "/arm_controller/joint_trajectory", "gripper": GRIPPER},
    "forward_command": {"topic": "/arm_controller/commands"},
    "servo_twist": {"topic": "/servo_node/delta_twist_cmds", "gripper": GRIPPER},
    "servo_pose": {"topic": "/servo_node/pose_target_cmds", "gripper": GRIPPER},
}
REPLAN_S = 0.3
PATH_S = 3.0  # of motion, chunk after chunk
SWING = np.array([0.03, 0.05, 0.03])  # m, radius of the path
WITHIN = 0.004  # m


class Guide(ArmClient):
    """A policy that moves the tool along a path with chunks, from the measured joints."""

    def __init__(self, contract, alive):
        super().__init__(contract, alive=alive)
        self.contract, self.kinematics, self.joints, self.sequence = (
            contract,
            Kinematics(contract),
            None,
            0,
        )
        self._node.create_subscription(
            JointState, contract.topics.joint_states, self._on_joints, qos_profile_sensor_data
        )
        self._chunks = self._node.create_publisher(
            ActionChunk, contract.topics.action_chunk, QoSProfile(depth=5)
        )

    def _on_joints(self, message):
        self.joints = (to_seconds(message.header.stamp), np.array(message.position))

    @property
    def tool(self):
        return self.kinematics.forward(self.joints[1][:6]).position

    def send(self, position_at, opening):
        """Send one chunk from the current pose.

        ``position_at(seconds)`` (3,) is the target of the tool [m], ``opening`` that of the
        gripper.
        """
        (stamp, joints), action = self.joints, self.contract.action
        times = action.step_s * np.arange(1, action.horizon + 1)
        data = np.array([[*(position_at(stamp + ahead) - self.tool), opening] for ahead in times])
        self.sequence += 1
        identity = {
            "policy_id": "guide",
            "instruction": "follow me",
            "epoch": 1,
            "sequence": self.sequence,
        }
        self._chunks.publish(
            chunk_to_message(
                Chunk.of(self.contract, data, stamp=stamp, reference=joints, **identity)
            )
        )

    def follow_path(self, position_at, seconds, opening):
        """Send chunks for a time, then wait until the executor holds and the arm is stationary."""
        end = self.joints[0] + seconds
        while self.joints[0] < end:
            self.send(position_at, opening)
            due = self.joints[0] + REPLAN_S
            self.wait_until(lambda due=due: self.joints[0] >= due, PATIENCE_S, "time stands still")
        self.wait_until(
            lambda: self.executor.state == ExecutorStatus.HOLDING,
            PATIENCE_S,
            "the executor did not hold",
        )
        stopped_at = [self.joints]

        def is_stationary():
            if np.abs(self.joints[1] - stopped_at[0][1]).max() > 1e-4:
                stopped_at[0] = self.joints
            return self.joints[0] - stopped_at[0][0] > 0.3

        self.wait_until(is_stationary, PATIENCE_S, "the arm did not come to rest")


@pytest.fixture
def start_guide(ros_domain, tmp_path):
    """Start arm and executor with an output; return a guide."""
    running = []

    def start(output, **command):
        data = yaml.safe_load(find_robot("sim_arm").read_text())
        data["command"] = {"output": output, "rate_hz": 100, **command}
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(data))
        path.with_name(data["urdf"]).write_text(
            find_robot("sim_arm").with_name(data["urdf"]).read_text()
        )
        graph = GraphProcess(
            [f"robot:={path}", "policy:=none", "seed:=4"], tmp_path / "graph.log"
        ).__enter__()
        running.append(graph)
        guide = Guide(load_contract(path), graph.check)
        running.append(guide)
        guide.wait_for_arm(PATIENCE_S)
        guide.wait_for_executor(PATIENCE_S)
        guide.wait_until(
            lambda: guide.joints and guide._chunks.get_subscription_count(),
            PATIENCE_S,
            "no joint states",
        )
        guide.wait_until(
            lambda: 0.0 <= guide.executor.joint_state_age_s < 0.1,
            PATIENCE_S,
            "the executor sees no joint states",
        )
        guide.log = graph.log
        return guide

    yield start
    for each in reversed(running):
        (each.close if isinstance(each, Guide) else each.stop)()


@pytest.mark.slow
@pytest.mark.parametrize("output", COMMANDS)
def test_the_tool_reaches_the_end_of_the_path_and_the_gripper_is_closed(start_guide, output):
    guide = start_guide(output, **COMMANDS[output])
    start, beginning = guide.tool, guide.joints[0]

    def position_at(now):
        phase = min((now - beginning) / PATH_S, 1.0)
        return start + SWING * [
            np.sin(2 * np.pi * phase),
            1 - np.cos(3 * np.pi * phase),
            np.sin(np.pi * phase),
        ]

    guide.follow_path(position_at, PATH_S + 0.6, opening=0.0)
    end = position_at(beginning + 2 * PATH_S)
    assert np.linalg.norm(end - start) > 0.05
    error = np.linalg.norm(guide.tool - end)
    print(
        f"{output}: {1e3 * error:.2f} mm from the end of the path; {guide.executor.chunks_accepted}"
        " chunks"
    )
    assert error < WITHIN
    assert guide.joints[1][-1] < 0.002  # closed
    assert guide.executor.chunks_accepted >= 5  # of about a dozen: the arm followed several chunks


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        {},
        {"output": "gripper_command"},
        # The gap between two fingers, for a server whose goals are not replaced.
        {"output": "gripper_command", "open": 0.07, "replaces_goals": False},
    ],
    ids=["parallel", "command", "one goal at a time"],
)
def test_a_gripper_with_an_action_closes_and_opens(start_guide, command):
    pytest.importorskip(
        "control_msgs.action", reason="control_msgs is not on PyPI; it comes with ROS 2"
    )
    guide = start_guide(
        "joint_trajectory", topic="/arm_controller/joint_trajectory", gripper=ACTION | command
    )
    tool = guide.tool
    for opening, position in ((0.0, 0.0), (1.0, 0.035), (0.0, 0.0)):
        guide.follow_path(lambda _: tool, 0.6, opening)
        assert guide.joints[1][-1] == pytest.approx(position, abs=0.002)
    assert "Traceback" not in guide.log.read_text()


def set_moving(guide):
    """Send chunks until the arm moves along y at 0.12 m/s."""
    start = guide.tool

    def is_moving():
        return np.linalg.norm(guide.tool - start) > 0.01

    def try_to_move():  # resend as a policy does: a busy machine may lose a chunk
        tool, now = guide.tool, guide.joints[0]
        guide.send(lambda later: tool + [0.0, 0.12 * (later - now), 0.0], 1.0)
        guide.wait_until(
            lambda: guide.joints[0] > now + REPLAN_S or is_moving(), PATIENCE_S, "time stands still"
        )
        return is_moving()

    assert any(try_to_move() for _ in range(20)), guide.executor.reason


def executor_of(guide):
    return int(re.findall(r"chunk_executor started \(pid=(\d+)\)", guide.log.read_text())[0])


@pytest.mark.slow
@pytest.mark.parametrize("output", ["forward_command", "servo_twist"])
def test_an_executor_that_stalled_does_not_jump_when_it_resumes(start_guide, output):
    guide = start_guide(output, **COMMANDS[output])
    set_moving(guide)
    pid = executor_of(guide)
    os.kill(pid, signal.SIGSTOP)
    try:
        frozen = guide.joints[0]
        guide.wait_until(lambda: guide.joints[0] > frozen + 1.0, PATIENCE_S, "time stands still")
    finally:
        os.kill(pid, signal.SIGCONT)
    stopped_at, distances = guide.tool, []
    guide.wait_until(
        lambda: guide.executor.state == ExecutorStatus.HOLDING,
        PATIENCE_S,
        "the executor did not hold",
    )
    woke = guide.joints[0]
    guide.wait_until(
        lambda: (
            distances.append(np.linalg.norm(guide.tool - stopped_at))
            or guide.joints[0] > woke + 1.0
        ),
        PATIENCE_S,
        "time stands still",
    )
    assert (
        max(distances) < 0.02
        # at 0.1 m/s, jumping over the lost second would be 0.1 m; a busy machine lengthens the stop
    )
    print(guide.executor.reason)
    assert "this process was suspended" in guide.executor.reason
    guide.follow_path(lambda _: stopped_at + [0.0, 0.0, 0.03], 1.2, 1.0)  # and the arm can continue
    np.testing.assert_allclose(guide.tool, stopped_at + [0.0, 0.0, 0.03], atol=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["forward_command", "servo_pose"])
def test_a_signal_stops_a_streamed_arm_before_the_executor_ends(start_guide, output):
    guide = start_guide(output, **COMMANDS[output])
    set_moving(guide)
    trace = []
    guide._node.create_subscription(
        JointState,
        guide.contract.topics.joint_states,
        lambda message: trace.append(message.velocity[:6]),
        qos_profile_sensor_data,
    )
    os.kill(executor_of(guide), signal.SIGINT)
    with pytest.raises(
        ArmClientError, match="the graph ended"
    ):  # a node that ends stops the other processes, the arm's too
        guide.wait_until(lambda: False, PATIENCE_S, "the executor goes on")
    limits = np.array([joint.acceleration for joint in guide.contract.joints])
    slowing = np.abs(np.diff(np.array(trace)[::5], axis=0)) / 0.05
    assert np.abs(trace[0]).max() > 0.05 and np.abs(trace[-1]).max() < 0.02
    assert (slowing < 1.2 * limits).all()


@pytest.mark.skipif(
    importlib.util.find_spec("control_msgs") is not None, reason="control_msgs is installed"
)
def test_a_missing_gripper_action_package_ends_the_graph_with_one_sentence(start_guide):
    with pytest.raises(ArmClientError, match="the graph ended with exit code 1") as ended:
        start_guide("joint_trajectory", topic="/arm_controller/joint_trajectory", gripper=ACTION)
    assert "parallel_gripper needs the ROS package control_msgs" in str(
        ended.value
    ) and "Traceback" not in str(ended.value)
