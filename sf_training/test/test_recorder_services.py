"""Tests over DDS of the recorder's services and status, and of the keyboard and gamepad nodes."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import String
from synthetic_episodes import tiny_contract

from sf_msgs.msg import RecorderStatus
from sf_msgs.srv import EndEpisode, LabelEpisode, StartEpisode
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.data.episode_reader import EpisodeReader
from sf_training.recording import messages
from sf_training.recording.joy_node import RecorderJoy
from sf_training.recording.keyboard_node import RecorderKeys
from sf_training.recording.recorder_node import Recorder
from sf_training.recording.recover.recovery import recover_episode
from sf_training.recording.session.recording_session import State
from sf_training.recording.topics import absolute

pytestmark = pytest.mark.ros
PIXELS = np.zeros((24, 32, 3), np.uint8)
SCENE, WRIST = "/scene_camera/image_raw", "/wrist_camera/image_raw"


class Cell:
    """A robot that publishes while it is spun, and other nodes in the same executor."""

    def __init__(self, directory, contract_file, begin_recorder=True):
        rclpy.init()
        self.contract = tiny_contract()
        self.node = rclpy.create_node("robot")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.nodes = [self.node]
        self.cameras = [
            self.node.create_publisher(Image, topic, qos_profile_sensor_data)
            for topic in (SCENE, WRIST)
        ]
        self.joints = self.node.create_publisher(
            JointState, "/joint_states", qos_profile_sensor_data
        )
        self.commands = self.node.create_publisher(JointState, "/teleop/joint_command", 10)
        self.status = None
        self.node.create_subscription(RecorderStatus, "/recorder/status", self._on_status, LATCHED)
        self.node.create_timer(1 / 30, self._publish)
        self.silent = False
        if begin_recorder:
            self.recorder = Recorder()
            values = {
                "contract": str(contract_file),
                "directory": str(directory),
                "operator": "anna",
            }
            self.recorder.set_parameters(
                [Parameter(name, value=value) for name, value in values.items()]
            )
            self.add(self.recorder)
            self.recorder.trigger_configure()
            self.recorder.trigger_activate()

    def add(self, node):
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def _on_status(self, status):
        self.status = status

    def _publish(self):
        if self.silent:
            return
        now = self.node.get_clock().now().nanoseconds * 1e-9
        for publisher in self.cameras:
            publisher.publish(deserialize_message(bytes(messages.image(now, "c", PIXELS)), Image))
        for publisher in (self.joints, self.commands):
            publisher.publish(
                deserialize_message(
                    bytes(messages.joint_state(now, self.contract.command_joints, np.zeros(7))),
                    JointState,
                )
            )

    def wait(self, condition, what, timeout=PATIENCE_S):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, (
                f"{what} did not happen within {timeout} s; status {self.status}"
            )
            self.executor.spin_once(timeout_sec=0.05)

    def state(self, state):
        self.wait(
            lambda: self.status is not None and self.status.state == state, f"state {state.name}"
        )
        return self.status

    def call(self, kind, name, recorder="/recorder", **fields):
        client = self.node.create_client(kind, f"{recorder}/{name}")
        self.wait(client.service_is_ready, name)
        future = client.call_async(kind.Request(**fields))
        self.wait(future.done, f"answer of {name}")
        return future.result()

    def streams_flow(self):
        self.wait(
            lambda: self.status and sum(stream.received > 3 for stream in self.status.streams) >= 4,
            "messages of all streams",
        )

    def close(self):
        for node in self.nodes:
            node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def contract_file(tmp_path):
    contract = tiny_contract()
    path = tmp_path / "robot.yaml"
    path.write_text(contract.to_yaml())
    path.with_name(contract.urdf).write_text(contract.urdf_xml)
    return path


@pytest.fixture
def cell(ros_domain, tmp_path, contract_file):
    cell = Cell(tmp_path / "episodes", contract_file)
    yield cell
    cell.close()


def custom_data(bag):
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]


def test_a_series_by_service_with_countdown_labels_and_undo(cell, tmp_path):
    cell.streams_flow()
    response = cell.call(
        StartEpisode, "start_episode", instruction="pick the red cube", countdown_s=0.5
    )
    assert response.success and response.message.startswith("in 0.5 s recording"), response
    assert cell.state(State.COUNTDOWN).countdown_s <= 0.5
    cell.state(State.RECORDING)
    cell.wait(lambda: cell.status.duration_s > 1.5, "an episode of 1.5 s")
    assert cell.status.instruction == "pick the red cube" and cell.status.camera_skew_s >= 0
    ended = cell.call(EndEpisode, "end_episode", outcome="success", note="a good one")
    assert ended.success and ended.episode == response.episode, ended
    bag = tmp_path / "episodes" / response.episode.rpartition("/")[2]
    assert custom_data(bag)["note"] == "a good one" and custom_data(bag)["operator"] == "anna"
    assert EpisodeReader(bag, cell.contract).outcome == "success"

    labelled = cell.call(
        LabelEpisode, "label_episode", outcome="failure", instruction="pick the green cube"
    )
    assert labelled.success and labelled.episode == str(bag), labelled
    cell.wait(lambda: list(cell.status.outcomes) == ["failure 1"], "the count of outcomes")
    undone = cell.call(LabelEpisode, "label_episode", undo=True)
    assert undone.success and "the outcome is success" in undone.message
    cell.wait(lambda: list(cell.status.outcomes) == ["success 1"], "the count of outcomes")
    assert "no label to undo" in cell.call(LabelEpisode, "label_episode", undo=True).message
    assert (
        "is not a finished episode"
        in cell.call(LabelEpisode, "label_episode", episode="other", outcome="failure").message
    )
    assert (
        "must be one of success" in cell.call(EndEpisode, "end_episode", outcome="perfect").message
    )
    assert (
        "is not between 0 and 60"
        in cell.call(StartEpisode, "start_episode", instruction="x", countdown_s=99.0).message
    )


def test_one_volatile_instruction_is_received_once(cell, tmp_path):
    publisher = cell.node.create_publisher(
        String, "/instruction", 10
    )  # volatile, like `ros2 topic pub` without options
    cell.wait(lambda: publisher.get_subscription_count() >= 1, "discovery")
    assert cell.call(StartEpisode, "start_episode", instruction="pick").success
    publisher.publish(String(data="place it"))
    cell.wait(lambda: cell.recorder.instruction == "place it", "the instruction")
    cell.wait(lambda: cell.recorder.session.queue.received[SCENE], "an image")
    cell.wait(lambda: cell.recorder.session.queue.received[WRIST], "an image")
    ended = cell.call(EndEpisode, "end_episode", outcome="discarded")
    assert any("the instruction changed to 'place it'" in reason for reason in ended.reasons)
    (bag,) = (tmp_path / "episodes").iterdir()
    assert custom_data(bag)["instruction"] == "pick"
    assert EpisodeReader(bag, cell.contract).counts["/instruction"] == 2


def test_a_stopped_camera_is_reported_during_the_episode(cell):
    reports = []
    cell.node.create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)
    cell.streams_flow()
    cell.call(StartEpisode, "start_episode", instruction="pick")
    cell.wait(lambda: cell.status.duration_s > 0.5, "half a second")
    cell.cameras.pop()

    def is_failing():
        stream = next((each for each in cell.status.streams if each.topic == WRIST), None)
        return stream and stream.verdict == 2 and stream.longest_gap_s > 0.5

    cell.wait(is_failing, "FAIL of the wrist camera")
    cell.wait(
        lambda: any(
            status.level == b"\x02" and WRIST in status.message
            for report in reports
            for status in report.status
        ),
        "diagnostics",
    )
    ended = cell.call(EndEpisode, "end_episode", outcome="success")
    assert ended.verdict == 2 and any(WRIST in reason for reason in ended.reasons)


def test_keys_and_buttons_act_like_the_services(cell, tmp_path):
    keys = cell.add(RecorderKeys(parameter_overrides=[Parameter("countdown_s", value=0.0)]))
    cell.wait(lambda: keys.client.status is not None, "status at the keyboard")
    for character in "ipick it\x7f\x7fup\r":
        keys.key(character)
    assert keys.reports[-1] == (True, "next episodes: pick up")
    cell.streams_flow()
    keys.key(" ")
    cell.state(State.RECORDING)
    cell.wait(lambda: cell.recorder.session.queue.received[SCENE] > 3, "images")
    keys.key("f")
    cell.wait(
        lambda: any("failure" in sentence for done, sentence in keys.reports if done), "the answer"
    )
    (bag,) = (tmp_path / "episodes").iterdir()
    assert (custom_data(bag)["outcome"], custom_data(bag)["instruction"]) == ("failure", "pick up")
    cell.state(State.IDLE)

    joy = cell.add(RecorderJoy())
    publisher = cell.node.create_publisher(Joy, "joy", 10)
    cell.wait(
        lambda: publisher.get_subscription_count() and joy._client.status is not None, "discovery"
    )
    for pressed in (0, 1, 0):  # button 11: success, here a new label
        publisher.publish(Joy(buttons=[pressed if number == 11 else 0 for number in range(15)]))
    cell.wait(lambda: list(cell.status.outcomes) == ["success 1"], "the label")
    keys.key("q")
    assert keys.has_quit

    driver = cell.add(RecorderKeys(parameter_overrides=[Parameter("drive", value=True)]))
    moved = []
    cell.node.create_subscription(Joy, "teleop/keys", moved.append, 10)

    def drives():
        driver.key("s")  # moves back here; would label a success without `drive`
        driver.publish_motion()
        return any(message.axes[0] < 0 for message in moved)

    cell.wait(drives, "the motion of a key")
    driver.key("5")
    assert driver.typing is not None and driver.reports == []


def test_a_killed_recorder_loses_a_second_and_the_next_one_continues(
    ros_domain, tmp_path, contract_file
):
    """SIGKILL reaches the node in the middle of an episode over DDS."""
    cell = Cell(tmp_path, contract_file, begin_recorder=False)
    arguments = {
        "contract": contract_file,
        "directory": tmp_path / "episodes",
        "instruction": "pick",
    }
    words = [part for name, value in arguments.items() for part in ("-p", f"{name}:={value}")]
    process = subprocess.Popen(
        [sys.executable, "-m", "sf_training.recording.recorder_node", "--ros-args", *words]
    )
    try:
        cell.wait(lambda: cell.status is not None, "the recorder", 40.0)
        cell.streams_flow()
        assert cell.call(StartEpisode, "start_episode").success
        cell.state(State.RECORDING)
        cell.wait(lambda: cell.status.duration_s > 2.0, "an episode of two seconds")
        process.send_signal(signal.SIGKILL)
        killed = time.time()
        process.wait(PATIENCE_S)
        recovered = recover_episode(next((tmp_path / "episodes").glob("*.partial")))
    finally:
        process.kill()
        process.wait()
        cell.close()
    assert recovered.seconds > 1.0 and recovered.outcome == "discarded"
    reader = EpisodeReader(recovered.path, cell.contract)
    assert reader.counts[SCENE] > 30
    with AnyReader([recovered.path]) as bag:
        assert killed - bag.end_time * 1e-9 < 1.0


def test_lost_messages_are_counted_where_rclpy_merges_publishers(cell):
    node, topic = cell.recorder, absolute(cell.contract.topics.instruction)
    one = node.create_publisher(String, topic, 1)
    cell.wait(lambda: node.count_publishers(topic) == 1, "the publisher")
    say = {name: serialize_message(String(data=name)) for name in ("red", "blue")}
    node._on_message(topic, say["red"], {"publication_sequence_number": 1, "source_timestamp": 1})
    node._on_message(topic, say["blue"], {"publication_sequence_number": 1, "source_timestamp": 2})
    assert node.instruction == "blue"
    assert node._only_publisher(topic) and not node._only_publisher("/nobody")
    node.destroy_publisher(one)
