"""Tests of the recorder node with real publishers: training reads what they sent."""

import array
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from synthetic_episodes import HEIGHT, WIDTH, image, tiny_contract

from sf_msgs.msg import ActionChunk
from sf_policy_node.motion.types import Chunk
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.recording import messages
from sf_training.recording.recorder_node import Recorder
from sf_training.recording.writer.queued_writer import QueuedWriter

pytestmark = pytest.mark.ros
SCENE, WRIST = "/scene_camera/image_raw", "/wrist_camera/image_raw"


def header(seconds: float, frame: str = "") -> Header:
    result = Header(frame_id=frame)
    result.stamp.sec, result.stamp.nanosec = divmod(messages.nanoseconds(seconds), 1_000_000_000)
    return result


def image_message(seconds: float, pixels: np.ndarray) -> Image:
    height, width = pixels.shape[:2]
    message = Image(
        header=header(seconds, "c"), height=height, width=width, encoding="rgb8", step=width * 3
    )
    message.data = array.array("B", pixels.tobytes())
    return message


class Robot:
    """Publishers of a contract's topics and a client of the recorder, spun by hand."""

    def __init__(self, contract, directory, contract_file):
        self.contract = contract
        rclpy.init()
        parameters = {
            "contract": str(contract_file),
            "directory": str(directory),
            "operator": "test",
        }
        self.recorder = Recorder()
        self.recorder.set_parameters(
            [Parameter(name, value=value) for name, value in parameters.items()]
        )
        self.node = rclpy.create_node("robot")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.recorder)
        self.executor.add_node(self.node)
        self.cameras = {
            topic: self.node.create_publisher(Image, topic, qos_profile_sensor_data)
            for topic in (SCENE, WRIST)
        }
        self.joints = self.node.create_publisher(
            JointState, "/joint_states", qos_profile_sensor_data
        )
        self.commands = self.node.create_publisher(JointState, "/teleop/joint_command", 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.instruction = self.node.create_publisher(String, "/instruction", latched)

    def wait(self, condition, what: str, timeout: float = PATIENCE_S):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen within {timeout} s"
            self.executor.spin_once(timeout_sec=0.05)

    def start_up(self):
        self.recorder.trigger_configure()
        self.recorder.trigger_activate()
        publishers = [*self.cameras.values(), self.joints, self.commands, self.instruction]
        self.wait(
            lambda: all(publisher.get_subscription_count() for publisher in publishers), "discovery"
        )

    def call(self, service: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, f"/recorder/{service}")
        self.wait(client.service_is_ready, f"service {service}")
        future = client.call_async(Trigger.Request())
        self.wait(future.done, f"answer of {service}")
        return future.result()

    def publish_frame(self, frame: int, seconds: float):
        for index, (topic, publisher) in enumerate(self.cameras.items()):
            publisher.publish(image_message(seconds, image(frame, index)))
            self.received(topic, frame + 1)
        names = self.contract.command_joints
        self.joints.publish(
            JointState(header=header(seconds), name=names, position=[0.01 * frame] * 7)
        )
        self.commands.publish(
            JointState(header=header(seconds), name=names, position=[0.01 * frame] * 7)
        )
        self.received("/joint_states", frame + 1)
        self.received("/teleop/joint_command", frame + 1)

    def received(self, topic: str, count: int):
        queue = self.recorder.session.queue
        self.wait(
            lambda: queue.received[topic] >= count, f"message {count} of {topic} at the recorder"
        )

    def close(self):
        self.recorder.destroy_node()
        self.node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def contract():
    return tiny_contract()


@pytest.fixture
def contract_file(tmp_path, contract):
    path = tmp_path / "robot.yaml"
    path.write_text(contract.to_yaml())
    path.with_name(contract.urdf).write_text(contract.urdf_xml)
    return path


@pytest.fixture
def robot(ros_domain, tmp_path, contract, contract_file):
    robot = Robot(contract, tmp_path / "episodes", contract_file)
    yield robot
    robot.close()


@pytest.mark.parametrize(("codec", "error"), [("raw", 0), ("h264", 2)])
def test_an_episode_over_dds_trains(robot, tmp_path, contract, codec, error):
    robot.recorder.set_parameters([Parameter("image_codec", value=codec)])
    robot.start_up()
    robot.instruction.publish(String(data="pick the red cube"))
    robot.wait(lambda: robot.recorder.instruction, "instruction")
    assert robot.call("start").success
    for frame in range(4):
        robot.publish_frame(frame, 100.0 + 0.1 * frame)
    response = robot.call("stop")
    assert response.success, response.message
    assert "success" in response.message and "dropped: none" in response.message
    (bag,) = (tmp_path / "episodes").iterdir()
    reader = EpisodeReader(bag, contract)
    assert (reader.instruction, reader.operator, reader.outcome) == (
        "pick the red cube",
        "test",
        "success",
    )
    assert reader.counts["/instruction"] == 1
    data = load_dataset(
        [bag], contract, size=12, workers=1, progress=False, verdicts=("PASS", "WARN", "FAIL")
    )  # four frames are too few for a rate
    assert data.stamps.tolist() == pytest.approx([100.0, 100.1, 100.2, 100.3])
    assert data.pair_frame.tolist() == [0, 1, 2]  # after the last frame nothing was commanded
    assert data.images[:, 1, 0, 0, 0].tolist() == pytest.approx([100, 110, 120, 130], abs=error)
    assert (reader.topics[SCENE] == messages.VIDEO_PACKET) == (codec == "h264")
    with AnyReader([bag]) as bag_reader:
        latched = next(
            connection
            for connection in bag_reader.connections
            if connection.topic == "/instruction"
        )
        assert latched.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"


def test_the_bag_stores_publisher_profiles_and_viewer_topics(robot, tmp_path):
    """`ros2 bag play` uses the publishers' QoS.

    Cases are a reliable camera, and a latched command with a deadline.
    """
    robot.node.destroy_publisher(robot.cameras[SCENE])
    robot.cameras[SCENE] = robot.node.create_publisher(Image, SCENE, QoSProfile(depth=5))
    latched = QoSProfile(
        depth=1,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
        deadline=Duration(seconds=2, nanoseconds=5),
    )
    robot.node.destroy_publisher(robot.commands)
    robot.commands = robot.node.create_publisher(JointState, "/teleop/joint_command", latched)
    described = robot.node.create_publisher(String, "/robot_description", latched)
    described.publish(String(data="<robot/>"))
    robot.start_up()
    robot.recorder.instruction = "pick"
    robot.wait(
        lambda: robot.recorder.session._latched["/robot_description"], "the robot's description"
    )
    assert robot.call("start").success
    diagnostics = robot.node.create_publisher(DiagnosticArray, "/diagnostics", 1)
    robot.wait(diagnostics.get_subscription_count, "discovery")
    diagnostics.publish(DiagnosticArray())
    robot.received("/diagnostics", 1)
    robot.publish_frame(0, 100.0)
    assert robot.call("stop").success
    (bag,) = (tmp_path / "episodes").iterdir()
    assert yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "ros_distro"
    ] not in ("", "unknown")
    with AnyReader([bag]) as reader:
        topics = {connection.topic: connection for connection in reader.connections}
        counts = {topic: connection.msgcount for topic, connection in topics.items()}
        assert (counts["/robot_description"], counts["/diagnostics"]) == (1, 1)
        profiles = {
            topic: connection.ext.offered_qos_profiles for topic, connection in topics.items()
        }
        text = {
            topic: [(each.reliability.name, each.durability.name) for each in profiles[topic]]
            for topic in profiles
        }
        assert text[SCENE] == [("RELIABLE", "VOLATILE")] and text[WRIST] == [
            ("BEST_EFFORT", "VOLATILE")
        ]
        assert text["/teleop/joint_command"] == [("RELIABLE", "TRANSIENT_LOCAL")]
        assert text["/diagnostics"] == [("RELIABLE", "VOLATILE")], "it came after the start"
        deadline = profiles["/teleop/joint_command"][0].deadline
        assert (deadline.sec, deadline.nsec) == (2, 5)


