"""Tests of teleoperation and replay with real processes and the simulated arm.

A gamepad moves the arm, takes over from a policy and is recorded; an episode is replayed.
"""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patient import patient_robot
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph_process import GraphProcess
from sf_msgs.msg import ControlSource, ExecutorStatus
from sf_policy_node.contract import load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.nodes.conversions import to_seconds
from sf_policy_node.nodes.lifecycle import LATCHED
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.data.episode_reader import EpisodeReader, find_episodes
from sf_training.recording.topics import absolute

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SEED = 990_001
GAMEPAD = Path(__file__).parents[1] / "sf_bringup/config/teleoperation/gamepad.yaml"
SCRIPTED_POLICY = Path(__file__).with_name("scripted_policy.py")
LEFT_SHOULDER, START = 9, 6
NOBODY, POLICY, PERSON, REPLAY = (
    ControlSource.NOBODY,
    ControlSource.POLICY,
    ControlSource.TELEOPERATION,
    ControlSource.REPLAY,
)


class Operator(ArmClient):
    """An operator with a gamepad who watches the arm.

    The pad repeats its state 50 times a second. On a busy machine even that may stop for a moment:
    as instructed, the operator then releases the switch and presses it again.
    """

    def __init__(self, contract, alive):
        super().__init__(contract, alive=alive)
        self.contract, self.kinematics = contract, Kinematics(contract)
        self.axes, self.buttons, self.plugged, self.obedient = [0.0] * 6, [0] * 15, True, True
        self._open_for = 0
        self.joints, self.sources, self.commands, self.says = None, [], [], ""
        self.track = []  # stamps and positions of all joint states
        topics = contract.topics
        self._node.create_subscription(
            JointState, topics.joint_states, self._on_joints, qos_profile_sensor_data
        )
        self._node.create_subscription(
            ControlSource, topics.control_source, self.sources.append, LATCHED
        )
        self._node.create_subscription(
            JointState, topics.teleop_command, self.commands.append, QoSProfile(depth=100)
        )
        self._node.create_subscription(String, "/teleoperation/state", self._on_state, LATCHED)
        self._joy = self._node.create_publisher(Joy, "/joy", 10)
        self._node.create_timer(0.02, self._publish_pad)

    def hold(self, *buttons, **axes):
        """Set the state of the pad: buttons that are down, axes as ``axis1=0.5``."""
        self.buttons = [int(index in buttons) for index in range(15)]
        self.axes = [axes.get(f"axis{index}", 0.0) for index in range(6)]

    def ready(self):
        self.wait_until(
            lambda: self._joy.get_subscription_count() and self.says and self.joints,
            PATIENCE_S,
            "teleoperation did not get ready",
        )

    def record(self, instruction):
        """Start an episode once the recorder has received the instruction."""
        publisher = self._node.create_publisher(String, "/instruction", LATCHED)
        publisher.publish(String(data=instruction))
        client = self._node.create_client(Trigger, "/recorder/start")
        self.wait_until(client.service_is_ready, PATIENCE_S, "the recorder was not there")

        def begun():
            return self._answer(client.call_async(Trigger.Request()), "/recorder/start").success

        self.wait_until(begun, PATIENCE_S, "the recorder did not begin")

    def call(self, service):
        client = self._node.create_client(Trigger, service)
        self.wait_until(client.service_is_ready, PATIENCE_S, f"{service} was not there")
        future = client.call_async(Trigger.Request())
        self.wait_until(future.done, PATIENCE_S, f"{service} did not answer")
        response = future.result()
        assert response.success, response.message
        return response.message

    @property
    def source(self):
        return self.sources[-1].source if self.sources else None

    @property
    def tool(self):
        return self.kinematics.forward(self.joints[1][:6]).position

    def wait_until_stationary(self):
        """Wait until no joint has moved for 0.3 s of simulated time."""
        stood = [self.joints]

        def is_stationary():
            if np.abs(self.joints[1] - stood[0][1]).max() > 2e-4:
                stood[0] = self.joints
            return self.joints[0] - stood[0][0] > 0.3

        self.wait_until(is_stationary, PATIENCE_S, "the arm did not come to rest")

    def _publish_pad(self):
        if self.obedient and "press it again" in self.says and not self._open_for:
            self._open_for = 25
        self._open_for = max(0, self._open_for - 1)
        buttons = [0] * 15 if self._open_for > 15 else self.buttons
        if self.plugged:
            hand = 1.0 - 0.01 * random.random()  # noise of a hand on the stick
            self._joy.publish(Joy(axes=[hand * axis for axis in self.axes], buttons=buttons))

    def _on_joints(self, message):
        self.joints = (to_seconds(message.header.stamp), np.array(message.position))
        self.track.append(self.joints)

    def _on_state(self, message):
        self.says = message.data


