"""Tests of the demo: exit code, files, refusals.

``make eval`` measures the success of the policy.
"""

import json
import subprocess
import sys

import cv2
import pytest

from sf_bringup import demo, evaluate_over_ros
from sf_bringup.arm_client import ArmClient
from sf_bringup.episodes import Outcome, summarise
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S


def run_demo(out, *options, timeout=PATIENCE_S):
    command = [sys.executable, "-m", "sf_bringup.demo", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def outcome(success, p50, p95, wrong=False, chunks=9):
    return Outcome(
        1,
        "pick",
        "red",
        ("red", "blue"),
        success,
        wrong,
        4.0,
        chunks,
        {"p50": p50, "p95": p95},
        "success",
    )


def test_the_summary_uses_latencies_of_episodes_with_chunks():
    summary = summarise(
        [
            outcome(True, 40.0, 60.0),
            outcome(False, 50.0, 90.0, wrong=True),
            outcome(False, 0.0, 0.0, chunks=0),
        ]
    )
    assert (summary["n"], summary["successes"], summary["wrong_object"]) == (3, 1, 1)
    assert summary["chunk_latency_ms"] == {"p50": 45.0, "p95": 90.0}
    assert summarise([])["chunk_latency_ms"] == {"p50": None, "p95": None}


@pytest.mark.parametrize(("successes", "code"), [(5, 0), (4, 0), (3, 1)])
def test_the_demo_requires_four_of_five_successes(monkeypatch, successes, code):
    monkeypatch.setattr(
        demo, "run", lambda *_: [outcome(index < successes, 1.0, 1.0) for index in range(5)]
    )
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == code


def test_an_unknown_policy_gives_one_sentence(tmp_path):
    done = run_demo(tmp_path, "--policy", "gpt")
    assert done.returncode == 1
    assert (
        done.stderr.startswith("demo: policy: 'gpt' is unknown") and "Traceback" not in done.stderr
    )


@pytest.mark.ros
def test_the_demo_does_not_start_beside_another_arm(ros_domain, tmp_path):
    with GraphProcess(["policy:=none"], tmp_path / "graph.log") as graph:
        client = ArmClient(load_contract(find_robot("sim_arm")), alive=graph.check)
        try:
            client.wait_for_arm(PATIENCE_S)
        finally:
            client.close()
        done = run_demo(tmp_path / "demo")
    assert done.returncode == 1
    assert f"a simulated arm already runs in ROS domain {ros_domain}" in done.stderr


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_runs_five_instructions_and_writes_its_files(ros_domain, tmp_path):
    done = run_demo(tmp_path, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["n"] == 5 and summary["successes"] >= demo.SUCCESSES_WANTED
    assert len({episode["instruction"] for episode in summary["episodes"]}) == 5
    assert 0 < summary["chunk_latency_ms"]["p50"] <= summary["chunk_latency_ms"]["p95"] < 1000
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).shape[0] > 5 * 240
    assert all(episode["instruction"] in done.stdout for episode in summary["episodes"])


def test_the_evaluation_keeps_the_other_entries_of_its_file(monkeypatch, tmp_path):
    path = tmp_path / "summary.json"
    path.write_text('{"n": 100}')
    monkeypatch.setattr(evaluate_over_ros, "run", lambda *_: [outcome(True, 1.0, 2.0)] * 3)
    monkeypatch.setattr(sys, "argv", ["evaluate_over_ros", "--out", str(path)])
    assert evaluate_over_ros.main() == 0
    summary = json.loads(path.read_text())
    over_ros = summary["over_ros"]
    assert summary["n"] == 100 and (
        over_ros["n"],
        over_ros["successes"],
        over_ros["wrong_object"],
    ) == (3, 3, 0)
    assert (
        over_ros["seeds"] == [1, 1, 1]
        and 0 < over_ros["interval_95"][0] < over_ros["interval_95"][1] <= 1
    )


@pytest.mark.ros
def test_say_without_a_graph_gives_one_sentence(ros_domain):
    done = subprocess.run(
        [sys.executable, "-m", "sf_bringup.say", "pick the red cube"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "say: chunk_executor did not become active within 10 s; start the graph"
    )
    assert "Traceback" not in done.stderr