def same_bytes(data: bytes, type_name: str) -> bytes:
    """Return the message with zeros as padding; rclpy leaves arbitrary bytes there."""
    return bytes(
        messages.typestore().serialize_cdr(messages.deserialize(data, type_name), type_name)
    )


def test_images_recorded_by_the_node_and_offline_are_equal(robot, tmp_path, contract):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    robot.start_up()
    robot.instruction.publish(String(data="pick"))
    robot.wait(lambda: robot.recorder.instruction, "instruction")
    robot.call("start")
    robot.publish_frame(0, 5.0)
    sent = image_message(5.1, pixels)
    robot.cameras[SCENE].publish(sent)
    robot.received(SCENE, 2)
    assert robot.call("stop").success
    (bag,) = (tmp_path / "episodes").iterdir()
    with AnyReader([bag]) as reader:
        stored = [
            bytes(data) for connection, _, data in reader.messages() if connection.topic == SCENE
        ]
    assert same_bytes(stored[1], messages.IMAGE) == same_bytes(
        serialize_message(sent), messages.IMAGE
    )
    assert same_bytes(stored[1], messages.IMAGE) == bytes(messages.image(5.1, "c", pixels))
    ((_, _, decoded),) = EpisodeReader(bag, contract).frames({SCENE: [1]})
    np.testing.assert_array_equal(decoded, pixels)


