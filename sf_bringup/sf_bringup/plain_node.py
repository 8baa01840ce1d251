"""Run a node without a lifecycle until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from sf_policy_node.contract import ContractError
from sf_policy_node.nodes.starter import end_with_starter


def run(name: str, make: Callable[[], Node], args: list[str] | None = None) -> int:
    """Create a node and spin it; return 0, or print an error and return 1 if it cannot be created.

    Args:
        name: of the program, for the error message.
        make: the node's class, or a function that returns the node.
        args: command line; None takes ``sys.argv``.
    """
    end_with_starter()
    rclpy.init(args=args)
    try:
        node = make()
    except (ContractError, ValueError) as error:
        rclpy.try_shutdown()
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # The terminal and `ros2 launch` both send SIGINT; the second must not interrupt this.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
