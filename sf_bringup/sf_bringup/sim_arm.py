"""Run the simulated arm as a ROS node, with the topics of an arm under ros2_control and its
cameras.

One thread runs physics, rendering and messages in turn, because a GL context belongs to one thread
and because the same inputs then give the same simulation. Images are rendered only while there are
subscribers. Stamps are simulated time, which the node also publishes as /clock.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_srvs.srv import SetBool

from sf_bringup import sim_messages
from sf_bringup.motion_truth import MotionTruthPublisher
from sf_bringup.pacing import FACTOR_WANTED, Pacer
from sf_bringup.sim_commands import listen_for_commands, takes_single_commands
from sf_bringup.sim_controller import SETTINGS, controller_values
from sf_msgs.msg import TaskState
from sf_msgs.srv import ResetScene
from sf_policy_node.contract import Camera, ContractError, load_contract
from sf_policy_node.controller.requirements import read_parameters
from sf_policy_node.nodes.lifecycle import let_end
from sf_policy_node.nodes.starter import end_with_starter
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.controllers import combined, controller_parts
from sf_training.simulation.rendering import RenderingError

JOINT_STATE_PERIOD = 0.01  # s; also of /clock
TASK_STATE_PERIOD = 0.1
_LATE_FRAMES = 2  # frame periods of lag above which a frame is dropped
_LATCHED = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
)
# Reliable, as that of joint_state_broadcaster: subscribers of both reliabilities receive it.
_JOINT_STATES = QoSProfile(depth=10)
_CLOCK = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SimArm(Node):
    """Simulate the robot of a contract in the thread that calls :meth:`run`.

    The constructor declares the parameters, each with a description.

    Raises:
        ContractError: the contract does not load.
        RenderingError: no GL library works.
        ValueError: a parameter is wrong, or the simulation does not support the contract.
    """

    def __init__(self) -> None:
        super().__init__("sim_arm")
        declare = self._declare
        path = declare("contract", "", "path of the robot contract")
        contract = load_contract(path, namespace=self.get_namespace())
        seed = declare(
            "seed", 0, "scene at the start", IntegerRange(from_value=0, to_value=2**62, step=1)
        )
        cubes = declare(
            "cubes",
            0,
            "1 to 3; 0 lets the seed choose",
            IntegerRange(from_value=0, to_value=3, step=1),
        )
        jitter = declare(
            "camera_jitter_m",
            0.06,
            "standard deviation of the scene camera's position",
            _span(0.0, 1.0),
        )
        self._with_depth = declare("depth", False, "publish 32FC1 depth images")
        factor = declare(
            "real_time_factor",
            1.0,
            "simulated seconds per second; 0 is as fast as possible",
            _span(0.0, 1000.0),
        )
        self._contract = contract
        settings = {
            name: declare(f"controller.{name}", default, description)
            for name, (default, description) in SETTINGS.items()
        }
        values = partial(controller_values, settings=settings)
        parts = controller_parts(contract, lambda joints: read_parameters(values(joints)))
        self._sim = ArmSim(contract, camera_jitter_m=jitter, controller=combined(parts))
        self._sim.reset(seed, cubes)
        self._pacer = Pacer(factor)
        self._paused = self._stopping = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

        self._clock_publisher = self.create_publisher(Clock, "/clock", _CLOCK)
        self._joint_publisher = self.create_publisher(
            JointState, contract.topics.joint_states, _JOINT_STATES
        )
        self._task_publisher = self.create_publisher(TaskState, "~/task_state", _LATCHED)
        self._truth = MotionTruthPublisher(self, contract, self._sim)
        self._cameras = [
            _CameraPublishers(self, camera, self._with_depth) for camera in contract.cameras
        ]
        self._controllers = listen_for_commands(self, parts, self._sim, values, contract)
        for controller in self._controllers:
            self._executor.add_node(controller)
        # Single commands are received at every physics step: two of them within one step would
        # cause a jerk.
        self._cycle = ArmSim.TIMESTEP if takes_single_commands(contract) else JOINT_STATE_PERIOD
        self.create_service(ResetScene, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.get_logger().info(
            f"simulated arm ready: {', '.join(self._sim.scene.colours)} cubes; try"
            f" {self._sim.scene.instruction!r}"
        )

    def run(self) -> None:
        """Simulate until :meth:`stop` is called."""
        steps = round(self._cycle / ArmSim.TIMESTEP)
        frame_period = 1.0 / max(camera.rate_hz for camera in self._contract.cameras)
        next_state = next_frame = next_task = 0.0
        self._pacer.restart(self._sim.time)
        while not self._stopping:
            if self._paused:
                self._executor.spin_once(timeout_sec=0.1)
                continue
            self._receive_until(self._sim.time + self._cycle)
            if self._paused:
                continue
            self._sim.step(steps)
            self._pacer.stepped(self._sim.time)
            now = self._sim.time + 1e-9  # rounding: sums of time steps may end just too low
            self._publish_clock()
            for controller in self._controllers:
                controller.publish_state()
            if now >= next_state:
                self._publish_state()
                next_state = (now // JOINT_STATE_PERIOD + 1) * JOINT_STATE_PERIOD
            self._truth.publish()
            if now >= next_task:
                self._publish_task()
                next_task = (now // TASK_STATE_PERIOD + 1) * TASK_STATE_PERIOD
            if now >= next_frame:
                self._publish_images(
                    late=self._pacer.lag_s(self._sim.time) > _LATE_FRAMES * frame_period
                )
                next_frame = (now // frame_period + 1) * frame_period
            self._watch_speed()

    def stop(self) -> None:
        """End :meth:`run` after the current step; may be called from a signal handler."""
        self._stopping = True

    def summary(self) -> str:
        """Return the reached real-time factor and the number of dropped frames as text."""
        return (
            f"real-time factor {self._pacer.total(self._sim.time):.3f},"
            f" {self._pacer.frames_dropped} frames dropped"
        )

    def close(self) -> None:
        """Free the GL contexts and the node."""
        self._executor.shutdown()
        self._sim.close()
        for controller in self._controllers:
            controller.destroy_node()
        self.destroy_node()

    def _declare(
        self,
        name: str,
        default: Any,
        description: str,
        span: IntegerRange | FloatingPointRange | None = None,
    ) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if isinstance(span, IntegerRange):
            descriptor.integer_range = [span]
        elif span is not None:
            descriptor.floating_point_range = [span]
        return self.declare_parameter(name, default, descriptor).value

    def _receive_until(self, simulated: float) -> None:
        """Process messages until ``simulated`` [s] is due, and at least once if it is late."""
        while True:
            wait = self._pacer.wait_s(simulated)
            self._executor.spin_once(timeout_sec=max(wait, 0.0))
            if self._paused or self._stopping or self._pacer.wait_s(simulated) <= 0:
                return

    def _publish_clock(self) -> None:
        self._clock_publisher.publish(Clock(clock=sim_messages.to_stamp(self._sim.time)))

    def _publish_state(self) -> None:
        stamp, positions, velocities = (
            sim_messages.to_stamp(self._sim.time),
            self._sim.joint_positions(),
            self._sim.joint_velocities(),
        )
        self._joint_publisher.publish(
            sim_messages.joint_state(stamp, self._contract.command_joints, positions, velocities)
        )

    def _publish_task(self) -> None:
        self._task_publisher.publish(
            sim_messages.task_state(
                self._sim.time, self._contract.base_frame, self._sim.task_state()
            )
        )

    def _publish_images(self, late: bool) -> None:
        wanted = [camera for camera in self._cameras if camera.wanted()]
        if late and wanted:  # as a busy camera driver would; the arm must not wait
            self._pacer.frames_dropped += 1
            return
        stamp = sim_messages.to_stamp(self._sim.time)
        for camera in wanted:
            camera.publish(self._sim, stamp)

    def _watch_speed(self) -> None:
        self._pacer.give_up_lag(self._sim.time)
        reached = self._pacer.reached(self._sim.time)
        if reached is not None and reached < FACTOR_WANTED * self._pacer.factor:
            dropped = self._pacer.frames_dropped
            self.get_logger().warning(
                f"real-time factor {reached:.2f} of {self._pacer.factor:g}, {dropped} frames"
                " dropped: the machine is busy"
            )

    def _on_reset(
        self, request: ResetScene.Request, response: ResetScene.Response
    ) -> ResetScene.Response:
        try:
            scene = self._sim.reset(request.seed, request.cubes)
        except ValueError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.instruction, response.target, response.colours = (
            True,
            scene.instruction,
            "+".join(scene.targets),
            list(scene.colours),
        )
        self._truth.publish(moved_by_reset=True)
        self._publish_state()
        self._publish_task()
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data and not self._paused:
            self._pacer.pause(self._sim.time)
        elif self._paused and not request.data:
            self._pacer.restart(self._sim.time)
        self._paused = request.data
        response.success, response.message = True, "paused" if request.data else "running"
        return response


class _CameraPublishers:
    """Publish image, depth and calibration of one camera."""

    def __init__(self, node: Node, camera: Camera, with_depth: bool) -> None:
        self._camera = camera
        image_type = Image if camera.transport == "raw" else CompressedImage
        self._image = node.create_publisher(image_type, camera.topic, qos_profile_sensor_data)
        info, depth = camera.info_topic, camera.depth_topic if with_depth else None
        self._info = (
            node.create_publisher(CameraInfo, info, qos_profile_sensor_data) if info else None
        )
        self._depth = (
            node.create_publisher(Image, depth, qos_profile_sensor_data) if depth else None
        )

    def wanted(self) -> bool:
        """Return whether any topic of this camera has a subscriber."""
        return any(
            publisher is not None and publisher.get_subscription_count()
            for publisher in (self._image, self._info, self._depth)
        )

    def publish(self, sim: ArmSim, stamp: Time) -> None:
        """Render and publish the topics that have subscribers."""
        name, frame = self._camera.name, self._camera.frame
        if self._image.get_subscription_count():
            pixels = sim.render(name)
            if self._camera.transport == "raw":
                self._image.publish(sim_messages.image(stamp, frame, "rgb8", pixels))
            else:
                self._image.publish(sim_messages.compressed_image(stamp, frame, pixels))
        if self._depth is not None and self._depth.get_subscription_count():
            self._depth.publish(sim_messages.image(stamp, frame, "32FC1", sim.depth(name)))
        if self._info is not None:
            self._info.publish(
                sim_messages.camera_info(
                    stamp, frame, self._camera.width, self._camera.height, sim.intrinsics(name)
                )
            )


def _span(low: float, high: float) -> FloatingPointRange:
    return FloatingPointRange(from_value=low, to_value=high, step=0.0)


def _end_within(seconds: float, code: int) -> None:
    """End the process with ``code`` after ``seconds`` if the shutdown of rclpy or GL blocks, as it
    did in 2 of about 300 runs.
    """
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def main(args: list[str] | None = None) -> int:
    """Run ``ros2 run sf_bringup sim_arm``; return the exit code."""
    node: SimArm | None = None
    interrupted = False

    def on_signal(*_: object) -> None:
        nonlocal interrupted
        if node is None:
            interrupted = True
            raise SystemExit(0)
        node.stop()

    # The signal handlers of rclpy would close the context within a step.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    end_with_starter()
    try:
        node = SimArm()
        node.run()
        print(f"sim_arm: {node.summary()}", flush=True)
        _end_within(3.0, 0)
    except (ContractError, RenderingError, ValueError, ParameterException) as error:
        # Compiled libraries turn a SystemExit during their import into another error.
        if interrupted:
            return 0
        print(f"sim_arm: {error}", file=sys.stderr, flush=True)
        _end_within(3.0, 1)
        return 1
    finally:
        let_end()
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
