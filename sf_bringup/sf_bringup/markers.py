"""Publish the workspace box and the tool's planned path as markers for RViz and Foxglove.

The path is that of the last commanded trajectory. Outputs that stream single points
(``forward_command``, Servo) have no planned path: for them only the box is published.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import ColorRGBA
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from sf_bringup.plain_node import run
from sf_policy_node.contract import Contract, load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics

TOPIC = "markers"
BOX, PATH = "workspace", "planned_path"  # namespaces of the markers
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_LINE_M = 0.002  # width of lines
_BOX_COLOUR = ColorRGBA(r=0.90, g=0.62, b=0.0, a=0.8)
_PATH_COLOUR = ColorRGBA(r=0.0, g=0.62, b=0.45, a=1.0)
_AFTER_END_S = 1.0  # how long the path is still shown after its end


class ToolPath:
    """Turn joint trajectories into tool positions of one arm.

    Args:
        arm: name of the arm; None takes the only one.

    Raises:
        ContractError: the URDF lacks what the contract names.
    """

    def __init__(self, contract: Contract, arm: str | None = None) -> None:
        self._kinematics = Kinematics(contract, arm)
        spec = contract.only_arm if arm is None else contract.arms[arm]
        self._joints = spec.joint_names

    def tool_positions(self, names: list[str], positions: np.ndarray) -> np.ndarray:
        """Return tool positions (N, 3) [m] in the base frame.

        Args:
            names: joints of the trajectory.
            positions: (N, len(names)) [rad or m].

        Returns:
            (0, 3) if the trajectory lacks a joint of the arm, as that of a gripper does.
        """
        if not set(self._joints) <= set(names) or not len(positions):
            return np.empty((0, 3))
        columns = [names.index(name) for name in self._joints]
        return self._kinematics.tool_motion(np.asarray(positions, dtype=float)[:, columns])[0]


def box_edges(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the 12 edges of a box from ``lower`` (3,) to ``upper`` (3,) [m] as pairs of corners
    (24, 3), for a LINE_LIST.
    """
    corners = np.array(list(product(*zip(lower, upper, strict=True))))
    return np.array(
        [
            corner
            for first, second in product(range(8), repeat=2)
            if first < second and (corners[first] != corners[second]).sum() == 1
            for corner in (corners[first], corners[second])
        ]
    )


class Markers(Node):
    """Publish the box of each arm from the contract and its path from commanded trajectories.

    Raises:
        ContractError: the contract does not load.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("markers", **options)
        description = ParameterDescriptor(
            description="path of the robot's contract (YAML)", read_only=True
        )
        path: str = self.declare_parameter("contract", "", description).value
        contract = load_contract(path, namespace=self.get_namespace())
        self._frame, self._arms = contract.base_frame, contract.arms
        self._tool_paths = {name: ToolPath(contract, name) for name in contract.arms}
        self._paths: dict[str, tuple[np.ndarray, float]] = {}
        self._publisher = self.create_publisher(MarkerArray, TOPIC, _LATCHED)
        self._publish()
        if contract.output == "joint_trajectory":
            for topic in contract.command_groups:
                self.create_subscription(
                    JointTrajectory, topic, self._on_trajectory, QoSProfile(depth=5)
                )

    def _on_trajectory(self, message: JointTrajectory) -> None:
        names = list(message.joint_names)
        points = [point for point in message.points if len(point.positions) == len(names)]
        positions = np.array([point.positions for point in points])
        moved = False
        for arm, tool_path in self._tool_paths.items():
            path = tool_path.tool_positions(names, positions)
            if len(path):
                end = points[-1].time_from_start
                self._paths[arm] = path, end.sec + 1e-9 * end.nanosec + _AFTER_END_S
                moved = True
        if moved:
            self._publish()

    def _publish(self) -> None:
        """Send all markers in one message: a viewer that joins late receives the last one."""
        markers = []
        for name, arm in self._arms.items():
            whose = "" if len(self._arms) == 1 else f"{name}/"
            edges = box_edges(np.array(arm.workspace.lower), np.array(arm.workspace.upper))
            box = self._marker(whose + BOX, Marker.LINE_LIST, edges, _BOX_COLOUR)
            box.header.frame_id = arm.base_frame
            markers.append(box)
            if name in self._paths:
                positions, lifetime_s = self._paths[name]
                path = self._marker(whose + PATH, Marker.LINE_STRIP, positions, _PATH_COLOUR)
                seconds = int(lifetime_s)
                path.lifetime = Duration(sec=seconds, nanosec=int(1e9 * (lifetime_s - seconds)))
                markers.append(path)
        self._publisher.publish(MarkerArray(markers=markers))

    def _marker(self, name: str, shape: int, points: np.ndarray, colour: ColorRGBA) -> Marker:
        marker = Marker(ns=name, type=shape, action=Marker.ADD, color=colour)
        marker.header.frame_id = self._frame
        marker.header.stamp = self.get_clock().now().to_msg()
        marker.scale.x = _LINE_M
        marker.pose.orientation.w = 1.0
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in points.tolist()]
        return marker


def main(args: list[str] | None = None) -> int:
    """Entry point of ``ros2 run sf_bringup markers``; returns the exit code."""
    return run("markers", Markers, args)


if __name__ == "__main__":
    sys.exit(main())
