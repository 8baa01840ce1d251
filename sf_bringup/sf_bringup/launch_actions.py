"""From a graph to a launch description. Only launch files import this: ``launch`` comes with an installed ROS 2 alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from sf_bringup.graph import Argument, NodeSpec, parse_arguments


def describe(arguments: Sequence[Argument], graph: Callable[..., list[NodeSpec]]) -> LaunchDescription:
    """A journey: its arguments, then its nodes; one that ends by itself stops the others."""

    def start(context: LaunchContext) -> list[Node]:
        words = [f"{argument.name}:={LaunchConfiguration(argument.name).perform(context)}" for argument in arguments]
        return [_action(spec) for spec in graph(**parse_arguments(words, arguments))]

    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=str(argument.default).lower() if isinstance(argument.default, bool) else str(argument.default),
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def _stop_the_rest(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    # Not while shutting down already: launch_ros reports a second shutdown as an error.
    return None if context.is_shutdown else Shutdown(reason=f"{event.process_name} ended with exit code {event.returncode}")


def _action(spec: NodeSpec) -> Node:
    # ParameterValue: launch_ros would read a bare string such as "1" or "true" as a number or a bool.
    parameters = {key: ParameterValue(value, value_type=str) if isinstance(value, str) else value for key, value in spec.parameters.items()}
    return (LifecycleNode if spec.lifecycle else Node)(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace="",
        parameters=[parameters],
        remappings=list(spec.remappings),
        output="screen",
        on_exit=_stop_the_rest,
    )
