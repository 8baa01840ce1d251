"""Tests of the robot's frames, compared with pinocchio, and over ROS as robot_state_publisher."""

import numpy as np
import pinocchio
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from sf_bringup import robot_state
from sf_bringup.frame_tree import FrameTree
from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract

ROBOTS = sorted(find_robot("sim_arm").parent.glob("*.yaml"))
MIMICKING = """<robot name="jaw"><link name="base"/><link name="a"/><link name="b"/>
<joint name="left" type="prismatic"><parent link="base"/><child link="a"/><origin xyz="0 1 0"/><axis xyz="0 1 0"/>
<limit lower="0" upper="1" effort="1" velocity="1"/></joint>
<joint name="right" type="prismatic"><parent link="base"/><child link="b"/><axis xyz="0 1 0"/>
<mimic joint="left" multiplier="-1" offset="0.5"/>
<limit lower="0" upper="1" effort="1" velocity="1"/></joint></robot>"""  # noqa: E501


@pytest.mark.parametrize("path", ROBOTS, ids=lambda path: path.stem)
def test_link_poses_equal_pinocchio(path):
    xml = load_contract(path).urdf_xml
    model = pinocchio.buildModelFromXML(xml)
    data, dice = model.createData(), np.random.default_rng(3)
    moving = [name for name, joint in zip(model.names, model.joints, strict=True) if joint.nq == 1]
    positions = {
        name: float(value)
        for name, value in zip(moving, dice.uniform(-0.5, 0.5, len(moving)), strict=True)
    }
    q = pinocchio.neutral(model)
    for name, value in positions.items():
        q[model.joints[model.getJointId(name)].idx_q] = value
    pinocchio.framesForwardKinematics(model, data, q)
    tree = FrameTree(xml)
    poses = [*tree.fixed(), *tree.moving(positions)]
    assert poses
    for pose in poses:
        parent, link = (
            data.oMf[model.getFrameId(name, pinocchio.BODY)] for name in (pose.parent, pose.link)
        )
        expected = parent.actInv(link)
        if "mimic" not in xml:
            np.testing.assert_allclose(pose.position, expected.translation, atol=1e-9)
            np.testing.assert_allclose(pose.rotation, expected.rotation, atol=1e-9)


def test_mimic_joints_follow_and_unknown_ones_are_ignored():
    left, right = FrameTree(MIMICKING).moving({"left": 0.2})
    assert left.position.tolist() == pytest.approx(
        [0, 1.2, 0]
    ) and right.position.tolist() == pytest.approx([0, 0.3, 0])
    assert FrameTree(MIMICKING).moving({}) == []


@pytest.mark.ros
def test_the_description_and_the_frames_are_published(ros_domain):
    path = find_robot("sim_arm")
    contract = load_contract(path)
    rclpy.init()
    node = robot_state.RobotState(
        namespace="left", parameter_overrides=[Parameter("contract", value=str(path))]
    )
    peer, received = Node("peer", namespace="left"), {}
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.create_subscription(
        String, "robot_description", lambda message: received.update(xml=message.data), late
    )
    if robot_state.TFMessage is not None:
        peer.create_subscription(
            robot_state.TFMessage, "/tf", lambda message: received.update(tf=message), 10
        )
        peer.create_subscription(
            robot_state.TFMessage,
            "/tf_static",
            lambda message: received.update(fixed=message),
            late,
        )
    states = peer.create_publisher(JointState, "joint_states", 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(peer)
    wanted = {"xml"} if robot_state.TFMessage is None else {"xml", "tf", "fixed"}
    state = JointState(name=contract.command_joints, position=[0.1] * len(contract.command_joints))
    for seconds in range(1, 600):
        if wanted <= set(received):
            break
        state.header.stamp.sec = seconds
        states.publish(state)
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    peer.destroy_node()
    rclpy.try_shutdown()
    assert received["xml"] == contract.urdf_xml
    if "tf" in wanted:
        assert len(received["tf"].transforms) >= len(contract.joints)
        assert received["fixed"].transforms
