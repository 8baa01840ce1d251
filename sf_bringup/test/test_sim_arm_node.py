"""Tests of the simulated arm over DDS: rates, commands, resets and pause, in simulated time."""

import signal
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sf_bringup.arm_client import ArmClient, ArmClientError
from sf_bringup.graph import NodeSpec, find_robot
from sf_bringup.up import command_line
from sf_msgs.msg import MotionTruth
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = pytest.mark.ros
CONTRACT = load_contract(find_robot("sim_arm"))


def seconds(stamp) -> float:
    return stamp.sec + 1e-9 * stamp.nanosec


class Arm(ArmClient):
    """A client that counts stamps and sends trajectories."""

    def __init__(self, contract=CONTRACT):
        super().__init__(contract)
        self.contract = contract
        self.stamps, self.last = defaultdict(list), {}
        self.by_arm = {
            name: self._node.create_publisher(JointTrajectory, arm.command.topic, 10)
            for name, arm in contract.arms.items()
        }
        self.trajectories = next(iter(self.by_arm.values()))
        self.pause = self._node.create_client(SetBool, "/sim_arm/pause")
        self.listen(JointState, "/joint_states")

    def listen(self, kind, topic):
        def note(message):
            self.stamps[topic].append(
                seconds(message.clock if kind is Clock else message.header.stamp)
            )
            self.last[topic] = message

        self._node.create_subscription(kind, topic, note, qos_profile_sensor_data)

    def call(self, client, request):
        self.wait_until(client.service_is_ready, PATIENCE_S, "no service")
        return self._answer(client.call_async(request), "service")

    def joints(self):
        message = self.last["/joint_states"]
        return np.array(
            [message.position[message.name.index(name)] for name in self.contract.command_joints]
        )

    def later(self, duration, timeout_s=PATIENCE_S):
        """Wait until ``duration`` seconds of simulated time have passed."""
        end = self.simulated_time + duration
        self.wait_until(
            lambda: self.simulated_time >= end,
            timeout_s,
            f"{duration} simulated seconds did not pass",
        )

    def move(self, target, duration, names=CONTRACT.command_joints, arm=None):
        publisher = self.by_arm[arm] if arm else self.trajectories
        self.wait_until(publisher.get_subscription_count, PATIENCE_S, "nobody takes trajectories")
        point = JointTrajectoryPoint(positions=list(target), velocities=[0.0] * len(target))
        point.time_from_start.sec = int(duration)
        point.time_from_start.nanosec = int(duration % 1 * 1e9)
        publisher.publish(JointTrajectory(joint_names=list(names), points=[point]))


