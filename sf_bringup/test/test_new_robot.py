"""new_robot: the draft of every shipped robot names its arm, is valid but for what a person
decides, and does not run.
"""

import re
import threading

import pytest
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from sf_bringup.graph import find_robot
from sf_bringup.new_robot.arm import guess_arm, guess_arms, reach_box
from sf_bringup.new_robot.command import main
from sf_bringup.new_robot.draft import _reached, draft_contract
from sf_bringup.new_robot.survey import CameraSeen, Survey, survey
from sf_policy_node.contract import ContractError, load_contract, parse_contract, undecided_keys
from sf_policy_node.motion.arm.collision import CollisionModel
from sf_policy_node.motion.arm.kinematics import Kinematics, kinematics_of
from sf_policy_node.motion.arm.limits import require_limits
from sf_policy_node.urdf import RobotDescription, UrdfError

ROBOTS = ["sim_arm", "so101", "ur5e_robotiq", "fr3", "xarm7", "piper", "mock"]


def decided(text: str, **changes) -> str:
    """The draft as a person leaves it."""
    values = {key: value for key, value in yaml.safe_load(text).items() if key != "undecided"}
    return yaml.safe_dump(values | changes, sort_keys=False)


@pytest.mark.parametrize("robot", ROBOTS)
def test_arm_and_gripper_of_shipped_robots_are_found(robot):
    shipped = load_contract(find_robot(robot))
    arm = guess_arm(RobotDescription(shipped.urdf_xml))
    assert [joint.name for joint in arm.joints] == shipped.arm_joints
    assert arm.base == shipped.base_frame
    assert arm.tool == shipped.tool_frame
    assert arm.gripper.name == shipped.gripper.joint
    assert arm.others == ()


@pytest.mark.parametrize("robot", ROBOTS)
def test_draft_is_refused_until_decided_and_valid_then(robot):
    shipped = load_contract(find_robot(robot))
    arm = guess_arm(RobotDescription(shipped.urdf_xml))
    text = draft_contract("mine", "mine.urdf", shipped.urdf_xml, {"arm": arm}, Survey())
    with pytest.raises(ContractError, match=r"is a draft.*acceleration") as refused:
        parse_contract(text, shipped.urdf_xml)
    assert all(key in str(refused.value) for key in undecided_keys(text))
    assert all(isinstance(key, str) for key in yaml.safe_load(text)["undecided"])
    contract = parse_contract(decided(text), shipped.urdf_xml)
    require_limits(contract)
    Kinematics(contract)
    CollisionModel.of(contract)
    for joint, theirs in zip(contract.joints, shipped.joints, strict=True):
        assert joint.lower <= theirs.lower + 1e-4 and joint.upper >= theirs.upper - 1e-4


PAIRS = ["piper_pair", "so101_pair", "vx300s_pair"]


@pytest.mark.parametrize("robot", PAIRS)
def test_both_arms_of_shipped_pairs_are_found(robot):
    shipped = load_contract(find_robot(robot))
    arms = guess_arms(RobotDescription(shipped.urdf_xml))
    assert list(arms) == ["left", "right"]
    for name, theirs in shipped.arms.items():
        arm = arms[name]
        assert [joint.name for joint in arm.joints] == theirs.joint_names
        assert arm.base == "world" and theirs.tool_frame in arm.tools[:2]
        assert arm.gripper.name == theirs.gripper.joint
        assert arm.others == ()


@pytest.mark.parametrize("robot", PAIRS)
def test_draft_of_two_arms_is_refused_until_decided_and_valid_then(robot):
    shipped = load_contract(find_robot(robot))
    arms = guess_arms(RobotDescription(shipped.urdf_xml))
    topics = ["/right_controller/joint_trajectory", "/left/controller/joint_trajectory"]
    text = draft_contract(
        "mine", "mine.urdf", shipped.urdf_xml, arms, Survey(command_topics=topics)
    )
    asked = undecided_keys(text)
    joint = shipped.arms["right"].joint_names[0]
    assert {f"arms.right.joints.{joint}.acceleration, tracking_error", "arms.left.workspace"} <= {
        *asked
    }
    with pytest.raises(ContractError, match="is a draft"):
        parse_contract(text, shipped.urdf_xml)
    contract = parse_contract(decided(text), shipped.urdf_xml)
    require_limits(contract)
    kinematics_of(contract)
    CollisionModel.of(contract)
    assert contract.arms["left"].command.topic == "/left/controller/joint_trajectory"
    assert contract.columns.action.names == shipped.columns.action.names


