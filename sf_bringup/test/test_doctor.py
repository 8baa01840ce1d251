"""The doctor: a sound graph of every shipped robot has no FAIL, and five faults planted in a live
graph of two arms give five cures.
"""

import json
import threading
from pathlib import Path

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from sf_bringup.doctor import command
from sf_bringup.doctor.findings import Level, as_json, exit_code
from sf_bringup.doctor.listen import Listener
from sf_bringup.doctor.machine_checks import check_contract, check_machine
from sf_bringup.doctor.output_checks import check_controller, check_nodes
from sf_bringup.doctor.seen import Controller, Seen, Stream
from sf_bringup.doctor.stream_checks import (
    COMPRESSED,
    IMAGE,
    JOINT_STATE,
    check_cameras,
    check_joint_states,
)
from sf_bringup.graph import GRAPHS, find_robot
from sf_policy_node.contract import CollisionCheck, Contract, load_contract
from sf_policy_node.motion.arm.kinematics import kinematics_of

CONTRACT = load_contract(find_robot("sim_arm"))
HOME = {
    "joint1": 0.0,
    "joint2": 0.4,
    "joint3": 1.4,
    "joint4": 1.3,
    "joint5": 0.0,
    "joint6": 0.0,
    "gripper": 0.03,
}
ROBOTS = sorted(path.stem for path in Path(find_robot("sim_arm")).parent.glob("*.yaml"))
PAIR = load_contract(find_robot("vx300s_pair"))


class Graph:
    """Drivers and controllers of all arms, in this process; ``faults`` names what is wrong."""

    def __init__(self, contract: Contract, *faults: str) -> None:
        self._faults, self._contract = faults, contract
        self.node = rclpy.create_node("drivers")
        self._images = []
        for camera in contract.cameras:
            if camera is contract.cameras[-1] and "no last camera" in faults:
                continue
            kind = CompressedImage if "compressed" in faults else Image
            publisher = self.node.create_publisher(kind, camera.topic, qos_profile_sensor_data)
            self._images.append((camera, publisher))
        self._joints = self.node.create_publisher(
            JointState, contract.topics.joint_states, qos_profile_sensor_data
        )
        self._stop = self.node.create_publisher(Bool, contract.topics.emergency_stop, 1)
        topics = list(contract.command_groups)
        for topic in topics[:-1] if "the last arm has no controller" in faults else topics:
            self.node.create_subscription(JointTrajectory, topic, lambda _: None, 1)
        if "second commander" in faults:
            self._other = self.node.create_publisher(JointTrajectory, topics[0], 1)
        self._at_home = middle_of(contract)
        self.node.create_timer(1.0 / 30.0, self._publish_images)
        self.node.create_timer(0.02, self._publish_joints)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()

    def _publish_images(self) -> None:
        stamp = self.node.get_clock().now().to_msg()
        for camera, publisher in self._images:
            message = (
                CompressedImage()
                if publisher.msg_type is CompressedImage
                else Image(encoding="rgb8")
            )
            message.header.stamp, message.header.frame_id = stamp, camera.frame
            if isinstance(message, Image):
                height = camera.height // 2 if "wrong size" in self._faults else camera.height
                message.width, message.height, message.step = camera.width, height, 3 * camera.width
            publisher.publish(message)

    def _publish_joints(self) -> None:
        prefix = "follower_" if "prefix" in self._faults else ""
        positions = self._at_home
        message = JointState(
            name=[prefix + name for name in positions], position=list(positions.values())
        )
        if "no stamp" not in self._faults:
            message.header.stamp = self.node.get_clock().now().to_msg()
        self._joints.publish(message)


def middle_of(contract: Contract) -> dict[str, float]:
    """Return joints in the middle of their ranges, with open grippers."""
    positions = {}
    for arm in contract.arms.values():
        positions |= {joint.name: 0.5 * (joint.lower + joint.upper) for joint in arm.joints}
        if arm.gripper:
            positions |= dict(zip(arm.gripper.joints, arm.gripper.to_joints(1.0), strict=True))
    return positions