def peak_speed(track, contract):
    """Return the peak speed of the arm's joints as a share of their limits."""
    limits = np.array([joint.velocity for joint in contract.joints])
    moves = [
        np.abs(now[1] - before[1])[:6] / ((now[0] - before[0]) * limits)
        for before, now in itertools.pairwise(track)
        if now[0] > before[0]
    ]
    return max(map(np.max, moves), default=0.0)


def start(words, **options):
    return subprocess.Popen([sys.executable, *words], **options)


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


@pytest.fixture
def stage(ros_domain, tmp_path):
    """Start the arm, the executor, teleoperation and requested extras; return the operator."""
    running = []

    def begin(*words):
        robot = patient_robot(tmp_path / "robot")
        graph = GraphProcess(
            [f"robot:={robot}", "policy:=none", *words], tmp_path / "graph.log"
        ).__enter__()
        running.append(graph.stop)
        contract = load_contract(robot)
        ros = [
            "--ros-args",
            "-p",
            f"contract:={robot}",
            "-p",
            f"device:={GAMEPAD}",
            "-p",
            "use_sim_time:=true",
        ]
        with open(tmp_path / "teleoperation.log", "wb") as log:
            process = start(
                ["-m", "sf_training.teleoperation.teleoperation_node", *ros],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        running.append(lambda: end(process))
        operator = Operator(contract, graph.check)
        running.append(operator.close)
        operator.wait_for_arm(PATIENCE_S)
        operator.wait_for_executor(PATIENCE_S)
        operator.ready()
        return operator

    begin.also = lambda process: running.append(lambda: end(process))
    yield begin
    for stop in reversed(running):
        stop()


def test_the_arm_moves_only_while_the_dead_man_switch_is_held_and_received(
    stage,
):
    operator = stage()
    operator.reset(SEED)
    begin = operator.tool

    operator.hold(axis0=1.0)
    operator.let_pass(1.0)
    assert np.linalg.norm(operator.tool - begin) < 1e-3 and not operator.commands, (
        "no hand on the switch"
    )

    operator.hold(LEFT_SHOULDER, axis0=1.0)
    moved = []  # by how much, when it was enough: later it may be at a limit

    def went_left():
        moved.append(operator.tool - begin)
        return moved[-1][1] > 0.05

    operator.wait_until(went_left, PATIENCE_S, "the tool did not go left")
    assert np.abs(moved[-1])[[0, 2]].max() < 0.01
    operator.wait_until(
        lambda: operator.source == PERSON and operator.says.startswith("teleoperation has control"),
        PATIENCE_S,
        "teleoperation did not report that it has control",
    )

    operator.hold(axis0=1.0)
    operator.wait_until(
        lambda: operator.source == NOBODY,
        PATIENCE_S,
        "the executor did not notice the released switch",
    )
    operator.wait_until_stationary()
    count, position = len(operator.commands), operator.tool
    operator.let_pass(1.0)
    assert len(operator.commands) == count and np.linalg.norm(operator.tool - position) < 1e-3

    operator.hold(LEFT_SHOULDER, axis0=-1.0)
    operator.wait_until(
        lambda: operator.tool[1] < position[1] - 0.02, PATIENCE_S, "the tool did not go right"
    )
    operator.plugged = operator.obedient = False
    operator.wait_until(
        lambda: operator.source == NOBODY, PATIENCE_S, "the executor did not notice the cable"
    )
    operator.wait_until_stationary()
    operator.plugged = True  # the switch is still down: it must be released and pressed again
    count = len(operator.commands)
    operator.let_pass(1.0)
    assert len(operator.commands) == count and "press it again" in operator.says


def test_a_takeover_is_recorded_and_the_policy_waits_until_control_returns(stage, tmp_path):
    operator = stage(f"record:={tmp_path / 'episodes'}")
    policy = start([str(SCRIPTED_POLICY)])
    stage.also(policy)
    operator.wait_for_policy(PATIENCE_S)
    target = operator.reset(SEED).target
    operator.record(f"pick the {target} cube")
    handle = operator.start(f"pick the {target} cube", 60.0)
    operator.wait_until(
        lambda: operator.source == POLICY, PATIENCE_S, "the policy did not move the arm"
    )
    operator.let_pass(0.6)

    begun, known = operator.joints[0], len(operator.track)
    operator.hold(LEFT_SHOULDER, axis0=0.8)
    operator.wait_until(lambda: operator.source == PERSON, PATIENCE_S, "the person was not let in")
    assert peak_speed(operator.track[known:], operator.contract) < 1.2, "a takeover is no leap"
    operator.let_pass(1.0)
    operator.wait_until(
        lambda: len(operator.commands) > 30, PATIENCE_S, "teleoperation sends no commands"
    )
    released = operator.joints[0]
    operator.hold()
    operator.wait_until(
        lambda: operator.executor.state == ExecutorStatus.PAUSED,
        PATIENCE_S,
        "the executor did not pause",
    )
    operator.wait_until_stationary()
    chunks = operator.executor.chunks_accepted
    operator.let_pass(1.0)
    assert operator.executor.chunks_accepted == chunks and operator.source == NOBODY, (
        "the policy waits"
    )
    assert "the policy waits" in operator.says

    operator.hold(START)
    operator.wait_until(lambda: operator.source == POLICY, PATIENCE_S, "the policy did not go on")
    operator.hold()
    operator.let_pass(0.5)
    operator.finish(handle)
    operator.wait_until(lambda: operator.source == NOBODY, PATIENCE_S, "the arm did not stop")
    operator.call("/recorder/stop")

    (episode,) = find_episodes(tmp_path / "episodes")
    reader = EpisodeReader(episode, operator.contract)
    topics = operator.contract.topics
    streams = reader.read(
        [
            absolute(name)
            for name in (topics.control_source, topics.teleop_command, topics.action_chunk)
        ]
    )
    hand_over, taught, predicted = (
        streams[absolute(name)]
        for name in (topics.control_source, topics.teleop_command, topics.action_chunk)
    )
    order = np.argsort(hand_over.stamps, kind="stable")
    sources = [hand_over.messages[index].source for index in order]
    age = operator.contract.budgets.teleop_age_s
    in_charge = [source for source in sources if source != NOBODY]
    assert [
        source
        for source, before in zip(in_charge, [None, *in_charge], strict=False)
        if source != before
    ] == [POLICY, PERSON, POLICY]
    # The bag has all of the operator's commands, and no other source between the first and last.
    stamps = 1e-9 * taught.stamps
    received = np.array([to_seconds(message.header.stamp) for message in operator.commands])
    assert len(received) > 30 and np.abs(received[:, None] - stamps).min(axis=1).max() < 1e-6
    assert stamps[0] > begun - 0.2 and stamps[-1] < released + 0.5, (
        "commands before the takeover or after the release"
    )
    times = 1e-9 * hand_over.stamps[order]
    during = {
        source
        for time, source in zip(times, sources, strict=True)
        if stamps[0] + age < time < stamps[-1]
    }
    assert POLICY not in during, "the policy moved the arm between two commands of the person"
    assert (np.diff(taught.stamps) > 0).all()
    assert list(taught.messages[0].name) == operator.contract.command_joints
    assert len(predicted.stamps) > 5


def replay(episode, report, *words):
    command = [
        "-m",
        "sf_training",
        "replay",
        str(episode),
        "--yes",
        "--report",
        str(report),
        *words,
    ]
    return start(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def distance_to_path(position, line):
    """Return the distance of a position to a polyline of positions [m]."""
    begin, end = np.array(line[:-1]), np.array(line[1:])
    along = end - begin
    share = ((position - begin) * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-12)
    return np.linalg.norm(
        begin + np.clip(share, 0.0, 1.0)[:, None] * along - position, axis=1
    ).min()


def stall(operator, process, seconds=0.0):
    """Stop the process until the arm brakes and for ``seconds`` [wall time] at least.

    Returns how long it was stopped.
    """
    begun = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    operator.wait_until(
        lambda: operator.source == NOBODY and time.monotonic() - begun > seconds,
        PATIENCE_S,
        "the executor did not notice",
    )
    process.send_signal(signal.SIGCONT)
    return time.monotonic() - begun


def ended(operator, process, seconds=PATIENCE_S):
    operator.wait_until(lambda: process.poll() is not None, seconds, "the replay did not end")
    return process.returncode, process.stdout.read()


def test_an_episode_is_replayed_until_the_operator_takes_over(stage, tmp_path):
    operator = stage(f"record:={tmp_path / 'episodes'}")
    operator.reset(SEED)
    operator.record("go left and come back")
    begin, path = operator.tool, []

    def at(goal):
        path.append(operator.tool)
        return abs(operator.tool[1] - begin[1] - goal) < 0.01

    for axis, goal in ((1.0, 0.08), (-0.6, 0.05)):
        operator.hold(LEFT_SHOULDER, axis0=axis)
        operator.wait_until(lambda goal=goal: at(goal), PATIENCE_S, "the tool did not get there")
    operator.hold()
    operator.wait_until(
        lambda: operator.source == NOBODY, PATIENCE_S, "the released switch was not seen"
    )
    operator.wait_until_stationary()
    operator.call("/recorder/stop")
    (episode,) = find_episodes(tmp_path / "episodes")
    assert max(np.linalg.norm(position - begin) for position in path) > 0.06

    seen, report = [], tmp_path / "report.json"
    process = replay(episode, report, "--speed", "1.0", "--approach", "0.3")
    stage.also(process)

    def over():
        if operator.source == REPLAY:
            seen.append(operator.tool)
        return process.poll() is not None

    operator.wait_until(over, PATIENCE_S, "the replay did not end")
    output = process.stdout.read()
    assert process.returncode == 0, output
    found = json.loads(report.read_text())
    assert found["finished"] and found["tools"]["arm"]["rms"] < 0.05, (
        found
    )  # loose: on a busy machine commands arrive late
    assert "tracking error" in output
    # The tool passed all positions of the teleoperated path.
    assert max(distance_to_path(position, seen) for position in path) < 0.02
    operator.wait_until_stationary()
    assert operator.source == NOBODY

    process = replay(episode, report, "--speed", "0.1")
    stage.also(process)
    operator.wait_until(lambda: operator.source == REPLAY, PATIENCE_S, "the replay did not begin")
    stood = stall(operator, process)
    if stood < 0.9:  # on a busy machine it may take longer
        operator.wait_until(
            lambda: operator.source == REPLAY, PATIENCE_S, "the replay did not go on"
        )
    if process.poll() is None:
        operator.let_pass(0.5)
        stall(operator, process, 1.2)
    code, output = ended(operator, process)
    assert code == 1 and "this process stalled for" in output, output
    assert stood >= 0.9 or json.loads(report.read_text())["silences"] >= 1
    operator.wait_until_stationary()

    process = replay(episode, report, "--speed", "0.1")
    stage.also(process)
    operator.wait_until(lambda: operator.source == REPLAY, PATIENCE_S, "the replay did not begin")
    operator.let_pass(0.5)
    operator.hold(LEFT_SHOULDER)
    code, output = ended(operator, process)
    assert code == 1 and "the executor ended it" in output and "operator" in output
    assert operator.source == PERSON


def test_an_impossible_replay_ends_with_one_sentence(ros_domain, tmp_path):
    process = replay(tmp_path / "nothing", tmp_path / "report.json")
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 2 and "does not exist" in output and "Traceback" not in output