def test_offline_messages_equal_those_of_rclpy(contract):
    names = contract.command_joints
    state = JointState(header=header(3.25), name=names, position=[0.5] * 7, velocity=[1.0] * 7)
    offline = bytes(messages.joint_state(3.25, names, np.full(7, 0.5), np.ones(7)))
    assert (
        offline == same_bytes(serialize_message(state), messages.JOINT_STATE)
        and deserialize_message(offline, JointState) == state
    )
    assert bytes(messages.string("pick")) == same_bytes(
        serialize_message(String(data="pick")), messages.STRING
    )
    info = deserialize_message(
        bytes(messages.camera_info(3.25, "c", 320, 240, np.diag([100.0, 100.0, 1.0]))), CameraInfo
    )
    assert (info.width, info.height, info.k[0], info.p[5], info.header.frame_id) == (
        320,
        240,
        100.0,
        100.0,
        "c",
    )
    pose = deserialize_message(
        bytes(messages.pose(3.25, "base_link", np.diag([-1.0, 1.0, -1.0]), [1, 2, 3])), PoseStamped
    )
    assert abs(pose.pose.orientation.y) == pytest.approx(1.0) and pose.pose.position.z == 3.0
    chunk = Chunk(
        3.25,
        "base_link",
        "p",
        contract.hash,
        "pick",
        4,
        5,
        contract.action.space,
        tuple(contract.action.names),
        0.1,
        np.arange(32.0).reshape(8, 4),
        tuple(names),
        np.arange(7.0),
        0.5,
    )
    data = bytes(messages.action_chunk(chunk))
    live = deserialize_message(data, ActionChunk)
    assert same_bytes(serialize_message(live), messages.ACTION_CHUNK) == data
    assert (live.action_space, live.rows, live.columns, live.epoch) == (
        ActionChunk.EE_DELTA,
        8,
        4,
        4,
    )
    again = messages.to_chunk(messages.deserialize(data, messages.ACTION_CHUNK))
    np.testing.assert_array_equal(again.data, chunk.data)
    assert (again.names, again.space, again.instruction, again.stamp) == (
        chunk.names,
        chunk.space,
        "pick",
        3.25,
    )


def test_services_name_the_error(robot, tmp_path):
    assert robot.call("start").message == "recorder is not active; configure and activate it first"
    robot.start_up()
    assert robot.call("stop").message == "no episode is being recorded; start one first"
    assert (
        robot.call("start").message
        == "there is no instruction; publish one on /instruction or set the parameter instruction"
    )
    robot.instruction.publish(String(data="x" * 10_000))
    robot.wait(lambda: robot.recorder.instruction, "instruction")
    assert (
        robot.call("start").message
        == "the instruction has 10000 characters, at most 500 are read; shorten it"
    )
    assert not (tmp_path / "episodes").exists()
    robot.instruction.publish(String(data="pick"))
    robot.wait(lambda: robot.recorder.instruction == "pick", "instruction")
    assert robot.call("start").success
    assert robot.call("start").message == "an episode is being recorded; stop or discard it first"
    response = robot.call("stop")  # nothing was published
    assert (
        not response.success
        and "discarded (no message on /scene_camera/image_raw, /wrist_camera/image_raw"
        in response.message
    )


