"""Tests of markers over ROS: workspace box and tool path, compared with pinocchio."""

import numpy as np
import pinocchio
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from sf_bringup import markers
from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract

PATH = find_robot("sim_arm")


@pytest.fixture(scope="module")
def contract():
    return load_contract(PATH)


def tool_positions(contract, positions: np.ndarray) -> np.ndarray:
    """Return tool positions (N, 3) [m] from the full URDF with pinocchio."""
    model = pinocchio.buildModelFromXML(contract.urdf_xml)
    data, points = model.createData(), []
    frames = [model.getFrameId(each) for each in (contract.base_frame, contract.tool_frame)]
    for row in positions:
        q = pinocchio.neutral(model)
        for name, value in zip(contract.arm_joints, row, strict=True):
            q[model.joints[model.getJointId(name)].idx_q] = value
        pinocchio.framesForwardKinematics(model, data, q)
        base, tool = (data.oMf[frame] for frame in frames)
        points.append(base.actInv(tool).translation)
    return np.array(points)


def random_joints(contract, count: int) -> np.ndarray:
    """Return random arm joints (count, J) within their limits."""
    limits = np.array([(joint.lower, joint.upper) for joint in contract.joints])
    return np.random.default_rng(5).uniform(limits[:, 0], limits[:, 1], (count, len(limits)))


def test_the_path_equals_the_tools_for_any_joint_order(contract):
    positions = random_joints(contract, 20)
    names = contract.command_joints[::-1]
    shuffled = np.hstack([np.full((20, 1), 0.02), positions[:, ::-1]])
    path = markers.ToolPath(contract)
    np.testing.assert_allclose(
        path.tool_positions(names, shuffled), tool_positions(contract, positions), atol=1e-9
    )
    assert path.tool_positions(["gripper"], np.zeros((3, 1))).shape == (0, 3)
    assert path.tool_positions(names, np.zeros((0, 7))).shape == (0, 3)


def test_a_box_has_twelve_edges():
    lower, upper = np.array([-1.0, 0.0, 2.0]), np.array([1.0, 3.0, 7.0])
    edges = markers.box_edges(lower, upper).reshape(12, 2, 3)
    lengths = np.abs(edges[:, 1] - edges[:, 0])
    assert sorted(lengths.sum(axis=1)) == [2.0] * 4 + [3.0] * 4 + [5.0] * 4
    assert np.unique(edges.reshape(-1, 3), axis=0).shape == (8, 3)
    assert ((edges == lower) | (edges == upper)).all()


@pytest.mark.ros
def test_viewers_receive_the_box_at_once_and_the_path_with_a_trajectory(ros_domain, contract):
    rclpy.init()
    node = markers.Markers(
        namespace="left", parameter_overrides=[Parameter("contract", value=str(PATH))]
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin_once(timeout_sec=0.1)  # the box is published before there is a viewer
    peer, received = Node("peer", namespace="left"), []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.create_subscription(MarkerArray, "markers", received.append, latched)
    commands = peer.create_publisher(JointTrajectory, contract.command.topic, 5)
    executor.add_node(peer)
    positions = random_joints(contract, 6)
    trajectory = JointTrajectory(joint_names=contract.arm_joints)
    for index, row in enumerate(positions, start=1):
        point = JointTrajectoryPoint(positions=row.tolist())
        point.time_from_start.sec = index
        trajectory.points.append(point)
    for _ in range(600):
        if received and len(received[-1].markers) == 2:
            break
        if received and commands.get_subscription_count():
            commands.publish(trajectory)
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    peer.destroy_node()
    rclpy.try_shutdown()
    (first,) = received[0].markers
    assert (first.ns, first.type, len(first.points)) == (markers.BOX, Marker.LINE_LIST, 24)
    box, path = received[-1].markers
    assert box.lifetime.sec == 0 and path.ns == markers.PATH and path.lifetime.sec == 7
    assert {box.header.frame_id, path.header.frame_id} == {contract.base_frame}
    np.testing.assert_allclose(
        [(point.x, point.y, point.z) for point in path.points],
        tool_positions(contract, positions),
        atol=1e-9,
    )
