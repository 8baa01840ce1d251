"""Subscribe to a running graph for a few seconds, and collect what the checks need."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image, JointState

from sf_bringup.doctor.seen import Controller, Seen, Stream
from sf_bringup.doctor.stream_checks import COMPRESSED, IMAGE, JOINT_STATE
from sf_policy_node.contract import Contract
from sf_policy_node.nodes.any_qos import full_name, publisher_of
from sf_policy_node.nodes.controller_watch import ControllerWatch
from sf_policy_node.nodes.emergency_stop import SHARED_TOPIC
from sf_policy_node.nodes.gripper_action import served_types
from sf_policy_node.nodes.outputs import NEWEST as COMMAND_QOS
from sf_policy_node.nodes.surroundings import qos_fault
from sf_policy_node.perception.images import ImageError, decode_compressed

_DISCOVERY_S = 1.5  # until names and types of the graph have arrived
_READABLE = {IMAGE: Image, COMPRESSED: CompressedImage, JOINT_STATE: JointState}
# NVIDIA, NVIDIA Jetson, AMD (ROCm), and Windows' GPUs inside WSL
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")


class Listener:
    """Subscribes to the topics that the contract reads; publishes nothing.

    Args:
        node: no other executor may spin it.
        namespace: in which relative topics of the contract resolve.
    """

    def __init__(self, node: Node, contract: Contract, namespace: str = "") -> None:
        self._node, self._contract = node, contract
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self.seen = Seen(namespace)

    def listen(self, seconds: float, patience: float = 0.0) -> Seen:
        """Return what was received in ``seconds`` [s], after discovery.

        Args:
            patience: time to wait for publishers that are missing after discovery [s].
        """
        seen = self.seen
        self._spin(_DISCOVERY_S)
        end = time.monotonic() + patience
        while time.monotonic() < end and not all(map(self._node.count_publishers, self._inputs())):
            self._spin(0.2)
        seen.has_clock = bool(self._node.get_publishers_info_by_topic("/clock"))
        if seen.has_clock:
            self._node.set_parameters([Parameter("use_sim_time", value=True)])
            self._spin(0.5)
        self._look_at_graph()
        for topic in self._inputs():
            self._subscribe(topic)
        self._spin(0.3)  # a new subscription receives its first messages late, and in a burst
        for stream in seen.streams.values():
            stream.received.clear()
            stream.stamps.clear()
        seen.seconds = seconds
        with ExitStack() as resources:
            watches = self._watch_controllers(resources)
            self._spin(seconds)
            refusals = [watch.refusal for watch in watches]
            seen.controller_refusal = next(
                (each for each in refusals if each and not each.startswith("no controller")), ""
            )
            seen.controller_remarks = [
                each for watch in watches for each in watch.remarks if " publishes on " not in each
            ]
        self._read_controllers()
        return seen

    def _inputs(self) -> list[str]:
        topics = [camera.topic for camera in self._contract.cameras]
        return [self.seen.resolve(topic) for topic in (*topics, self._contract.topics.joint_states)]

    def _look_at_graph(self) -> None:
        node, seen, contract = self._node, self.seen, self._contract
        own, space = node.get_name(), node.get_namespace()
        seen.nodes = nodes_in(space, node.get_node_names_and_namespaces(), own)
        seen.services = {name for name, _ in node.get_service_names_and_types()}
        for topic, kinds in node.get_topic_names_and_types():
            if node.count_publishers(topic):
                seen.topics[topic] = set(kinds)
        outputs = [*contract.command_groups, contract.topics.emergency_stop, SHARED_TOPIC]
        grippers = [arm.command.gripper for arm in contract.arms.values() if arm.command.gripper]
        outputs += [gripper.topic for gripper in grippers]
        for action in (seen.resolve(gripper.topic) for gripper in grippers if gripper.action):
            seen.actions[action] = served_types(node, action)
        for topic in (*self._inputs(), *(self.seen.resolve(each) for each in outputs)):
            publishers = node.get_publishers_info_by_topic(topic)
            subscribers = node.get_subscriptions_info_by_topic(topic)
            seen.streams[topic] = Stream(
                types={info.topic_type for info in (*publishers, *subscribers)},
                publishers=[name_in(space, info) for info in publishers],
                subscribers=[name for info in subscribers if (name := name_in(space, info)) != own],
            )
            if publishers:
                seen.streams[topic].types = {info.topic_type for info in publishers}
        for topic in self._inputs():
            for info in node.get_publishers_info_by_topic(topic):
                if fault := qos_fault(info.qos_profile, qos_profile_sensor_data):
                    seen.streams[topic].qos_faults.append(f"{full_name(info)} publishes {fault}")
        for topic in map(seen.resolve, contract.command_groups):
            for info in node.get_subscriptions_info_by_topic(topic):
                if fault := qos_fault(COMMAND_QOS, info.qos_profile):
                    seen.streams[topic].qos_faults.append(
                        f"{full_name(info)} does not receive commands, which are {fault}"
                    )

    def _subscribe(self, topic: str) -> None:
        stream = self.seen.streams[topic]
        message_type = next((_READABLE[each] for each in stream.types if each in _READABLE), None)
        if message_type is None:
            return

        def take(message: Any, info: Any) -> None:
            stamp = message.header.stamp
            stream.received.append(self._node.get_clock().now().nanoseconds * 1e-9)
            stream.stamps.append(stamp.sec + 1e-9 * stamp.nanosec)
            if isinstance(message, JointState):
                self._take_joints(message, publisher_of(info))
                return
            stream.frames.add(message.header.frame_id)
            if isinstance(message, Image):
                stream.sizes.add((message.width, message.height))
            elif not stream.sizes:
                stream.sizes |= _size(message)

        self._node.create_subscription(message_type, topic, take, qos_profile_sensor_data)

    def _take_joints(self, message: JointState, publisher: str) -> None:
        joints, now = self.seen.joints, time.monotonic()
        if len(message.name) != len(message.position):
            joints.mismatched = (len(message.name), len(message.position))
        for name, value in zip(message.name, message.position, strict=False):
            joints.positions[name] = value
            joints.sources.setdefault(name, set()).add(publisher)
            joints.times.setdefault(name, []).append(now)
            if not np.isfinite(value):
                joints.not_finite.add(name)

    def _watch_controllers(self, resources: ExitStack) -> list[ControllerWatch]:
        """Request the parameters of trajectory controllers, as the executor does."""
        if self._contract.output != "joint_trajectory":
            return []
        watches = [
            ControllerWatch(
                self._node,
                resources,
                self._contract,
                topic,
                on_reference=lambda *_: None,
                on_lost=lambda _: None,
            )
            for topic in self._contract.command_groups
        ]
        for watch in watches:
            watch.look()
        return watches

    def _read_controllers(self) -> None:
        service = self.seen.controller_manager(self._contract.command_groups)
        if service is None:
            return
        try:
            from controller_manager_msgs.srv import ListControllers
        except ImportError:
            self.seen.controllers_unread = "controller_manager_msgs is not installed"
            return
        client: Client = self._node.create_client(ListControllers, service)
        future = client.call_async(ListControllers.Request())
        self._executor.spin_until_future_complete(future, timeout_sec=3.0)
        result = future.result() if future.done() else None
        if result is None:
            self.seen.controllers_unread = f"{service} does not answer within 3 s"
            return
        self.seen.controllers = [
            Controller(each.name, each.type, each.state, _joints_of(each.claimed_interfaces, each))
            for each in result.controller
        ]

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)


def nodes_in(namespace: str, found: Iterable[tuple[str, str]], own: str) -> list[str]:
    """Return the full names of the nodes in a namespace and below, without those of tools.

    Args:
        found: names and namespaces of all nodes of the ROS domain.
        own: name of the doctor.
    """
    space = namespace.rstrip("/")
    return [
        f"{where.rstrip('/')}/{name}"
        for name, where in found
        if f"{where.rstrip('/')}/".startswith(f"{space}/")
        and not name.startswith("_")
        and (name, where.rstrip("/")) != (own, space)
    ]


def name_in(namespace: str, endpoint: TopicEndpointInfo) -> str:
    """Return the name of an endpoint's node, the full one if it is in another namespace: on a topic
    with an absolute name the executor of another namespace is not our own.
    """
    is_own = endpoint.node_namespace.rstrip("/") == namespace.rstrip("/")
    return endpoint.node_name if is_own else full_name(endpoint)


def look_at_machine(seen: Seen, folder: Path) -> None:
    """Add disk, GPU and versions of this machine to ``seen``."""
    seen.disk, seen.free_disk_gb = str(folder), shutil.disk_usage(folder).free / 1e9
    seen.versions = {"Python": platform.python_version()}
    for name in ("numpy", "torch", "mujoco", "pin", "rclpy"):
        try:
            seen.versions[name] = version(name)
        except PackageNotFoundError:
            continue
    seen.gpu_devices = [device for device in _GPU_DEVICES if Path(device).exists()]
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        seen.gpu = torch.cuda.get_device_name()


def _joints_of(claimed: list[str], controller: Any) -> tuple[str, ...]:
    """Return the joints of interfaces such as ``joint1/position``, in the controller's order.

    Only the required interfaces are in the order of its parameters, and an inactive controller has
    claimed none yet.
    """
    interfaces = list(getattr(controller, "required_command_interfaces", [])) or claimed
    return tuple(dict.fromkeys(each.rpartition("/")[0] for each in interfaces))


def _size(message: CompressedImage) -> set[tuple[int, int]]:
    try:
        height, width = decode_compressed(message.format, message.data).shape[:2]
    except ImageError:
        return set()
    return {(width, height)}
