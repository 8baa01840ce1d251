"""Tests of arm, executor and scoring over ROS with a scripted policy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sf_bringup.arm_client import ArmClient, ArmClientError
from sf_bringup.contact_sheet import ContactSheet
from sf_bringup.episodes import Order, carry_out, summarise
from sf_bringup.graph import find_robot
from sf_bringup.graph_process import GraphProcess
from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S

pytestmark = pytest.mark.ros
SCRIPTED_POLICY = Path(__file__).with_name("scripted_policy.py")


@pytest.fixture
def client(ros_domain, tmp_path):
    """Return a client of a graph with the expert as its policy."""
    with GraphProcess(["policy:=none"], tmp_path / "graph.log") as graph:
        policy = subprocess.Popen([sys.executable, str(SCRIPTED_POLICY)])
        client = ArmClient(load_contract(find_robot("sim_arm")), images=True, alive=graph.check)
        try:
            client.wait_for_arm(PATIENCE_S)
            client.wait_for_policy(PATIENCE_S)
            yield client
        finally:
            client.close()
            policy.terminate()
            policy.wait(10)


@pytest.mark.slow
def test_the_expert_picks_the_named_cube_over_ros(client, tmp_path):
    sheet, outcomes = ContactSheet(columns=4), []
    for seed in (990_001, 990_002):
        target = client.reset(seed).target
        order = Order(seed, f"pick the {target} cube", target)
        outcomes.append(
            carry_out(client, order, lambda seconds: sheet.add(seconds, client.newest_images()))
        )
        sheet.finish_row(order.instruction, outcomes[-1].success)
    summary = summarise(outcomes)
    assert (summary["n"], summary["successes"], summary["wrong_object"]) == (2, 2, 0), outcomes
    assert summary["chunk_latency_ms"] == {"p50": 1.0, "p95": 1.0}
    assert all(
        outcome.reason == "success" and outcome.chunks > 3 and 1.0 < outcome.seconds < 12.0
        for outcome in outcomes
    )
    sheet.write(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.slow
def test_picking_another_cube_is_not_a_success(client):
    scene = client.reset(990_003, cubes=2)
    (other,) = set(scene.colours) - {scene.target}
    outcome = carry_out(client, Order(990_003, f"pick the {other} cube", scene.target, cubes=2))
    assert not outcome.success and outcome.wrong_object
    assert outcome.reason != "success"


def test_a_graph_that_ends_is_reported_with_its_last_lines(ros_domain, tmp_path):
    with GraphProcess(["robot:=ur55"], tmp_path / "graph.log") as graph:
        client = ArmClient(load_contract(find_robot("sim_arm")), alive=graph.check)
        try:
            with pytest.raises(
                ArmClientError, match=r"ended with exit code 2.*\n.*'ur55' is unknown"
            ):
                client.wait_for_arm(PATIENCE_S)
        finally:
            client.close()


def test_images_of_an_empty_row_do_not_break_the_sheet(tmp_path):
    sheet = ContactSheet()
    sheet.add(0.0, [None, None])
    sheet.finish_row("nothing came", False)
    sheet.add(0.0, [np.zeros((240, 320, 3), np.uint8)] * 2)
    sheet.finish_row("one moment", True)
    sheet.write(tmp_path / "sheet.png")
