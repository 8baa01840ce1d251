"""Start the programs of this package for ``ros2 run sf_bringup ...``; see
:mod:`sf_policy_node.programs`.
"""

from __future__ import annotations

from typing import NoReturn

from sf_policy_node.programs import end_process, start


def sim_arm() -> NoReturn:
    """Run the simulated arm as a node."""
    end_process(start("sf_bringup.sim_arm"))


def graph() -> int | None:
    """Print the nodes of a journey as JSON."""
    return start("sf_bringup.graph")


def up() -> int | None:
    """Start the run journey as processes."""
    return start("sf_bringup.up")


def record() -> int | None:
    """Start the record journey as processes."""
    return start("sf_bringup.record")


def teleop() -> int | None:
    """Start the teleoperation journey as processes."""
    return start("sf_bringup.teleop")


def say() -> int | None:
    """Send one instruction to a running arm."""
    return start("sf_bringup.say")


def home() -> int | None:
    """Move the arms of a running graph to their home pose."""
    return start("sf_bringup.home")


def emergency_stop() -> int | None:
    """Press or reset the emergency stop of a running graph."""
    return start("sf_bringup.emergency_stop")


def demo() -> int | None:
    """Send five instructions to the simulated arm."""
    return start("sf_bringup.demo")


def evaluate_over_ros() -> int | None:
    """Evaluate a policy on seeded episodes over ROS."""
    return start("sf_bringup.evaluate_over_ros")


def doctor() -> int | None:
    """Compare a contract with the live graph."""
    return start("sf_bringup.doctor.command")


def new_robot() -> int | None:
    """Draft a contract from a URDF and a live graph."""
    return start("sf_bringup.new_robot.command")


def robot_state() -> int | None:
    """Publish robot description and frames where robot_state_publisher is not installed."""
    return start("sf_bringup.robot_state")


def markers() -> int | None:
    """Publish workspace box and planned path as markers for viewers."""
    return start("sf_bringup.markers")
