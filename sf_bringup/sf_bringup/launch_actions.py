"""Build the launch description of a journey: one action for each node, with a condition and
parameters from the graph.

Only launch files import this module. They run under the Python of ``ros2``, which need not have
pydantic. The executable ``graph`` of this package therefore computes the graph, under the
interpreter that the workspace was built with.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction
from launch.conditions import IfCondition
from launch.events import Shutdown, matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch.utilities.signal_management import AsyncSafeSignalManager
from launch_ros.actions import LifecycleNode, Node

from sf_bringup.arguments import BOOLEANS, Argument, GraphError, did_you_mean, resolve_namespace
from sf_bringup.graph_output import read_graph
from sf_bringup.journeys import (
    CHUNK_EXECUTOR,
    GLOBAL_TOPICS,
    JOURNEYS,
    Executable,
    remap_global_topics,
)

_SIGTERM_AFTER_S, _SIGKILL_AFTER_S = "8", "4"  # as `up` does
_FINISH_S = "25"  # longer than the executor takes to move the arm to its rest pose
# Exit codes of a node that was stopped; the last two if SIGINT came while Python still imported it.
_IN_ORDER = (0, 130, -signal.SIGINT)
_OF_LAUNCH = ("emulate_tty", "log_file", "output_format", "sigterm_timeout", "sigkill_timeout")


def describe(journey: str) -> LaunchDescription:
    """Return the launch description of a journey: its arguments, then its nodes. A node that ends
    stops the others.

    Args:
        journey: a key of :data:`sf_bringup.journeys.JOURNEYS`.
    """
    arguments = JOURNEYS[journey].arguments
    nodes = {node.name: node for node in JOURNEYS[journey].nodes}
    end = _OrderedEnd()
    actions = [_action(node, end) for node in nodes.values()]
    end.executor = actions[list(nodes).index(CHUNK_EXECUTOR.name)]

    def resolve(context: LaunchContext) -> None:
        _end_on_sigterm(context, end)
        _refuse_unknown_arguments(context, arguments)
        _resolve_graph(context, journey)

    return LaunchDescription(
        [*map(_declare, arguments), OpaqueFunction(function=resolve), *actions]
    )


def _declare(argument: Argument) -> DeclareLaunchArgument:
    choices = list(argument.choices)
    if set(BOOLEANS) <= set(choices):
        # Python and YAML also write True and False, and `launch` compares with case.
        choices += [choice.capitalize() for choice in BOOLEANS]
    return DeclareLaunchArgument(
        argument.name,
        default_value=argument.default_text,
        description=argument.description,
        choices=choices or None,
    )


class _OrderedEnd:
    """Ends the executor before all other nodes: to move the arm to its rest pose it needs the joint
    states of the drivers and the simulation, also of those in a file that includes this one.

    This is not possible for Ctrl-C in a terminal, which signals all processes at once.
    """

    executor: Node  # its action

    def __init__(self) -> None:
        self._is_requested = False

    def begin(self, context: LaunchContext) -> None:
        """Stop the executor; a second request stops all nodes."""
        if context.is_shutdown:
            return
        again, self._is_requested = self._is_requested, True
        matcher = matches_action(self.executor)
        first = ShutdownProcess(process_matcher=matcher)
        context.emit_event_sync(Shutdown(reason="SIGTERM") if again else first)

    def on_exit(self, event: ProcessExited, context: LaunchContext) -> EmitEvent | None:
        """Stop the other nodes once the executor has ended.

        Raises:
            RuntimeError: it ended by itself, or with a failure.
        """
        is_first = self._is_requested and not context.is_shutdown
        if not (is_first and event.returncode in _IN_ORDER):
            _end_with_failure(event, context)
            return None
        return EmitEvent(event=Shutdown(reason="SIGTERM"))


def _action(node: Executable, end: _OrderedEnd) -> Node:
    # :func:`_resolve_graph` sets these launch configurations.
    common = {
        "package": node.package,
        "executable": node.executable,
        "name": node.name,
        "namespace": LaunchConfiguration(_configuration("namespace")),
        "parameters": [
            LaunchConfiguration(_configuration(f"{node.name}.{file}"))
            for file in ("parameters", "overrides")
        ],
        "remappings": [
            (topic, LaunchConfiguration(_configuration(topic))) for topic in GLOBAL_TOPICS
        ],
        "ros_arguments": ["--log-level", LaunchConfiguration("log_level")],
        "condition": IfCondition(LaunchConfiguration(_configuration(f"{node.name}.starts"))),
        "output": "screen",
        "sigterm_timeout": _FINISH_S if node.name == CHUNK_EXECUTOR.name else _SIGTERM_AFTER_S,
        "sigkill_timeout": _SIGKILL_AFTER_S,
        "on_exit": _end_with_failure if node.essential else None,
    }
    if node.name == CHUNK_EXECUTOR.name:
        common["on_exit"] = end.on_exit
    if node.name == "rviz":
        common["arguments"] = ["-d", LaunchConfiguration(_configuration("rviz.config"))]
    return LifecycleNode(**common) if node.lifecycle else Node(**common)


def _configuration(key: str) -> str:
    return f"sf_bringup.{key}"


def _end_on_sigterm(context: LaunchContext, end: _OrderedEnd) -> None:
    """Stop all nodes on SIGTERM, the executor first. By default ``launch`` ends at once on SIGTERM,
    and its nodes and the arm keep running.
    """
    # `launch` has no public access to its signal manager. If a later version lacks this attribute,
    # the nodes still end with their starter (sf_policy_node.nodes.starter).
    manager = getattr(AsyncSafeSignalManager, "_AsyncSafeSignalManager__current", None)
    if manager is None or threading.current_thread() is not threading.main_thread():
        return

    manager.handle(signal.SIGTERM, lambda number: end.begin(context))
    # The manager is notified only of signals that have a handler.
    signal.signal(signal.SIGTERM, lambda *_: None)


def _end_with_failure(event: ProcessExited, context: LaunchContext) -> None:
    """Stop all nodes and exit with 1, by an exception: ``launch`` sets its exit code for no other
    failure.

    Raises:
        RuntimeError: the node ended by itself, or with a failure when it was stopped.
    """
    if not (context.is_shutdown and event.returncode in _IN_ORDER):
        raise RuntimeError(f"{event.process_name} ended with exit code {event.returncode}")


def _refuse_unknown_arguments(context: LaunchContext, arguments: tuple[Argument, ...]) -> None:
    """Refuse undeclared arguments. ``launch`` ignores them: a misspelt ``shaddow:=true`` would move
    the arm.

    Raises:
        GraphError: the command line has an argument that this launch file does not declare. If
            another file includes this one, only for a name similar to one of its arguments.
    """
    known = [argument.name for argument in arguments]
    typed = [word.partition(":=")[0] for word in context.argv if ":=" in word]
    others = [
        name
        for name in context.launch_configurations
        if name not in known and not _is_internal(name)
    ]
    is_included = bool(set(others) - set(typed))
    for name in dict.fromkeys([*typed, *others]):
        if name in known or _is_internal(name):
            continue
        near = did_you_mean(name, known)
        if not is_included:
            raise GraphError(
                f"{name}:= is not an argument of this launch file{near}; it takes"
                f" {', '.join(known)}"
            )
        if near:
            raise GraphError(
                f"{name}:= is not an argument of this launch file{near}; if it belongs to the file"
                " that includes this one, include it in a GroupAction with forwarding=False"
            )


def _is_internal(name: str) -> bool:
    """Return whether ``launch``, ``launch_ros`` or this package sets the launch configuration."""
    return name.startswith(("ros_", "global_", "launch-", "sf_bringup.")) or name in _OF_LAUNCH


def _resolve_graph(context: LaunchContext, journey: str) -> None:
    """Run the executable ``graph`` and set launch configurations from its output.

    Raises:
        GraphError: with the message of the executable.
    """
    values = {
        argument.name: context.launch_configurations[argument.name]
        for argument in JOURNEYS[journey].arguments
    }
    # Set by PushRosNamespace in a file that includes this one.
    pushed = context.launch_configurations.get("ros_namespace", "")
    namespace = values["namespace"] or ("" if pushed else resolve_namespace(""))
    full = (
        namespace
        if namespace.startswith("/")
        else "/".join(part for part in (pushed.rstrip("/"), namespace) if part)
    )
    graph = read_graph(journey, {**values, "namespace": full})
    # A remapping of a topic to itself changes nothing.
    remappings = {topic: remap_global_topics(full).get(topic, topic) for topic in GLOBAL_TOPICS}
    configurations = {"namespace": namespace, "rviz.config": graph["rviz_config"], **remappings}
    folder = Path(tempfile.mkdtemp(prefix="sf_launch_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for node in JOURNEYS[journey].nodes:
        parameters = graph["nodes"].get(node.name)
        path = folder / f"{node.name}.yaml"
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
        configurations[f"{node.name}.starts"] = str(parameters is not None).lower()
        configurations[f"{node.name}.parameters"] = str(path)
        # launch_ros warns about an empty path. Without a params_file the node reads its own file
        # twice.
        configurations[f"{node.name}.overrides"] = graph["params_file"] or str(path)
    for key, value in configurations.items():
        context.launch_configurations[_configuration(key)] = value