@pytest.fixture
def start(ros_domain):
    """Start the node with parameters; return a client and the process."""
    started = []

    def begin(robot="sim_arm", **parameters):
        spec = NodeSpec(
            "sf_bringup", "sim_arm", "sim_arm", {"contract": str(find_robot(robot)), **parameters}
        )
        process = subprocess.Popen(
            command_line(spec), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        arm = Arm(load_contract(find_robot(robot)))
        started.append((process, arm))
        arm.wait_for_arm(PATIENCE_S)
        return arm, process

    yield begin
    for process, arm in started:
        arm.close()
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


def rate(stamps):
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def test_each_of_two_arms_follows_its_own_controller(start):
    robot, _ = start("piper_pair")
    robot.wait_until(lambda: robot.last.get("/joint_states"), PATIENCE_S, "no joint states")
    contract = robot.contract
    assert list(robot.last["/joint_states"].name) == contract.command_joints
    begin, goals = robot.joints(), {}
    for number, (name, arm) in enumerate(contract.arms.items()):
        columns = contract.columns.commands.indices(arm=name)
        goals[name] = (columns, begin[columns] + 0.1 * (1 - 2 * number) * (columns % 7 == 0))
        robot.move(goals[name][1], 0.5, arm.command_joints, arm=name)
    for name, (columns, goal) in goals.items():
        robot.wait_until(
            lambda columns=columns, goal=goal: np.abs(robot.joints()[columns] - goal).max() < 0.01,
            PATIENCE_S,
            f"{name} did not get there",
        )


def test_topics_and_rates(start):
    arm, process = start(depth=True)
    scene, wrist = CONTRACT.cameras
    arm.listen(Clock, "/clock")
    for camera in (scene, wrist):
        arm.listen(Image, camera.topic)
    arm.listen(CameraInfo, wrist.info_topic)
    arm.listen(Image, wrist.depth_topic)
    arm.wait_until(
        lambda: len(arm.stamps[wrist.depth_topic]) > 20 and len(arm.stamps[scene.topic]) > 20,
        PATIENCE_S,
        "no images came",
    )
    arm.later(2.0)

    # Stamps have the simulated period even if this machine is busy and drops images.
    for topic, period in (("/joint_states", 0.01), ("/clock", 0.01)):
        assert np.median(np.diff(arm.stamps[topic])) == pytest.approx(period, abs=1e-6)
    for topic in (scene.topic, wrist.topic, wrist.depth_topic):
        gaps = np.diff(arm.stamps[topic])
        assert gaps.min() >= 0.0299 and np.percentile(gaps, 25) <= 0.0401
    assert set(arm.stamps[wrist.topic]) & set(
        arm.stamps[scene.topic]
    )  # both cameras have the same stamp

    image, depth, info = (
        arm.last[topic] for topic in (wrist.topic, wrist.depth_topic, wrist.info_topic)
    )
    assert (image.encoding, image.width, image.height, image.step, len(image.data)) == (
        "rgb8",
        320,
        240,
        960,
        230400,
    )
    assert image.header.frame_id == wrist.frame and np.frombuffer(image.data, np.uint8).std() > 5
    metres = np.frombuffer(depth.data, np.float32).reshape(240, 320)
    assert depth.encoding == "32FC1" and 0.01 < np.median(metres) < 1.0
    assert (
        (info.width, info.height) == (320, 240)
        and info.k[0] == info.k[4] > 0
        and info.k[2] == 160.0
    )

    state = arm.last["/joint_states"]
    assert (
        list(state.name) == CONTRACT.command_joints
        and len(state.velocity) == len(state.position) == 7
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "real-time factor" in output and "frames dropped" in output


def test_a_trajectory_moves_the_arm_to_the_commanded_joints(start):
    arm, _ = start(seed=1)
    arm.wait_until(lambda: "/joint_states" in arm.last, PATIENCE_S, "no joint states")
    target = arm.joints() + np.array([0.2, -0.1, 0.1, 0.1, 0.1, -0.3, -0.015])
    arm.move(target, 1.0)
    arm.later(1.8)
    np.testing.assert_allclose(arm.joints(), target, atol=0.01)


def test_the_controller_shows_its_parameters_and_can_be_deactivated(start):
    arm, _ = start(**{"controller.version": "after_6.9"})
    name = CONTRACT.command.topic.rpartition("/")[0].lstrip("/")
    client = arm._node.create_client(GetParameters, f"/{name}/get_parameters")
    wanted = ["joints", "allow_trajectory_replacement", "interpolate_from_desired_state"]
    response = arm.call(client, GetParameters.Request(names=wanted))
    values = [parameter_value_to_python(value) for value in response.values]
    assert values == [list(CONTRACT.command_joints), True, False]

    switch, begin = arm._node.create_client(SetBool, f"/{name}/set_active"), arm.joints()
    assert arm.call(switch, SetBool.Request(data=False)).message == "inactive"
    arm.move(begin + 0.1, 0.2)
    arm.later(0.5)
    np.testing.assert_allclose(arm.joints()[:6], begin[:6], atol=2e-3)
    assert arm.call(switch, SetBool.Request(data=True)).success
    arm.move(begin + [0.1, 0, 0, 0, 0, 0, 0], 0.5)
    arm.wait_until(lambda: arm.joints()[0] - begin[0] > 0.09, PATIENCE_S, "it did not move")


def test_a_bad_trajectory_is_refused_and_the_node_continues(start):
    arm, process = start()
    before = arm.simulated_time
    arm.move([0.0] * 7, 1.0, names=["a", "b", "c", "d", "e", "f", "g"])
    arm.move([0.0] * 7, 1.0, names=CONTRACT.command_joints[:6])
    arm.later(0.5)
    assert arm.simulated_time > before
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (
        "trajectory rejected: joint_names must be joint1, joint2" in output
        and "Traceback" not in output
    )


def test_the_same_seed_gives_the_same_scene_and_time_never_decreases(start):
    arm, _ = start(real_time_factor=4.0)
    scenes = []
    for seed in (11, 12, 11):
        arm.reset(seed)
        arm.later(0.3)
        scenes.append([(each.name, each.position.x, each.position.y) for each in arm.task.objects])
    assert [name for name, *_ in scenes[0]] == [name for name, *_ in scenes[2]]
    np.testing.assert_allclose(
        [position for _, *position in scenes[0]],
        [position for _, *position in scenes[2]],
        atol=1e-3,
    )
    assert scenes[0] != scenes[1]
    assert len(arm.reset(5, cubes=1).colours) == 1
    assert (np.diff(arm.stamps["/joint_states"]) >= 0).all()
    with pytest.raises(ArmClientError, match="give a seed of 0 or more"):
        arm.reset(-1)


def test_motion_truth_has_every_step_and_reports_a_reset(start):
    arm, _ = start(seed=1)
    truth = []
    arm._node.create_subscription(MotionTruth, "/sim_arm/motion_truth", truth.append, 200)
    arm.wait_until(lambda: truth, PATIENCE_S, "no truth")
    arm.move(np.zeros(7), 2.0)
    arm.later(0.5)
    arm.reset(9)
    arm.later(0.5)
    begins = [
        seconds(message.header.stamp) - (message.steps - 1) * message.step_s for message in truth
    ]
    ends = [seconds(message.header.stamp) for message in truth]
    np.testing.assert_allclose(np.array(begins[1:]) - ends[:-1], 0.005, atol=1e-5)
    assert all(
        len(message.position) == message.steps * len(message.names) == 7 * len(message.tool)
        for message in truth
    )
    assert [message.controlled for message in truth].count(False) == 1
    moved = next(index for index, message in enumerate(truth) if not message.controlled)
    jumps = [
        np.abs(np.array(now.position[:6]) - before.position[-7:-1]).max()
        for before, now in pairwise(truth)
    ]
    assert np.argmax(jumps) == moved - 1 and jumps[moved - 1] > 0.05


def test_a_pause_stops_the_clock_and_it_continues_afterwards(start):
    arm, _ = start()
    assert arm.call(arm.pause, SetBool.Request(data=True)).success
    for _ in range(20):  # messages in transit
        arm._spinner.spin_once(timeout_sec=0.05)
    count, stood = len(arm.stamps["/joint_states"]), arm.stamps["/joint_states"][-1]
    with pytest.raises(ArmClientError, match="time stood"):
        arm.wait_until(lambda: len(arm.stamps["/joint_states"]) > count, 0.5, "time stood")
    assert arm.call(arm.pause, SetBool.Request(data=False)).success
    arm.wait_until(
        lambda: len(arm.stamps["/joint_states"]) > count, PATIENCE_S, "time did not go on"
    )
    assert arm.stamps["/joint_states"][count] - stood < 0.3  # no jump over the pause


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"contract": "/nowhere.yaml"}, "sim_arm: /nowhere.yaml: cannot be read"),
        ({"cubes": 9}, "sim_arm: "),
    ],
)
def test_bad_parameters_give_one_sentence(ros_domain, parameters, sentence):
    spec = NodeSpec(
        "sf_bringup", "sim_arm", "sim_arm", {"contract": str(find_robot("sim_arm")), **parameters}
    )
    done = subprocess.run(command_line(spec), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert sentence in done.stderr and "Traceback" not in done.stderr


def test_a_missing_gl_library_gives_one_sentence(ros_domain, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    spec = NodeSpec("sf_bringup", "sim_arm", "sim_arm", {"contract": str(find_robot("sim_arm"))})
    process = subprocess.Popen(
        command_line(spec), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "simulated arm ready" in line:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
            pytest.skip("OSMesa is installed here")
    assert process.wait(PATIENCE_S) == 1
    errors = "".join(lines)
    assert "sim_arm: " in errors and "MUJOCO_GL" in errors and "Traceback" not in errors


@pytest.fixture(autouse=True)
def _no_default_context():
    yield
    assert not rclpy.ok()


def test_the_simulated_arm_ends_without_finalization():
    """Finalization unloads OpenGL: 2 to 23 s on a busy machine, and `launch` waits for 8 s."""
    script = """
import atexit, sys, time
import sf_bringup.programs as programs
atexit.register(time.sleep, 600)
programs.start = lambda module: 3
sys.exit(programs.sim_arm())
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 3


def test_another_robot_follows_its_joints_and_publishes_its_cameras(start):
    arm, _ = start(robot="piper", real_time_factor=0.0)
    camera = arm.contract.cameras[1]
    arm.listen(Image, f"/{camera.topic}")
    arm.wait_until(lambda: "/joint_states" in arm.last, PATIENCE_S, "no joint states came")
    target = arm.joints()
    target[0] += 0.3
    target[-1] = 0.01
    arm.move(target, 1.0, arm.contract.command_joints)
    arm.wait_until(
        lambda: np.abs(arm.joints() - target).max() < 0.01, PATIENCE_S, "the arm did not get there"
    )
    arm.wait_until(lambda: f"/{camera.topic}" in arm.last, PATIENCE_S, "no image came")
    image = arm.last[f"/{camera.topic}"]
    assert (image.width, image.height, image.header.frame_id) == (
        camera.width,
        camera.height,
        camera.frame,
    )
