"""What the live code makes of a moving arm's messages, and what training reads of the bag of the same seconds, are the same tensors."""

import numpy as np
import pytest
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.nodes.conversions import image_to_array, to_seconds, to_stamp
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_policy_node.observation import JointStates, NoObservation, ObservationBuffer
from sf_policy_node.state import robot_state
from sf_policy_node.vla.preprocessing import prepare
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import find_episodes
from sf_training.recording.topics import absolute

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SIZE = (72, 96)


class Watcher(ArmClient):
    """Sees with the policy's own code, and leads the arm as an operator would."""

    def __init__(self, contract, alive):
        super().__init__(contract, alive=alive)
        self.contract, self.cameras = contract, {camera.name: camera for camera in contract.cameras}
        self.buffer, self.states = ObservationBuffer(contract), JointStates(contract)
        self.seen, self.newest, self.joints, self.start, self.leading = {}, 0.0, None, None, False
        subscribe = self._node.create_subscription
        for camera in contract.cameras:
            subscribe(Image, camera.topic, lambda message, name=camera.name: self._on_picture(name, message), qos_profile_sensor_data)
        subscribe(JointState, contract.topics.joint_states, self._on_joints, qos_profile_sensor_data)
        self._commands = self._node.create_publisher(JointState, contract.topics.teleop_command, 10)
        self.said = self._node.create_publisher(String, contract.topics.instruction, LATCHED)

    def recorder(self, service):
        client = self._node.create_client(Trigger, f"/recorder/{service}")
        self.wait_until(client.service_is_ready, 60, f"/recorder/{service} was not there")

        def done():
            future = client.call_async(Trigger.Request())
            self.wait_until(future.done, 60, f"/recorder/{service} did not answer")
            return future.result().success

        self.wait_until(done, 60, f"/recorder/{service} did not succeed")

    def _on_picture(self, name, message):
        self.newest = to_seconds(message.header.stamp)
        self.buffer.add_image(name, self.newest, message)
        self._look()

    def _on_joints(self, message):
        stamp = to_seconds(message.header.stamp)
        read = self.states.read(stamp, message.name, message.position, message.velocity)
        self.buffer.add_joint_state(stamp, message.name, message.position)
        self._look()
        if self.leading:
            self.start = read[1] if self.start is None else self.start
            command = self.start.copy()
            command[:2] += 0.15 * np.sin(1.5 * (stamp - self.leading))
            header = Header(stamp=to_stamp(stamp))
            self._commands.publish(JointState(header=header, name=self.contract.command_joints, position=command.tolist()))

    def _look(self):
        try:
            observation = self.buffer.pick(self.newest)
        except NoObservation:
            return
        self.seen[round(observation.stamp * 1e6)] = observation

    def tensors(self, stamp):
        observation = self.seen[stamp]
        pictures = {name: image_to_array(message, self.cameras[name]) for name, message in observation.images.items()}
        return prepare(pictures, self.contract.camera_names, SIZE, "letterbox"), observation.joints


def test_a_live_run_and_its_bag_give_the_same_tensors(ros_domain, tmp_path):
    contract = load_contract(find_robot("sim_arm"))
    episodes = tmp_path / "episodes"
    with GraphProcess(["robot:=sim_arm", "policy:=none", f"record:={episodes}"], tmp_path / "graph.log") as graph:
        watcher = Watcher(contract, graph.check)
        try:
            watcher.wait_for_arm(60)
            watcher.wait_for_executor(60)
            watcher.said.publish(String(data="wave"))
            watcher.recorder("start")
            began = watcher.newest
            watcher.leading = began
            watcher.wait_until(lambda: watcher.newest > began + 4.0, 120, "the arm did not send pictures")
            watcher.recorder("stop")
        finally:
            watcher.close()
    (bag,) = find_episodes(episodes)
    data = load_dataset([bag], contract, size=SIZE, fit="letterbox", outcomes=("success", "discarded"), workers=1, progress=False)
    assert data.instructions == ["wave"] and len(data.pair_frame) > 20 and absolute(contract.topics.joint_states) == "/joint_states"
    assert np.ptp(data.joint_positions[:, 0]) > 0.05, "the arm did not move: the comparison would show little"
    both = [(row, stamp) for row, stamp in enumerate(np.round(data.stamps * 1e6).astype(int).tolist()) if stamp in watcher.seen]
    assert len(both) > 0.8 * len(data.stamps) > 20
    kinematics = Kinematics(contract)
    for row, stamp in both:
        pictures, joints = watcher.tensors(stamp)
        np.testing.assert_array_equal(data.images[row], pictures)
        np.testing.assert_array_equal(data.joint_positions[row], joints.astype(np.float32))
        state = robot_state(contract, kinematics, joints)
        np.testing.assert_allclose(robot_state(contract, kinematics, data.joint_positions[row]), state, atol=1e-6)