def test_tools_of_two_arms_may_be_given_and_share_no_joint():
    xml = load_contract(find_robot("vx300s_pair")).urdf_xml
    description = RobotDescription(xml)
    arms = guess_arms(description, tool="right/gripper_link, left/gripper_link")
    assert {name: arm.tool for name, arm in arms.items()} == {
        "right": "right/gripper_link",
        "left": "left/gripper_link",
    }
    with pytest.raises(UrdfError, match=r"tool: .* share left/waist, left/shoulder"):
        guess_arms(description, tool="left/gripper_link,left/wrist_link")
    assert list(guess_arms(description, tool="left/gripper_link")) == ["arm"]
    torso = xml.replace(
        '<link name="world"/>',
        """<link name="world"/><link name="torso"/><joint name="lift" type="prismatic">
        <parent link="world"/><child link="torso"/><axis xyz="0 0 1"/>
        <limit lower="0" upper="1" velocity="1" effort="1"/></joint>""",
    ).replace(
        '<parent link="world"/><child link="left/', '<parent link="torso"/><child link="left/'
    )
    torso = torso.replace(
        '<parent link="world"/><child link="right/', '<parent link="torso"/><child link="right/'
    )
    assert list(guess_arms(RobotDescription(torso))) == ["arm"]
    fixed = torso.replace('name="lift" type="prismatic"', 'name="lift" type="fixed"')
    assert list(guess_arms(RobotDescription(fixed))) == ["left", "right"]


def test_given_links_are_taken_and_unknown_ones_refused():
    description = RobotDescription(load_contract(find_robot("ur5e_robotiq")).urdf_xml)
    assert guess_arm(description, tool="tool0").tool == "tool0"
    with pytest.raises(UrdfError, match="tool: 'flange' is not a link"):
        guess_arm(description, tool="flange")
    with pytest.raises(UrdfError, match="no joint between base_link and base_link moves"):
        guess_arm(description, tool="base_link")


def test_urdf_without_a_root_gives_one_sentence():
    with pytest.raises(UrdfError, match="has no link; give the description of the whole robot"):
        guess_arms(RobotDescription('<robot name="part"/>'))
    circle = """<robot name="a"><link name="a"/><link name="b"/>
      <joint name="j" type="revolute"><parent link="a"/><child link="b"/></joint>
      <joint name="k" type="revolute"><parent link="b"/><child link="a"/></joint></robot>"""
    with pytest.raises(UrdfError, match="every link of the URDF is the child of a joint; correct"):
        guess_arms(RobotDescription(circle))


def test_rail_continuous_joint_and_odd_names_are_drafted():
    urdf = """<robot name="cell 7"><link name="world"/><link name="rail"/><link name="cart"/><link name="1"/><link name="on"/>
      <joint name="fixed" type="fixed"><parent link="world"/><child link="rail"/></joint>
      <joint name="slide" type="prismatic"><parent link="rail"/><child link="cart"/><axis xyz="0 1 0"/>
        <limit lower="-1" upper="1" velocity="0.4" effort="1"/></joint>
      <joint name="left/turn" type="continuous"><parent link="cart"/><child link="1"/><origin xyz="0.4 0 0.5"/><axis xyz="0 0 1"/></joint>
      <joint name="end" type="fixed"><parent link="1"/><child link="on"/><origin xyz="0.3 0 0"/></joint></robot>"""  # noqa: E501
    arm = guess_arm(RobotDescription(urdf))
    text = draft_contract("cell_7", "cell_7.urdf", urdf, {"arm": arm}, Survey())
    asked = undecided_keys(text)
    assert "joints.left/turn.lower, upper" in asked
    assert "joints.left/turn.velocity" in asked
    contract = parse_contract(decided(text), urdf)
    assert contract.base_frame == "rail"
    assert contract.tool_frame in ("1", "on")
    assert contract.joints[0].unit == "m"
    assert contract.gripper is None


