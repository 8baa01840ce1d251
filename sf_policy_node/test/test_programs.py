"""Tests that messages name commands that exist in this installation."""

import shutil

import pytest

from sf_policy_node.programs import command


@pytest.mark.parametrize(
    "ros2, typed",
    [("/opt/ros/bin/ros2", "ros2 run sf_training sf_training"), (None, "python3 -m sf_training")],
)
def test_a_cure_names_the_command_that_exists_here(monkeypatch, ros2, typed):
    monkeypatch.setattr(shutil, "which", lambda name: ros2)
    assert command("sf_training sf_training", "sf_training") == typed
