"""Tests of the client of demo, say and the evaluations."""

import sys

from sf_bringup.arm_client import ArmClient
from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract


def test_command_line_arguments_are_not_mistaken_for_remappings(ros_domain, monkeypatch, capfd):
    """`robot:=sim_arm` is an argument of the program; rclpy would warn of a remap rule."""
    monkeypatch.setattr(sys, "argv", ["demo", "robot:=sim_arm", "--ros-args", "-r", "__ns:=/other"])
    client = ArmClient(load_contract(find_robot("sim_arm")))
    try:
        assert client._node.get_namespace() == "/"
    finally:
        client.close()
    assert "remap rule" not in capfd.readouterr().err
