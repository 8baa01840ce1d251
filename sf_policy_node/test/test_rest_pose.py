"""Tests of the rest pose before a shutdown: stop, move within limits, exclusive control.

A second signal, a closed terminal and a stop end the motion.
"""

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from motion_cases import CONTRACT_PATH, FORWARD, HOME, Bench, keep_moving, sim_arm
from node_cases import PATIENCE_S
from std_msgs.msg import Bool
from test_home_action import AWAY, HomeClient

from sf_policy_node.contract import ContractError, parse_contract
from sf_policy_node.motion.homing import Pose, check_rest_poses
from sf_policy_node.motion.refusals import ChunkRefused, MotionRefused
from sf_policy_node.motion.state_machine import State
from sf_policy_node.motion.types import ControlSource

REST = [0.0, 0.8, 1.5, 0.8, 0.0, 0.0]


def contract_text(**keys):
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["budgets"]["joint_state_age_s"] = 0.6  # timing on a busy machine is not tested here
    return yaml.safe_dump({**data, "home": HOME[:6].tolist(), "rest": REST, **keys})


def changed(**keys):
    return parse_contract(contract_text(**keys), sim_arm().urdf_xml)


def follow_homing(bench, seconds=20.0):
    for _ in range(round(seconds / 0.05)):
        bench.post(bench.executor.continue_homing(bench.clock))
        bench.run(0.05)
        if bench.executor.homing is None:
            return


# ---- the executor -------------------------------------------------------------------------------


def test_a_moving_arm_stops_before_it_moves_to_its_rest_pose():
    bench = Bench(changed())
    keep_moving(bench, 0.6)
    bench.post(bench.executor.shut_down(bench.clock))
    assert not bench.executor.is_stationary(bench.clock)
    bench.run(0.8)
    assert bench.executor.is_stationary(bench.clock)
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    bench.executor.go_home(bench.clock, pose=Pose.REST)
    follow_homing(bench)
    bench.run(0.3)
    assert bench.observer.state(bench.now)[0][:6] == pytest.approx(REST, abs=2e-3)
    assert "rest pose" in bench.executor.status.reason
    assert not bench.violations()


def test_during_a_shutdown_no_other_source_moves_the_arm():
    bench = Bench(changed())
    bench.executor.shut_down(bench.clock)
    assert bench.executor.situation.state is State.ENDING
    with pytest.raises(ChunkRefused, match="shutting down"):
        bench.send(bench.chunk(FORWARD))
    with pytest.raises(MotionRefused, match="shutting down"):
        bench.executor.go_home(bench.clock)
    for source in (ControlSource.TELEOPERATION, ControlSource.REPLAY):
        with pytest.raises(MotionRefused, match="shutting down"):
            bench.executor.on_teleoperation(bench.now, HOME, np.zeros(7), bench.now, source)
    bench.executor.activate(bench.now)
    bench.send(bench.chunk(FORWARD, epoch=2))


def test_the_rest_pose_is_refused_if_motion_is_forbidden_or_blocked():
    box = {"name": "post", "lower": [0.2, 0.02, 0.0], "upper": [0.4, 0.1, 1.0]}
    for contract, why in (
        (changed(collision={"boxes": [box]}), "post"),
        (changed(rest=None), "add rest to the contract"),
        (changed(rest=[2.5, 0.4, 1.4, 1.3, 0.0, 0.0]), "workspace"),
    ):
        bench = Bench(contract, AWAY)
        bench.executor.shut_down(bench.clock)
        with pytest.raises(MotionRefused, match=why):
            bench.executor.go_home(bench.clock, pose=Pose.REST)
    bench = Bench(changed(), AWAY)
    bench.executor.on_emergency_stop(True, bench.clock)
    bench.executor.shut_down(bench.clock)
    with pytest.raises(MotionRefused, match="emergency stop"):
        bench.executor.go_home(bench.clock, pose=Pose.REST)


def test_a_rest_pose_outside_the_workspace_is_refused_before_the_arm_moves():
    check_rest_poses(changed())
    with pytest.raises(ContractError, match=r"rest: has the tool \d+ mm outside workspace"):
        check_rest_poses(changed(rest=[2.5, 0.4, 1.4, 1.3, 0.0, 0.0]))


def test_the_contract_refuses_a_rest_pose_beyond_a_limit():
    with pytest.raises(ContractError, match=r"rest: joint2 at 3 is outside its limits"):
        changed(rest=[0.0, 3.0, 1.9, 0.3, 0.0, 0.0])


# ---- the node -----------------------------------------------------------------------------------


@pytest.fixture
def home_client(graph, tmp_path):
    """Return a client of the simulated arm, whose contract has a rest pose."""
    path = tmp_path / "robot.yaml"
    path.write_text(contract_text())
    (tmp_path / "sim_arm.urdf").write_text(sim_arm().urdf_xml)
    return HomeClient(graph, path)


def test_the_node_moves_the_arm_to_its_rest_pose_and_aborts_a_running_goal(home_client):
    goal = home_client.send()
    home_client.until(
        lambda: abs(home_client.executor.arm.joints[0] - AWAY[0]) > 0.03, "that it has left"
    )
    home_client.until(lambda: not home_client.executor.node.finish(), "the end of the motion")
    assert home_client.result(goal).message == "the executor is shutting down"
    assert home_client.executor.arm.joints[:6] == pytest.approx(REST, abs=5e-3)
    home_client.executor.node.halt()


def test_the_node_does_not_move_an_arm_after_an_emergency_stop(home_client):
    assert home_client.executor.node.finish()
    home_client.until(
        lambda: abs(home_client.executor.arm.joints[0] - AWAY[0]) > 0.03, "that it has left"
    )
    home_client.stop.publish(Bool(data=True))
    home_client.until(lambda: not home_client.executor.node.finish(), "the end of the motion")
    home_client.wait(0.5)
    place = home_client.executor.arm.joints.copy()
    assert abs(place[0]) > 0.02
    assert not home_client.executor.node.finish()
    home_client.wait(0.2)
    assert (home_client.executor.arm.joints == place).all()


# ---- the process --------------------------------------------------------------------------------

NODE = """
import sys, time
from sf_policy_node.nodes.lifecycle import ManagedNode, run

class Node(ManagedNode):
    calls = 0
    def __init__(self): super().__init__("finisher")
    def _load_contract(self): return None
    def set_up(self, contract): pass
    def start(self): self.timer = self.create_timer(0.1, self.say)
    def say(self):
        self.timer.cancel()
        print("started", flush=True)
    def finish(self):
        print("finishing", flush=True)
        Node.calls += 1
        return Node.calls < int(sys.argv[1])
    def stop(self): print("stopped", flush=True)

sys.exit(run(Node))
"""


@pytest.mark.parametrize(
    ("number", "calls", "again", "finishes"),
    [
        (signal.SIGTERM, 3, 0.0, 3),
        (signal.SIGINT, 1000, 1.2, None),
        (signal.SIGHUP, 3, 0.0, 0),
    ],
)
def test_the_process_finishes_the_motion_until_a_second_signal(
    ros_domain, number, calls, again, finishes
):
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, str(calls)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # Under `nohup` the tests ignore SIGHUP, and the node would inherit that.
        preexec_fn=functools.partial(signal.signal, number, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        if again:  # both signals of one Ctrl-C count once
            assert process.stdout.readline() == "finishing\n"
            process.send_signal(number)
            time.sleep(again)
            assert process.poll() is None
            process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert output.endswith("stopped\n")
    assert output.count("finishing") == finishes or (finishes is None and again)