def test_placeholders_of_a_urdf_give_a_draft_that_loads():
    """Baxter's fingers have 5 m/s, hextilt_flying_arm_5 has 10000 rad/s (example-robot-data)."""
    urdf = re.sub(
        r'velocity="[^"]*"', 'velocity="10000"', load_contract(find_robot("sim_arm")).urdf_xml
    )
    arm = guess_arm(RobotDescription(urdf))
    text = draft_contract("mine", "mine.urdf", urdf, {"arm": arm}, Survey())
    assert "joints.joint1.velocity" in undecided_keys(text)
    contract = parse_contract(decided(text), urdf)
    require_limits(contract)
    assert contract.joints[0].velocity == 10.0 and contract.gripper.velocity == 0.35


def test_the_box_of_an_arm_on_a_high_column_begins_higher():
    urdf = load_contract(find_robot("sim_arm")).urdf_xml
    description = RobotDescription(urdf)
    positions = _reached(urdf, guess_arm(description))
    assert reach_box(positions)[0][2] == 0.01
    lower, upper = reach_box(positions + [0.0, 0.0, 0.7])
    assert 0.3 < lower[2] < 0.8 and upper[2] - lower[2] > 0.3


def test_cameras_get_names_of_their_own():
    cameras = [
        CameraSeen(f"/{name}/image_raw", "raw", 64, 48, "f", 14.8)
        for name in ("wrist_camera", "wrist_cam", "Front")
    ]
    shipped = load_contract(find_robot("sim_arm"))
    arm = guess_arm(RobotDescription(shipped.urdf_xml))
    text = draft_contract("mine", "m.urdf", shipped.urdf_xml, {"arm": arm}, Survey(cameras=cameras))
    found = parse_contract(decided(text), shipped.urdf_xml).cameras
    assert [camera.name for camera in found] == ["wrist", "wrist2", "Front"]
    assert found[0].rate_hz == 15


def test_files_are_written_once_and_words_are_checked(tmp_path, capsys):
    urdf = find_robot("fr3").with_suffix(".urdf")
    words = [f"urdf:={urdf}", f"out:={tmp_path}", "robot:=mine", "live:=false"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "workspace" in output and "sim:=true" in output
    with pytest.raises(ContractError, match="is a draft"):
        load_contract(tmp_path / "mine.yaml")
    assert main(words) == 2
    assert "mine.yaml exists" in capsys.readouterr().err
    for wrong, sentence in (
        (["live:=false"], "urdf: is empty"),
        (["urdf:=/nowhere.urdf", "live:=false"], "cannot be read"),
    ):
        assert main(wrong) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.ros
def test_live_graph_gives_description_cameras_joints_and_controller(ros_domain):
    shipped = load_contract(find_robot("so101"))
    rclpy.init()
    drivers, node = rclpy.create_node("drivers"), rclpy.create_node("new_robot")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    drivers.create_publisher(String, "robot_description", latched).publish(
        String(data=shipped.urdf_xml)
    )
    images = drivers.create_publisher(Image, "/wrist_camera/image_raw", qos_profile_sensor_data)
    depth = drivers.create_publisher(
        Image, "/wrist_camera/depth/image_raw", qos_profile_sensor_data
    )
    states = drivers.create_publisher(JointState, "/arm/joint_states", qos_profile_sensor_data)
    drivers.create_subscription(
        JointTrajectory, "/arm_controller/joint_trajectory", lambda _: None, 1
    )

    def publish() -> None:
        image = Image(width=640, height=480, encoding="rgb8")
        image.header.frame_id = "wrist_optical"
        images.publish(image)
        depth.publish(image)
        states.publish(JointState(name=shipped.command_joints, position=[0.0] * 6))

    drivers.create_timer(0.03, publish)
    executor = SingleThreadedExecutor()
    executor.add_node(drivers)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        seen = survey(node, 1.0)
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
        drivers.destroy_node()
        rclpy.try_shutdown()
    arm = guess_arm(RobotDescription(seen.description))
    contract = parse_contract(
        decided(draft_contract("mine", "m.urdf", seen.description, {"arm": arm}, seen)),
        seen.description,
    )
    [camera] = contract.cameras
    assert (camera.name, camera.topic, camera.width, camera.frame) == (
        "wrist",
        "/wrist_camera/image_raw",
        640,
        "wrist_optical",
    )
    assert contract.topics.joint_states == "/arm/joint_states"
    assert contract.command.topic == "/arm_controller/joint_trajectory"
