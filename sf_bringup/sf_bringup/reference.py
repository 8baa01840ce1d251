"""Print the reference of parameters, topics, services and actions as Markdown.

Usage: ``python3 -m sf_bringup.reference``.

It configures and activates each node in turn, with the contract of the simulated arm, and reads
from rclpy what the node offers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import rclpy
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.action import ActionServer, get_action_server_names_and_types_by_node
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from sf_bringup.sim_arm import SimArm
from sf_policy_node.nodes.chunk_executor import ChunkExecutorNode
from sf_policy_node.nodes.policy_node import PolicyNode
from sf_training.recording.recorder_node import Recorder
from sf_training.teleoperation.teleoperation_node import TeleoperationNode

NODES: dict[str, tuple[str, Callable[[], Node]]] = {
    "chunk_executor": ("sf_policy_node", ChunkExecutorNode),
    "policy_node": ("sf_policy_node", PolicyNode),
    "recorder": ("sf_training", Recorder),
    "teleoperation": ("sf_training", TeleoperationNode),
    "sim_arm": ("sf_bringup", SimArm),
}
_OF_EVERY_NODE = ("use_sim_time", "start_type_description_service", "qos_overrides")
_HIDDEN = (
    "parameter_events",
    "rosout",
    "transition_event",
    "/_action/",
    "parameter",
    "_type_description",
    "get_state",
    "change_state",
)
# Left out, so that the page is the same with and without these packages.
_NOT_ON_PYPI = ("tf2_msgs", "control_msgs", "controller_manager_msgs")
_LIFECYCLE = ("get_available_states", "get_available_transitions", "get_transition_graph")
_GRAPH_S = 30.0  # until a node sees itself
HEAD = """# Reference: parameters, topics, services, actions

After this page you can look up every parameter, topic, service and action of each node.

`python3 -m sf_bringup.reference` writes this page, and a test compares it with the nodes. Do not
edit it by hand.

Names are those of `config/robots/sim_arm.yaml` in the root namespace. Topics of a contract are
relative: in a namespace they get its prefix. `~` is the node's own name. Every node also has ROS's
own parameters and services, and lifecycle nodes have the lifecycle services.
`qos_overrides.TOPIC.publisher` and `.subscription` set history, depth and reliability.

Left out are topics and services of tf2_msgs (`chunk_executor` and `recorder` read `/tf` and
`/tf_static`, `robot_state` publishes them), control_msgs and controller_manager_msgs.
"""


def write_reference() -> str:
    """Return the page; takes some seconds, because the nodes are configured one after the other.

    Raises:
        RuntimeError: a node cannot be configured.
    """
    config = Path(get_package_share_directory("sf_bringup"), "config")
    values = {
        "contract": config / "robots/sim_arm.yaml",
        "policy_node:checkpoint": config / "policies/nano",
        "policy_node:device": "cpu",
        "teleoperation:device": config / "teleoperation/keyboard.yaml",
        "autostart": "false",
    }
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    rclpy.init(args=["--ros-args", *words, "--log-level", "fatal"])
    try:
        return "\n".join([HEAD, *(line for name in NODES for line in _describe(name))]) + "\n"
    finally:
        rclpy.try_shutdown()


def _describe(name: str) -> Iterator[str]:
    package, make = NODES[name]
    node = make()
    try:
        if isinstance(node, LifecycleNode) and not (
            _succeeds(node.trigger_configure()) and _succeeds(node.trigger_activate())
        ):
            raise RuntimeError(f"{name}: {getattr(node, 'failure', '') or 'cannot be configured'}")
        yield from (f"## {name}", "", f"`ros2 run {package} {name}`", "")
        yield from _parameters(node)
        yield from _topics("publishes", node, node.publishers)
        yield from _topics("subscribes to", node, node.subscriptions)
        yield from _services(node)
    finally:
        node.close() if isinstance(node, SimArm) else node.destroy_node()


def _succeeds(result: Any) -> bool:
    return result.name == "SUCCESS"


def _parameters(node: Node) -> Iterator[str]:
    names = sorted(
        name for name in node.get_parameters_by_prefix("") if not name.startswith(_OF_EVERY_NODE)
    )
    yield from ("| parameter | type | range | read only | meaning |", "|---|---|---|---|---|")
    for descriptor in node.describe_parameters(names):
        type_name = type(node.get_parameter(descriptor.name).value).__name__
        read_only = "yes" if descriptor.read_only else ""
        yield (
            f"| `{descriptor.name}` | {type_name} | {_range(descriptor)} | {read_only} |"
            f" {_cell(descriptor.description)} |"
        )
    yield ""


def _range(descriptor: ParameterDescriptor) -> str:
    spans = [*descriptor.integer_range, *descriptor.floating_point_range]
    return f"{spans[0].from_value:g} to {spans[0].to_value:g}" if spans else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _topics(title: str, node: Node, endpoints: Iterable[Any]) -> Iterator[str]:
    rows = {
        (_short(endpoint.topic_name, node), _type(endpoint.msg_type), _qos(endpoint.qos_profile))
        for endpoint in endpoints
        if _is_shown(endpoint.topic_name, endpoint.msg_type)
    }
    if rows:
        yield from (f"| {title} | type | QoS |", "|---|---|---|")
        yield from (
            f"| `{topic}` | {type_name} | {qos} |" for topic, type_name, qos in sorted(rows)
        )
        yield ""


def _services(node: Node) -> Iterator[str]:
    rows = {
        (_short(service.srv_name, node), "service", _type(service.srv_type))
        for service in node.services
        if _is_shown(service.srv_name, service.srv_type)
        and not service.srv_name.endswith(_LIFECYCLE)
    }
    for name, types in _actions(node):
        rows.add((_short(name, node), "action", types[0].replace("/action/", "/")))
    if rows:
        yield from ("| offers | interface | type |", "|---|---|---|")
        yield from (
            f"| `{name}` | {interface} | {type_name} |"
            for name, interface, type_name in sorted(rows)
        )
        yield ""


def _actions(node: Node) -> list[tuple[str, list[str]]]:
    """Return names and types of the node's action servers, once the ROS graph shows all of them."""
    wanted = sum(isinstance(waitable, ActionServer) for waitable in node.waitables)
    end = time.monotonic() + _GRAPH_S
    while True:
        found = get_action_server_names_and_types_by_node(
            node, node.get_name(), node.get_namespace()
        )
        if len(found) >= wanted or time.monotonic() > end:
            return found
        time.sleep(0.05)


def _is_shown(name: str, message_type: type) -> bool:
    return not any(part in name for part in _HIDDEN) and not message_type.__module__.startswith(
        _NOT_ON_PYPI
    )


def _short(name: str, node: Node) -> str:
    return (
        name.replace(f"/{node.get_name()}/", "~/", 1)
        if name.startswith(f"/{node.get_name()}/")
        else name
    )


def _type(message_type: type) -> str:
    return f"{message_type.__module__.partition('.')[0]}/{message_type.__name__}"


def _qos(profile: QoSProfile) -> str:
    reliability = (
        "best effort" if profile.reliability == ReliabilityPolicy.BEST_EFFORT else "reliable"
    )
    return (
        f"{reliability}, latched"
        if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        else reliability
    )


def main() -> int:
    """Print the page; return the exit code."""
    print(write_reference(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
