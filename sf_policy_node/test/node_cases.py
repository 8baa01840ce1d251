"""A graph of nodes in this process, over DDS; tests wait on conditions instead of sleeping.

The nodes use the test's clock. It follows the wall clock, but stops while this process gets no
processor time. So nothing is late, too old or lost because the machine is busy.
"""

import time
from array import array
from types import SimpleNamespace

import numpy as np
import rclpy
from motion_cases import CONTRACT_PATH, HOME, sim_arm
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from sf_policy_node.nodes.conversions import to_stamp
from sf_policy_node.ros_testing import PATIENCE_S

CONTRACT_PARAMETER = Parameter("contract", value=str(CONTRACT_PATH))
TURN_S = 0.02  # s, longest time that the clock advances between two turns of the test's loop


class Graph:
    """Nodes and a peer node for the test; closed at the end of the test.

    Args:
        clock: the nodes' clock is that of :meth:`now`. False: the machine's, for nodes that are
            processes.
    """

    def __init__(self, *, clock: bool = True) -> None:
        self._turned = (time.monotonic(), time.time()) if clock else None
        rclpy.init()
        self._executor = SingleThreadedExecutor()
        self.peer = rclpy.create_node("test_peer")
        self._nodes = [self.peer]
        self._executor.add_node(self.peer)
        self.received: dict[str, list] = {}

    def add(self, node, *, activate: bool = True):
        if self._turned is not None:
            node.now = self.now
        self._nodes.append(node)
        self._executor.add_node(node)
        if activate:
            assert node.trigger_configure().name == "SUCCESS", node.failure
            assert node.trigger_activate().name == "SUCCESS", node.failure
        return node

    def now(self) -> float:
        """Return the nodes' time [s]."""
        if self._turned is None:
            return time.time()
        wall, now = self._turned
        return now + min(time.monotonic() - wall, TURN_S)

    def stopwatch(self) -> SimpleNamespace:
        """Return a replacement of a node's module ``time`` whose steady clock is :meth:`now`."""
        return SimpleNamespace(monotonic=self.now, perf_counter=time.perf_counter)

    def listen(self, kind, topic: str, qos=10) -> list:
        received = self.received[topic] = []
        self.peer.create_subscription(kind, topic, received.append, qos)
        return received

    def publisher(self, kind, topic: str, qos=10):
        """Create a publisher and wait for a subscription."""
        publisher = self.peer.create_publisher(kind, topic, qos)
        self.until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}")
        return publisher

    def until(self, condition, what: str, timeout_s: float = PATIENCE_S, each=lambda: None):
        """Spin until a condition is true; ``each`` runs between callbacks, every 10 ms or
        sooner.
        """
        end = time.monotonic() + timeout_s
        while not (result := condition()):
            assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
            if self._turned is not None:
                self._turned = (time.monotonic(), self.now())
            each()
            self._executor.spin_once(timeout_sec=0.5 * TURN_S)
        return result

    def close(self) -> None:
        for node in self._nodes[1:]:
            node.halt()
        for _ in range(3):  # lets goals that ended with their node reply
            self._executor.spin_once(timeout_sec=0.01)
        for node in self._nodes:
            node.destroy_node()
        self._executor.shutdown()
        rclpy.try_shutdown()


class FakeArm:
    """Publish joint states and images of a stationary arm; call it between callbacks."""

    def __init__(self, graph: Graph, *, images: bool = True) -> None:
        self._graph = graph
        contract = sim_arm()
        self.joints, self.encoding = HOME.copy(), "rgb8"
        self.joint_states = graph.publisher(
            JointState, contract.topics.joint_states, qos_profile_sensor_data
        )
        cameras = contract.cameras if images else []
        self._images = {
            camera.name: graph.publisher(Image, camera.topic, qos_profile_sensor_data)
            for camera in cameras
        }
        self._bytes = array("B", bytes(320 * 240 * 3))
        self._next = 0.0
        self.stamps: set[int] = set()
        self.silent: set[str] = set()

    def __call__(self) -> None:
        now = self._graph.now()
        if now < self._next:
            return
        self._next = now + 0.02
        stamp = to_stamp(now)
        names = sim_arm().command_joints
        self.joint_states.publish(
            JointState(
                header=Header(stamp=stamp),
                name=names,
                position=self.joints.tolist(),
                velocity=[0.0] * len(names),
            )
        )
        for name, publisher in self._images.items():
            if name not in self.silent:
                image = Image(
                    header=Header(stamp=stamp),
                    height=240,
                    width=320,
                    encoding=self.encoding,
                    step=960,
                )
                image.data = self._bytes
                publisher.publish(image)
        self.stamps.add(stamp.sec * 10**9 + stamp.nanosec)


class ScriptedPolicy:
    """A policy that moves the tool steadily along x.

    ``delay_s`` makes it slow [s]. ``result`` replaces its chunk; an exception is raised.
    """

    policy_id, device = "scripted", "cpu"

    def __init__(self) -> None:
        self.calls, self.warm_ups, self.delay_s, self.result = [], 0, 0.0, None
        self.clock = time.monotonic  # of ``delay_s``

    def warm_up(self) -> None:
        self.warm_ups += 1

    def predict(self, images, joint_positions, instruction):
        self.calls.append((images, np.array(joint_positions), instruction))
        end = self.clock() + self.delay_s
        while self.clock() < end:
            time.sleep(0.002)
        if isinstance(self.result, Exception):
            raise self.result
        if self.result is not None:
            return self.result
        contract = sim_arm()
        data = np.zeros((contract.action.horizon, len(contract.action.names)))
        data[:, 0] = 0.005 * np.arange(1, len(data) + 1)
        data[:, -1] = 1.0
        return data