def test_discard_and_deactivation_exclude_the_bag_from_training(robot, tmp_path):
    robot.start_up()
    robot.instruction.publish(String(data="pick"))
    robot.wait(lambda: robot.recorder.instruction, "instruction")
    robot.call("start")
    robot.publish_frame(0, 5.0)
    assert robot.call("discard").success
    robot.call("start")
    robot.publish_frame(0, 6.0)
    robot.recorder.trigger_deactivate()
    outcomes = [
        (EpisodeReader(bag).outcome, EpisodeReader(bag).metadata["note"])
        for bag in sorted((tmp_path / "episodes").iterdir())
    ]
    assert outcomes == [("discarded", ""), ("discarded", "the recorder was stopped")]


def test_messages_that_never_arrived_are_counted(robot):
    """Best effort leaves gaps in a publisher's sequence numbers."""
    robot.start_up()
    robot.instruction.publish(String(data="pick"))
    robot.wait(lambda: robot.recorder.instruction, "instruction")
    robot.call("start")
    robot.publish_frame(0, 5.0)
    sent = bytes(messages.image(5.1, "c", image(1, 0)))
    for sequence in (1, 2, 5, 6):
        robot.recorder.session.add(SCENE, sent, 5_100_000_000 + sequence, None, sequence, b"camera")
    assert "dropped: /scene_camera/image_raw 2" in robot.call("stop").message


def test_a_wrong_contract_ends_the_node_with_one_sentence(ros_domain, tmp_path):
    command = [
        sys.executable,
        "-m",
        "sf_training.recording.recorder_node",
        "--ros-args",
        "-p",
        f"contract:={tmp_path}/none.yaml",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 1
    assert (
        "none.yaml: cannot be read (No such file or directory); check the robot's name or path"
        in result.stderr
    )


def test_interrupting_the_node_saves_the_episode(
    ros_domain, tmp_path, contract, contract_file, robot
):
    """Ctrl-C during a recording finishes the bag, with the reason why it is discarded."""
    arguments = {"contract": contract_file, "directory": tmp_path / "other", "instruction": "pick"}
    parameters = [part for name, value in arguments.items() for part in ("-p", f"{name}:={value}")]
    command = [
        sys.executable,
        "-m",
        "sf_training.recording.recorder_node",
        "--ros-args",
        "-r",
        "__node:=second",
        *parameters,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        client = robot.node.create_client(Trigger, "/second/start")
        robot.wait(client.service_is_ready, "second recorder", PATIENCE_S)
        future = client.call_async(Trigger.Request())
        robot.wait(future.done, "start")
        assert future.result().success and "no node publishes /scene" not in future.result().message
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
    (bag,) = (tmp_path / "other").iterdir()
    custom = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]
    assert (custom["outcome"], custom["note"]) == ("discarded", "the recorder was stopped"), output


def test_a_slow_disk_drops_and_counts_but_never_blocks():
    class SlowWriter:
        """A writer that blocks until it is released."""

        def __init__(self):
            self.written, self.drops, self.allowed = [], None, threading.Event()

        def write(self, topic, data, log_time, publish_time):
            self.allowed.wait()
            self.written.append(log_time)

        def flush(self):
            pass

        def sync(self):
            pass

        def finish(self, outcome, note, drops, verdict, reasons, write_delay_ms):
            self.drops = dict(drops)
            return outcome

    slow = SlowWriter()
    queued = QueuedWriter(slow, capacity=10 * 1000)
    for n in range(25):
        queued.put("/t", bytes(1000), n)  # returns although the writer is blocked
    slow.allowed.set()
    assert queued.finish("success") == "success"
    assert (
        slow.written == list(range(10)) and slow.drops == {"/t": 15} and queued.received["/t"] == 10
    )
