"""The base class of lifecycle nodes, which logs failures and releases resources, and their main
function.
"""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.nodes.any_qos import AnyQosSubscription, full_name
from sf_policy_node.nodes.parameters import Parameters
from sf_policy_node.nodes.starter import end_with_starter
from sf_policy_node.nodes.surroundings import Input

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_LAST_ANSWERS_S = 0.1  # time to answer clients that wait for a result when the node ends
# SIGHUP: the terminal was closed or an SSH connection was lost.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Python handles a signal only after the executor returns from waiting in C.
_SIGNAL_CHECK_S = 0.2
# The terminal and `ros2 launch` both send SIGINT for one Ctrl-C.
_AGAIN_S = 1.0


class ManagedNode(LifecycleNode):
    """A lifecycle node; subclasses implement :meth:`set_up`, :meth:`start` and :meth:`stop`.

    ``set_up`` registers what it creates in :attr:`resources` for release. When it raises, one
    sentence is logged, the resources are released and the transition fails.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.failure = ""
        self.resources = ExitStack()
        self.inputs: list[Input] = []
        self.own_publishers: set[str] = set()
        """GIDs of the publishers that :meth:`publisher` has created."""
        self._running = self._has_given_up = False
        self._parameters_declared = Parameters(self)
        self.parameter("contract", "", "path of the robot's contract (YAML)")
        self.parameter(
            "autostart",
            True,
            "configure and activate without waiting for lifecycle calls",
            read_only=True,
        )

    def parameter(
        self, name: str, default: bool | int | float | str, description: str, **options: Any
    ) -> None:
        """Declare a parameter; see :meth:`Parameters.declare`."""
        self._parameters_declared.declare(name, default, description, **options)

    def value(self, name: str) -> Any:
        """Return the value of a declared parameter."""
        return self._parameters_declared.value(name)

    def publisher(self, message_type: type[Any], topic: str, qos: QoSProfile) -> Publisher:
        """Create a publisher that lives until the node is cleaned up.

        Parameters ``qos_overrides.TOPIC.publisher`` override its QoS.
        """
        overrides = QoSOverridingOptions.with_default_policies()
        before = self._publishers_on(topic)
        publisher = self.create_publisher(
            message_type, topic, copy.copy(qos), qos_overriding_options=overrides
        )
        # ROS 2 does not report which publisher is new. Another process may have added one, too.
        own = f"{self.get_namespace().rstrip('/')}/{self.get_name()}"
        self.own_publishers |= {
            gid
            for gid, name in self._publishers_on(topic).items()
            if gid not in before and name == own
        }
        self.resources.callback(self.destroy_publisher, publisher)
        return publisher

    def _publishers_on(self, topic: str) -> dict[str, str]:
        """Return the publishers of a topic: the full name of the node by GID."""
        infos = self.get_publishers_info_by_topic(self.resolve_topic_name(topic))
        return {bytes(each.endpoint_gid).hex(): full_name(each) for each in infos}

    def subscribe(
        self,
        message_type: type[Any],
        topic: str,
        callback: Callable,
        qos: QoSProfile,
        **options: Any,
    ) -> None:
        """Create a subscription that lives until the node is cleaned up.

        Parameters ``qos_overrides.TOPIC.subscription`` override its QoS.
        """
        qos = copy.copy(qos)  # rclpy modifies the profile
        overrides = QoSOverridingOptions.with_default_policies()
        subscription = self.create_subscription(
            message_type, topic, callback, qos, qos_overriding_options=overrides, **options
        )
        self.inputs.append(Input(message_type, topic, qos))
        self.resources.callback(self.destroy_subscription, subscription)

    def subscribe_any_qos(
        self, message_type: type[Any], topic: str, callback: Callable
    ) -> AnyQosSubscription:
        """Subscribe to publishers with any QoS, including messages latched before the node started.

        ``callback`` gets the message and its publisher; see :class:`AnyQosSubscription`.
        """
        self.inputs.append(Input(message_type, topic, None))
        return AnyQosSubscription(self, self.resources, message_type, topic, callback)

    def give_up(self, reason: str) -> None:
        """Deactivate and end the process, because an operator must act on ``reason``."""
        self.failure, self._has_given_up = reason, True
        self.get_logger().fatal(reason)
        self.halt()

    @property
    def has_given_up(self) -> bool:
        """Whether :meth:`give_up` was called."""
        return self._has_given_up

    def now(self) -> float:
        """Return the node's time [s]: simulated where ``use_sim_time`` is set."""
        return 1e-9 * self.get_clock().now().nanoseconds

    @property
    def running(self) -> bool:
        """Whether the node is active."""
        return self._running

    def set_up(self, contract: Contract) -> None:
        """Create everything that the node needs for a contract.

        Raises:
            ValueError, OSError: with one sentence, when that is impossible.
        """
        raise NotImplementedError

    def settle(self) -> float:
        """Return how long to wait between configuration and activation [s], to receive messages of
        other publishers.
        """
        return 0.0

    def start(self) -> None:
        """Start to work; called on activation."""

    def finish(self) -> bool:
        """Continue what an active node does before it ends on request, and return whether there is
        more to do; called between callbacks, until it returns False.
        """
        return False

    def stop(self) -> None:
        """Stop to work; called on deactivation, and when an active node is shut down."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.set_up(self._load_contract())
        except Exception as error:
            self._fail(error)
            self._release()
            return TransitionCallbackReturn.FAILURE
        self.failure = ""
        self._parameters_declared.configured = True
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.start()
        except Exception as error:
            self._fail(error)
            return TransitionCallbackReturn.FAILURE
        self._running = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_error(state)

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def halt(self) -> None:
        """Deactivate without a lifecycle transition."""
        if self._running:
            self._running = False
            self.stop()

    def _release(self) -> None:
        self.halt()
        self.resources.close()
        self.inputs.clear()
        self._parameters_declared.configured = False

    def _fail(self, error: Exception) -> None:
        if isinstance(error, (ValueError, OSError)):
            self.failure = " ".join(str(error).split())
        else:  # a programming error: the traceback helps more than a sentence
            self.failure = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self.get_logger().fatal(self.failure)

    def _load_contract(self) -> Contract:
        path = self.value("contract")
        if not path:
            raise ContractError(
                "contract: no robot given; start with --ros-args -p contract:=/path/to/robot.yaml"
            )
        return load_contract(path, namespace=self.get_namespace())


def run(make_node: Callable[[], ManagedNode], args: list[str] | None = None) -> int:
    """Run one node until SIGINT, SIGTERM or SIGHUP and return the exit code of the process.

    The code is 0, or 1 when ``autostart`` failed or the node gave up. After SIGINT or SIGTERM the
    node may finish its work (:meth:`ManagedNode.finish`); a second signal ends it at once. Signals
    are not handled by rclpy, which would close the context before the node could send a last
    command.
    """
    requests: list[tuple[int, float]] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not spinning:
            raise SystemExit(0)
        if not requests or number != signal.SIGINT or time.monotonic() > requests[-1][1] + _AGAIN_S:
            requests.append((number, time.monotonic()))

    spinning = False
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:  # nohup
            signal.signal(number, on_signal)
    starter = os.getppid()
    end_with_starter()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        try:
            node = make_node()
        except (ValueError, ParameterException) as error:  # a wrong parameter at the start
            print(" ".join(str(error).split()), file=sys.stderr)
            return 1
        spinner = SingleThreadedExecutor()
        spinner.add_node(node)
        if node.value("autostart") and not _autostart(node, spinner):
            print(f"{node.get_name()}: {node.failure or 'could not be started'}", file=sys.stderr)
            return 1
        gc.collect()
        # Exclude imported objects from garbage collection: scanning them again would take
        # milliseconds during a motion.
        gc.freeze()
        spinning = True
        while not requests and not node.has_given_up:
            spinner.spin_once(timeout_sec=_SIGNAL_CHECK_S)
        # A closed terminal and a starter that has ended are no requests: nobody may be watching.
        requested = requests and requests[0][0] != signal.SIGHUP and os.getppid() == starter
        while requested and len(requests) == 1 and node.running and node.finish():
            spinner.spin_once(timeout_sec=_SIGNAL_CHECK_S)
        node.halt()
        until = time.monotonic() + _LAST_ANSWERS_S
        while time.monotonic() < until:
            spinner.spin_once(timeout_sec=_LAST_ANSWERS_S)
        spinner.shutdown()
        if node.has_given_up:
            print(f"{node.get_name()}: {node.failure}", file=sys.stderr)
        return int(node.has_given_up)
    finally:
        let_end()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def let_end() -> None:
    """Ignore SIGINT and SIGHUP from now on, and let SIGTERM end the process.

    The terminal and `ros2 launch` both send SIGINT; the second one must not interrupt the shutdown.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _autostart(node: ManagedNode, spinner: SingleThreadedExecutor) -> bool:
    success = TransitionCallbackReturn.SUCCESS
    if node.trigger_configure() != success:
        return False
    until = time.monotonic() + node.settle()
    while time.monotonic() < until:
        spinner.spin_once(timeout_sec=0.05)
    return node.trigger_activate() == success