@pytest.fixture
def examined(ros_domain):
    """Return a function from faults to the findings of a live graph that has them."""
    rclpy.init()

    def examine(contract: Contract, *faults: str):
        graph, node = Graph(contract, *faults), rclpy.create_node("doctor")
        try:
            return command.examine(contract, Listener(node, contract).listen(1.0))
        finally:
            node.destroy_node()
            graph.close()

    yield examine
    rclpy.try_shutdown()


@pytest.mark.ros
def test_a_sound_graph_of_two_arms_has_no_failure(examined):
    findings = examined(PAIR)
    bad = [finding for finding in findings if finding.level is Level.FAIL]
    # A busy machine may be late with images: that is what the doctor is there to say.
    assert [
        finding for finding in bad if "Hz" not in finding.seen and "old" not in finding.seen
    ] == []
    subjects = {finding.subject for finding in findings}
    assert {
        "contract",
        "joint states",
        "camera cam_left_wrist",
        "arm commands of left",
        "arm commands of right",
        "emergency stop",
    } <= subjects


@pytest.mark.ros
def test_five_faults_planted_in_two_arms_give_five_cures(examined):
    findings = examined(
        PAIR,
        "prefix",
        "wrong size",
        "no last camera",
        "second commander",
        "the last arm has no controller",
    )
    failures = {finding.subject: finding for finding in findings if finding.level is Level.FAIL}
    assert "lacks left/waist" in failures["joint states"].seen
    assert "follower_" in failures["joint states"].cure
    sizes = [finding for finding in findings if "images are" in finding.seen]
    assert sizes[0].seen == "images are 320 x 120, the contract says 320 x 240"
    assert "width and height of cameras.cam_high" in sizes[0].cure
    missing = failures["camera cam_right_wrist"]
    assert missing.seen.startswith("no node publishes /cam_right_wrist/image_raw")
    assert "cameras.cam_right_wrist.topic" in missing.cure
    rivals = failures["other commands"]
    assert "drivers publishes /left_arm_controller/joint_trajectory" in rivals.seen
    assert "arms.right.command.topic" in failures["arm commands of right"].cure
    assert "arm commands of left" not in failures
    assert exit_code(findings) == 1


@pytest.mark.ros
def test_another_type_and_missing_stamps_are_named(examined):
    findings = examined(CONTRACT, "compressed", "no stamp")
    failures = [finding for finding in findings if finding.level is Level.FAIL]
    camera = next(finding for finding in failures if finding.subject == "camera scene")
    assert "CompressedImage" in camera.seen
    assert "cameras.scene.transport: compressed" in camera.cure
    stamps = next(finding for finding in failures if "time stamp" in finding.seen)
    assert "header.stamp" in stamps.cure


# ---- the checks alone ---------------------------------------------------------------------------


def sound(contract: Contract) -> Seen:
    """Return what the doctor sees of drivers and controllers that are as the contract says."""
    times = [1000.0 + n / 30.0 for n in range(60)]
    seen = Seen(nodes=["driver"])

    def add(topic: str, kind: str, *, publishers=(), subscribers=(), **rest) -> None:
        seen.streams[seen.resolve(topic)] = Stream(
            {kind}, list(publishers), list(subscribers), [], times, times, **rest
        )

    for camera in contract.cameras:
        kind = COMPRESSED if camera.transport == "compressed" else IMAGE
        size = {(camera.width, camera.height)}
        add(camera.topic, kind, publishers=["driver"], frames={camera.frame}, sizes=size)
    add(contract.topics.joint_states, JOINT_STATE, publishers=["driver"])
    add(contract.topics.emergency_stop, "std_msgs/msg/Bool", publishers=["button"])
    seen.joints.positions = middle_of(contract)
    seen.joints.times = dict.fromkeys(contract.command_joints, times)
    seen.controllers = []
    for topic, joints in contract.command_groups.items():
        add(topic, "trajectory_msgs/msg/JointTrajectory", subscribers=["controller"])
        names = tuple(contract.command_joints[joint] for joint in joints)
        name = seen.resolve(topic).split("/")[-2]
        seen.controllers.append(Controller(name, "JTC", "active", names))
    for arm in contract.arms.values():
        if gripper := arm.command.gripper:
            seen.actions[seen.resolve(gripper.topic)] = {gripper.action}
    return seen


