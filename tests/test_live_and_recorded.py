"""Tests that live observations and the bag of the same seconds give the same tensors.

Only messages that both sides received are compared: sensor data are best effort, so on a busy
machine each subscriber loses other messages. The node's own tests cover losses
(``sf_policy_node/test/test_policy_node.py``).
"""

import bisect

import numpy as np
import pytest
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_bringup.sim_arm import JOINT_STATE_PERIOD
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.nodes.conversions import image_to_array, to_seconds, to_stamp
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_policy_node.perception.observation import JointStates, NoObservation, ObservationBuffer
from sf_policy_node.perception.robot_state import robot_state
from sf_policy_node.ros_testing import PATIENCE_S
from sf_policy_node.vla.preprocessing import prepare
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader, find_episodes
from sf_training.recording.topics import absolute

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SIZE = (72, 96)
WANTED = 90  # live observations with complete joint states: 3 s of a camera


def microseconds(seconds):
    return round(seconds * 1e6)


def around(ordered, stamp):
    """Return the last of ``ordered`` at or before ``stamp`` and the first after it.

    Infinite where there is none.
    """
    index = bisect.bisect_right(ordered, stamp)
    return ordered[index - 1] if index else -np.inf, (
        ordered[index] if index < len(ordered) else np.inf
    )


class Watcher(ArmClient):
    """A node that observes with the policy's code and teleoperates the arm."""

    def __init__(self, contract, alive):
        super().__init__(contract, alive=alive)
        self.contract, self.cameras = contract, {camera.name: camera for camera in contract.cameras}
        self.buffer, self.states = ObservationBuffer(contract), JointStates(contract)
        self.seen, self.newest, self.start, self.leading = {}, 0.0, None, None
        self.joint_stamps, self.image_stamps = (
            [],
            {name: set() for name in self.cameras},
        )  # [us], as received
        subscribe = self._node.create_subscription
        for camera in contract.cameras:
            subscribe(
                Image,
                camera.topic,
                lambda message, name=camera.name: self._on_image(name, message),
                qos_profile_sensor_data,
            )
        subscribe(
            JointState, contract.topics.joint_states, self._on_joints, qos_profile_sensor_data
        )
        self._commands = self._node.create_publisher(JointState, contract.topics.teleop_command, 10)
        self.said = self._node.create_publisher(String, contract.topics.instruction, LATCHED)

    def recorder(self, service):
        client = self._node.create_client(Trigger, f"/recorder/{service}")
        self.wait_until(client.service_is_ready, PATIENCE_S, f"/recorder/{service} was not there")

        def done():
            future = client.call_async(Trigger.Request())
            self.wait_until(future.done, PATIENCE_S, f"/recorder/{service} did not answer")
            return future.result().success

        self.wait_until(done, PATIENCE_S, f"/recorder/{service} did not succeed")

    def _on_image(self, name, message):
        self.newest = to_seconds(message.header.stamp)
        self.image_stamps[name].add(microseconds(self.newest))
        self.buffer.add_image(name, self.newest, message)
        self._observe()

    def _on_joints(self, message):
        stamp = to_seconds(message.header.stamp)
        read = self.states.read(stamp, message.name, message.position, message.velocity)
        self.joint_stamps.append(microseconds(stamp))
        self.buffer.add_joint_state(stamp, message.name, message.position)
        self._observe()
        if self.leading is not None:
            self.start = read[1] if self.start is None else self.start
            command = self.start.copy()
            command[:2] += 0.15 * np.sin(1.5 * (stamp - self.leading))
            header = Header(stamp=to_stamp(stamp))
            self._commands.publish(
                JointState(
                    header=header, name=self.contract.command_joints, position=command.tolist()
                )
            )

    def _observe(self):
        try:
            observation = self.buffer.pick(self.newest)
        except NoObservation:
            return
        # On a busy machine images overtake joint states that are older. The observation does not
        # know these yet, and the bag does.
        if self.joint_stamps and self.joint_stamps[-1] >= microseconds(self.newest):
            self.seen[microseconds(observation.stamp)] = observation

    def complete(self):
        """Count observations between two joint states of consecutive periods."""
        period = 1.5e6 * JOINT_STATE_PERIOD
        return sum(
            after - before < period
            for before, after in (around(self.joint_stamps, stamp) for stamp in self.seen)
        )

    def tensors(self, stamp):
        observation = self.seen[stamp]
        frames = {
            name: image_to_array(message, self.cameras[name])
            for name, message in observation.images.items()
        }
        return prepare(frames, self.contract.camera_names, SIZE, "letterbox"), observation.joints


def test_a_live_run_and_its_bag_give_the_same_tensors(ros_domain, tmp_path):
    contract = load_contract(find_robot("sim_arm"))
    episodes = tmp_path / "episodes"
    with GraphProcess(
        ["robot:=sim_arm", "policy:=none", f"record:={episodes}"], tmp_path / "graph.log"
    ) as graph:
        watcher = Watcher(contract, graph.check)
        try:
            watcher.wait_for_arm(PATIENCE_S)
            watcher.wait_for_executor(PATIENCE_S)
            watcher.said.publish(String(data="wave"))
            watcher.recorder("start")
            watcher.leading = watcher.newest
            watcher.wait_until(
                lambda: watcher.newest > watcher.leading + 3.0,
                PATIENCE_S,
                "the arm did not send images",
            )
            watcher.wait_until(
                lambda: watcher.complete() > WANTED,
                PATIENCE_S,
                "hardly any joint state was received",
            )
            watcher.recorder("stop")
        finally:
            watcher.close()
    (bag,) = find_episodes(episodes)
    # On a busy machine joint states are lost and the recorder's verdict may be FAIL. What was
    # recorded must be equal all the same.
    every = {"outcomes": ("success", "discarded"), "verdicts": ("PASS", "WARN", "FAIL")}
    data = load_dataset(
        [bag], contract, size=SIZE, fit="letterbox", workers=1, progress=False, **every
    )
    assert (
        data.instructions == ["wave"] and absolute(contract.topics.joint_states) == "/joint_states"
    )
    assert np.ptp(data.joint_positions[:, 0]) > 0.05, (
        "the arm did not move: the comparison would show little"
    )

    topics = [
        absolute(name)
        for name in (contract.topics.joint_states, *(camera.topic for camera in contract.cameras))
    ]
    joints, *images = (
        sorted(np.round(1e-3 * stream.stamps).astype(int).tolist())
        for stream in read(bag, contract, topics)
    )
    images = [
        set(received) & live
        for received, live in zip(images, watcher.image_stamps.values(), strict=True)
    ]
    kinematics, compared = Kinematics(contract), 0
    for row, stamp in enumerate(map(microseconds, data.stamps)):
        alike = around(joints, stamp) == around(watcher.joint_stamps, stamp) and all(
            stamp in both for both in images
        )
        if not alike or stamp not in watcher.seen:
            continue
        compared += 1
        frames, live = watcher.tensors(stamp)
        np.testing.assert_array_equal(data.images[row], frames)
        np.testing.assert_array_equal(data.joint_positions[row], live.astype(np.float32))
        state = robot_state(contract, kinematics, live)
        np.testing.assert_allclose(
            robot_state(contract, kinematics, data.joint_positions[row]), state, atol=1e-6
        )
    assert compared >= 10, (
        f"of {len(data.stamps)} recorded observations only {compared} were received alike"
    )


def read(bag, contract, topics):
    """Return streams of a bag in the order of ``topics``."""
    streams = EpisodeReader(bag, contract).read(topics)
    return [streams[topic] for topic in topics]
