"""Run the trajectory controller of the simulated arm as a separate node, as under ros2_control.

The node has the name, the topic and the parameters of a ``joint_trajectory_controller``, and, if
control_msgs is installed, its ``~/controller_state``. ``~/set_active`` (std_srvs/SetBool) replaces
``switch_controller`` of the controller manager.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sf_bringup import sim_messages
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.controller_base import CommandRejected
from sf_training.simulation.controllers import ControllerPart
from sf_training.simulation.trajectory_controller import JointTrajectoryController

try:  # comes with ROS 2, or from source
    from control_msgs.msg import JointTrajectoryControllerState
except ImportError:
    JointTrajectoryControllerState = None

VERSIONS = ("5.17", "6.9", "after_6.9")
SETTINGS: Mapping[str, tuple[object, str]] = {
    "version": ("5.17", f"whose rules it follows: {', '.join(VERSIONS)}"),
    "interpolate_from_desired_state": (False, "as on the controller"),
    "interpolation_method": ("splines", "as on the controller: splines or none"),
    "allow_trajectory_replacement": (True, "as on the controller; 5.17 does not have it"),
    "cmd_timeout": (0.0, "as on the controller [s]"),
    "trajectory_tolerance": (0.0, "constraints.<joint>.trajectory of all joints; 0: none"),
}
"""Parameters ``controller.*`` of the simulated arm: name to default and description."""


def controller_values(joints: Sequence[str], settings: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters, name to value, of a controller for ``joints``.

    Args:
        joints: names, in the controller's order.
        settings: value of each key of :data:`SETTINGS`.

    Raises:
        ValueError: a setting has an unknown value.
    """
    if settings["version"] not in VERSIONS:
        raise ValueError(
            f"controller.version: {settings['version']!r} is not one of {', '.join(VERSIONS)}"
        )
    if settings["interpolation_method"] not in ("splines", "none"):
        raise ValueError(
            f"controller.interpolation_method: {settings['interpolation_method']!r} is not one of "
            "splines, none"
        )
    same = ("interpolate_from_desired_state", "interpolation_method", "cmd_timeout")
    values = {
        "joints": list(joints),
        "command_interfaces": ["position"],
        "state_interfaces": ["position", "velocity"],
        "allow_partial_joints_goal": False,
        "allow_nonzero_velocity_at_trajectory_end": False,
        "set_last_command_interface_value_as_state_on_activation": True,
        "update_rate": round(1.0 / ArmSim.TIMESTEP),
        "constraints.goal_time": 0.0,
        **{name: settings[name] for name in same},
        **{f"constraints.{name}.trajectory": settings["trajectory_tolerance"] for name in joints},
    }
    if settings["version"] != "5.17":
        values["allow_trajectory_replacement"] = settings["allow_trajectory_replacement"]
    if settings["version"] == "after_6.9":
        values["positions_upsampling.enable"] = False
    return values


class SimController(Node):
    """Pass trajectories on to a simulated controller.

    Args:
        topic: of the trajectories, with the node's namespace and name:
            ``/namespace/name/joint_trajectory``.
        values: parameters of the node; see :func:`controller_values`.
        part: the controller and its joints.
        sim: gives the time and the measured joints.
    """

    def __init__(
        self,
        topic: str,
        values: Mapping[str, object],
        part: ControllerPart,
        sim: ArmSim,
    ) -> None:
        owner = topic.rpartition("/")[0]
        namespace, _, name = owner.rpartition("/")
        # Arguments of the process are for the node of the simulated arm, not for this one.
        super().__init__(name, namespace=namespace or "/", use_global_arguments=False)
        for key, value in values.items():
            self.declare_parameter(key, value, ParameterDescriptor(read_only=True))
        assert isinstance(part.controller, JointTrajectoryController)
        self._controller, self._columns, self._sim = part.controller, part.columns, sim
        self.create_subscription(JointTrajectory, topic, self._on_trajectory, 10)
        self.create_service(SetBool, "~/set_active", self._on_set_active)
        self._state = None
        if JointTrajectoryControllerState is not None:
            self._state = self.create_publisher(
                JointTrajectoryControllerState, "~/controller_state", QoSProfile(depth=10)
            )

    def publish_state(self) -> None:
        """Publish desired and measured joints if the controller is active and has subscribers."""
        model = self._controller.model
        if self._state is None or not model.is_active or not self._state.get_subscription_count():
            return
        message = JointTrajectoryControllerState(joint_names=list(model.joint_names))
        message.header.stamp = sim_messages.to_stamp(self._sim.time)
        desired = model.reference
        velocity = np.zeros_like(desired.position) if desired.velocity is None else desired.velocity
        message.reference = _point(desired.position, velocity)
        message.feedback = _point(*self._measured())
        self._state.publish(message)

    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        positions, velocities = self._sim.joint_positions(), self._sim.joint_velocities()
        return positions[self._columns], velocities[self._columns]

    def _on_trajectory(self, message: JointTrajectory) -> None:
        try:
            self._controller.accept(sim_messages.to_trajectory(message), self._sim.time)
        except CommandRejected as error:
            self.get_logger().warning(f"trajectory rejected: {error}", throttle_duration_sec=1.0)

    def _on_set_active(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        if request.data and not self._controller.model.is_active:
            self._controller.activate(self._measured())
        elif not request.data:
            self._controller.deactivate()
        response.success, response.message = True, "active" if request.data else "inactive"
        return response


def _point(positions: np.ndarray, velocities: np.ndarray) -> JointTrajectoryPoint:
    return JointTrajectoryPoint(positions=positions.tolist(), velocities=velocities.tolist())