@pytest.mark.parametrize("robot", ROBOTS)
def test_shipped_robot_with_sound_drivers_passes_every_check(robot):
    contract = load_contract(find_robot(robot))
    findings = command.examine(contract, sound(contract))
    assert [finding for finding in findings if finding.level is not Level.PASS] == []


@pytest.mark.parametrize(
    ("home", "seen"),
    [
        (None, "they touch in every pose: base_link and link2, link3 and link5"),
        ([0.0] * 6, "they touch in the home pose: base_link and link3"),
    ],
)
def test_unchecked_pairs_are_reported_unless_the_contract_allows_them(home, seen):
    contract = load_contract(find_robot("piper"))
    section = contract.collision.model_copy(update={"allowed": []})
    update = {"collision": section, "home": home or contract.home}
    findings = list(check_contract(contract.model_copy(update=update)))
    [warning] = [finding for finding in findings if seen in finding.seen]
    assert warning.level is Level.WARN
    assert "collision.allowed" in warning.cure


def test_a_box_that_touches_a_link_at_home_is_reported():
    contract = load_contract(find_robot("piper"))
    tool = kinematics_of(contract)["arm"].forward(contract.home).position
    box = {"name": "mug", "lower": list(tool - 0.06), "upper": list(tool + 0.06)}
    section = contract.collision.model_dump() | {"boxes": [box]}
    update = {"collision": CollisionCheck(**section)}
    findings = list(check_contract(contract.model_copy(update=update)))
    [warning] = [finding for finding in findings if "touch in the home pose" in finding.seen]
    assert warning.level is Level.WARN and "and mug" in warning.seen
    assert "collision.allowed" in warning.cure


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_missing_controller_of_any_arm_is_reported(robot):
    contract = load_contract(find_robot(robot))
    for topic in contract.command_groups:
        seen = sound(contract)
        seen.stream(topic).subscribers.clear()
        [finding] = failures_of(command.examine(contract, seen))
        assert finding.seen == f"no node subscribes to {seen.resolve(topic)}"


def camera_stream(offset: float = 0.0, age: float = 0.03, count: int = 60) -> Stream:
    received = [1000.0 + n / 30.0 for n in range(count)]
    stamps = [time - age + offset for time in received]
    size = (CONTRACT.cameras[0].width, CONTRACT.cameras[0].height)
    return Stream({IMAGE}, ["driver"], [], [], received, stamps, set(), {size})


def seen_cameras(scene: Stream, wrist: Stream) -> Seen:
    topics = [Seen().resolve(camera.topic) for camera in CONTRACT.cameras]
    return Seen(streams=dict(zip(topics, (scene, wrist), strict=True)))


def failures_of(findings) -> list:
    return [finding for finding in findings if finding.level is Level.FAIL]


def test_a_clock_ahead_is_distinguished_from_old_images():
    ahead = failures_of(
        check_cameras(CONTRACT, seen_cameras(camera_stream(age=-2.0), camera_stream()))
    )
    assert "2.000 s in the future" in ahead[0].seen
    assert "synchronise the clocks" in ahead[0].cure
    late = failures_of(
        check_cameras(CONTRACT, seen_cameras(camera_stream(age=0.4), camera_stream(age=0.4)))
    )
    assert "0.400 s old" in late[0].seen
    assert "observation_age_s" in late[0].cure


def test_camera_skew_is_measured():
    slow = camera_stream(count=20)
    slow.stamps = [stamp + 0.4 for stamp in slow.stamps]
    slow.received = [time + 0.4 for time in slow.received]
    skewed = [
        finding
        for finding in check_cameras(CONTRACT, seen_cameras(camera_stream(count=8), slow))
        if finding.subject == "camera skew"
    ]
    assert skewed[0].level is Level.FAIL
    even = [
        finding
        for finding in check_cameras(CONTRACT, seen_cameras(camera_stream(), camera_stream(0.01)))
        if finding.subject == "camera skew"
    ]
    assert even[0].level is Level.PASS


