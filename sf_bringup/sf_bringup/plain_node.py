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
    """Make the node and spin it; return the exit code: 1 with a sentence where it cannot be made.

    Args:
        name: of the program, for that sentence.
        make: the node's class, or a function that returns the node.
        args: the command line; None: ``sys.argv``.
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal and `ros2 launch` both send one
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
