"""Tests of the client of demo, say and the evaluations."""

import sys

import pytest

from sf_bringup.arm_client import ArmClient, client_of
from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract


@pytest.mark.parametrize(
    ("variable", "given", "expected"),
    [("", "", "/"), ("left", "", "/left"), ("/left", "right", "/right"), ("left", "/", "/")],
)
def test_a_client_is_in_the_namespace_of_the_graph(
    ros_domain, variable, given, expected, monkeypatch
):
    monkeypatch.setenv("ROS_NAMESPACE", variable)
    client = client_of("sim_arm", given)
    try:
        assert client._node.get_namespace() == expected
        assert client._reset.service_name == f"{expected.rstrip('/')}/sim_arm/reset"
    finally:
        client.close()


def test_command_line_arguments_are_not_mistaken_for_remappings(ros_domain, monkeypatch, capfd):
    """`robot:=sim_arm` is an argument of the program; rclpy would warn of a remap rule."""
    monkeypatch.setattr(sys, "argv", ["demo", "robot:=sim_arm", "--ros-args", "-r", "__ns:=/other"])
    client = ArmClient(load_contract(find_robot("sim_arm")))
    try:
        assert client._node.get_namespace() == "/"
    finally:
        client.close()
    assert "remap rule" not in capfd.readouterr().err