@pytest.mark.parametrize(
    ("share", "level"), [(1.0, Level.PASS), (0.8, Level.WARN), (0.4, Level.FAIL)]
)
def test_rate_of_a_camera_is_graded(share, level):
    stream = camera_stream()
    stream.received = [1000.0 + (time - 1000.0) / share for time in stream.received]
    stream.stamps = [time - 0.03 for time in stream.received]
    findings = [
        finding
        for finding in check_cameras(CONTRACT, seen_cameras(stream, camera_stream()))
        if "Hz" in finding.seen
    ]
    assert findings[0].level is level


def joint_states(**positions: float) -> Seen:
    seen = Seen(streams={"/joint_states": camera_stream(age=0.0)})
    seen.streams["/joint_states"].types = {"sensor_msgs/msg/JointState"}
    seen.joints.positions = HOME | positions
    return seen


def test_positions_in_degrees_are_suspected():
    findings = failures_of(check_joint_states(CONTRACT, joint_states(joint3=80.2)))
    assert "joint3 at 80.20 rad" in findings[0].seen
    assert "degrees" in findings[0].cure


def test_slow_gripper_and_nan_are_named():
    seen = joint_states(joint2=float("nan"))
    seen.joints.not_finite = {"joint2"}
    seen.joints.times = {"joint1": [0.0, 0.01, 0.02], "gripper": [0.0, 0.2, 0.4]}
    text = " ".join(finding.seen for finding in failures_of(check_joint_states(CONTRACT, seen)))
    assert "joint2 is not finite" in text
    assert "gripper every 0.20 s" in text


def controller(state: str = "active", joints: tuple[str, ...] = tuple(HOME)) -> Seen:
    one = Controller("joint_trajectory_controller", "JTC", state, joints)
    other = Controller("freedrive", "F", "active", joints) if state != "active" else None
    return Seen(controllers=[one, *([other] if other else [])])


def test_state_and_joints_of_the_controller_are_checked():
    assert failures_of(check_controller(CONTRACT, controller())) == []
    [inactive] = failures_of(check_controller(CONTRACT, controller("inactive")))
    assert inactive.cure.startswith("deactivate freedrive, then ros2 control set_controller_state")
    [joints] = failures_of(check_controller(CONTRACT, controller(joints=("joint1", "joint2"))))
    assert "joint3" in joints.seen
    [missing] = failures_of(check_controller(CONTRACT, Seen(controllers=[])))
    assert "joint_trajectory_controller is not loaded" in missing.seen
    assert failures_of(check_controller(CONTRACT, Seen())) == []


def test_two_publishers_of_one_joint_are_counted():
    seen = joint_states()
    seen.joints.sources = {"joint1": {"a"}, "joint2": {"a", "b"}}
    [failure] = failures_of(check_joint_states(CONTRACT, seen))
    assert "2 publishers report joint2 on /joint_states" in failure.seen


def test_cures_in_simulation_are_those_of_a_simulation():
    slow = camera_stream()
    slow.received = [1000.0 + (time - 1000.0) / 0.7 for time in slow.received]
    slow.stamps = [time - 0.03 for time in slow.received]
    seen = seen_cameras(slow, camera_stream())
    for seen.is_simulated, word in ((True, "real_time_factor"), (False, "USB")):
        [rate] = [
            finding for finding in check_cameras(CONTRACT, seen) if finding.level is Level.WARN
        ]
        assert word in rate.cure and ("USB" in rate.cure) is not seen.is_simulated


def test_parameters_of_the_controller_are_reported():
    seen = Seen(
        controller_refusal="/jtc: is set to velocity", controller_remarks=["/jtc: goal_time is 0"]
    )
    levels = {finding.seen: finding.level for finding in check_controller(CONTRACT, seen)}
    assert levels["/jtc: is set to velocity"] is Level.FAIL
    assert levels["/jtc: goal_time is 0"] is Level.WARN


def test_doctor_is_a_node_of_every_journey_when_asked():
    for graph in GRAPHS.values():
        assert "doctor" not in [node.name for node in graph()]
        [node] = [node for node in graph(doctor=True) if node.name == "doctor"]
        assert not node.essential
        assert node.parameters["contract"] == str(find_robot("sim_arm"))


@pytest.mark.ros
def test_doctor_as_a_node_reads_its_parameters(ros_domain, capfd):
    words = [
        "--ros-args",
        "-r",
        "__ns:=/left",
        "-p",
        f"contract:={find_robot('piper')}",
        "-p",
        "use_sim_time:=false",
        "-p",
        "patience_s:=0.1",
    ]
    assert command.main(words) == 1
    output = capfd.readouterr().out
    assert "doctor: piper" in output
    assert "/left/joint_states" in output


def test_simulated_time_passes_for_a_simulated_robot_only():
    for is_simulated, level in ((True, Level.PASS), (False, Level.WARN)):
        seen = Seen(has_clock=True, is_simulated=is_simulated, free_disk_gb=100.0)
        [clock] = [each for each in check_machine(CONTRACT, seen) if each.subject == "clock"]
        assert clock.level is level


def test_only_a_gpu_that_torch_cannot_use_is_a_warning():
    for devices, level in (([], Level.PASS), (["/dev/nvidia0"], Level.WARN)):
        seen = Seen(free_disk_gb=100.0, gpu_devices=devices)
        [gpu] = [each for each in check_machine(CONTRACT, seen) if each.subject == "GPU"]
        assert gpu.level is level


def test_only_a_real_robot_needs_an_emergency_stop():
    for is_simulated, level in ((True, Level.PASS), (False, Level.WARN)):
        findings = check_nodes(CONTRACT, Seen(is_simulated=is_simulated))
        [stop] = [each for each in findings if each.subject == "emergency stop"]
        assert stop.level is level


@pytest.mark.parametrize("topic", ["/emergency_stop", "/left/emergency_stop"])
def test_a_button_of_a_namespace_and_the_shared_one_are_found(topic):
    seen = Seen(namespace="left")
    seen.streams[topic] = Stream({"std_msgs/msg/Bool"}, ["panel"], [])
    [stop] = [each for each in check_nodes(CONTRACT, seen) if each.subject == "emergency stop"]
    assert (stop.level, stop.seen) == (Level.PASS, f"{topic} from panel")
    seen.streams["/right/emergency_stop"] = seen.streams.pop(topic)
    [stop] = [each for each in check_nodes(CONTRACT, seen) if each.subject == "emergency stop"]
    assert stop.seen == "no node publishes /left/emergency_stop or /emergency_stop"


def test_full_disk_fails_also_in_json():
    findings = list(
        check_machine(CONTRACT, Seen(free_disk_gb=0.5, disk="/data", versions={"numpy": "2"}))
    )
    report = json.loads(as_json("sim_arm", findings))
    assert report["ok"] is False
    assert any(each["level"] == "FAIL" and "/data" in each["seen"] for each in report["findings"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["robot:=ur55"], "ur55"), (["seconds:=0"], "seconds"), (["x:=1"], "x:=1")],
)
def test_bad_arguments_end_with_one_sentence(words, sentence, capsys):
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_relative_topics_resolve_in_the_namespace():
    seen = Seen("left/arm")
    assert seen.resolve("joint_states") == "/left/arm/joint_states"
    assert seen.resolve("/joint_states") == "/joint_states"


def test_a_controller_is_found_in_the_namespace_of_its_topic():
    data = CONTRACT.model_copy(
        update={
            "command": CONTRACT.command.model_copy(
                update={"topic": "/left/arm_controller/joint_trajectory"}
            )
        }
    )
    assert isinstance(data, Contract)
    found = Controller("arm_controller", "JTC", "active", tuple(HOME))
    assert failures_of(check_controller(data, Seen(controllers=[found]))) == []
