"""The doctor beside the graph of another namespace: its nodes, its clock and its controllers are
not those of the examined robot.
"""

import json
import threading
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from sf_bringup.doctor import command
from sf_bringup.doctor.findings import Level
from sf_bringup.doctor.listen import name_in, nodes_in
from sf_bringup.doctor.machine_checks import check_machine
from sf_bringup.doctor.output_checks import check_commands, check_nodes
from sf_bringup.doctor.seen import Seen, Stream
from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract

CONTRACT = load_contract(find_robot("sim_arm"))
FOUND = [
    ("chunk_executor", "/left"),
    ("chunk_executor", "/right"),
    ("camera", "/left/scene"),
    ("camera", "/lefthand"),
    ("doctor", "/left"),
    ("doctor", "/right"),
    ("_ros2cli_12", "/left"),
    ("chunk_executor", "/"),
]


def test_only_nodes_of_the_namespace_and_below_are_counted():
    assert nodes_in("/left", FOUND, "doctor") == ["/left/chunk_executor", "/left/scene/camera"]
    everywhere = nodes_in("/", FOUND, "doctor")
    assert len(everywhere) == 7 and "/chunk_executor" in everywhere


@pytest.mark.parametrize(
    ("found", "level", "text"),
    [
        (FOUND, Level.PASS, "none twice"),
        ([*FOUND, ("chunk_executor", "/left")], Level.FAIL, "running twice: /left/chunk_executor"),
    ],
)
def test_the_same_node_in_two_namespaces_does_not_run_twice(found, level, text):
    for namespace in ("/left", "/"):
        seen = Seen(namespace, nodes=nodes_in(namespace, found, "doctor"))
        [nodes] = [each for each in check_nodes(CONTRACT, seen) if each.subject == "nodes"]
        assert nodes.level is level and text in nodes.seen


@pytest.mark.parametrize(
    ("namespace", "topic", "managers", "expected"),
    [
        ("/left", "jtc/commands", "/left /right", "/left"),
        ("/right", "jtc/commands", "/left /right", "/right"),
        ("/right", "jtc/commands", "/left", None),
        ("/left", "jtc/commands", "/lefthand", None),
        ("/cell/left", "jtc/commands", "/cell /other", "/cell"),
        ("/left", "jtc/commands", "/other ", ""),  # of the root namespace
        ("/", "jtc/commands", "/left /right", None),
        ("/", "/right/jtc/commands", "/left /right ", "/right"),
        ("/left", "arm/jtc/commands", "/left /left/arm", "/left/arm"),
    ],
)
def test_controllers_of_another_namespace_are_not_compared(namespace, topic, managers, expected):
    services = {f"{each}/controller_manager/list_controllers" for each in managers.split(" ")}
    services |= {"/left/jtc/list_parameters", "/list_controllers"}
    service = Seen(namespace, services=services).controller_manager([topic])
    found = service and service.removesuffix("/controller_manager/list_controllers")
    assert found == expected


@pytest.mark.parametrize("namespace", ["/left", "/right", "/"])
def test_the_executor_of_another_namespace_commands_the_same_arm(namespace):
    absolute = CONTRACT.command.model_copy(update={"topic": "/jtc/joint_trajectory"})
    contract = CONTRACT.model_copy(update={"command": absolute})
    endpoint = SimpleNamespace(node_name="chunk_executor", node_namespace="/left")
    kind = {"trajectory_msgs/msg/JointTrajectory"}
    stream = Stream(kind, [name_in(namespace, endpoint)], ["controller"])
    seen = Seen(namespace, streams={"/jtc/joint_trajectory": stream})
    [other] = [each for each in check_commands(contract, seen) if each.subject == "other commands"]
    assert other.level is (Level.PASS if namespace == "/left" else Level.FAIL)
    assert ("/left/chunk_executor publishes" in other.seen) is (namespace != "/left")


def test_the_clock_is_named_with_its_namespace():
    seen = Seen("/left", has_clock=True, free_disk_gb=100.0)
    [clock] = [each for each in check_machine(CONTRACT, seen) if each.subject == "clock"]
    assert "(/left/clock)" in clock.seen and "/left/clock;" in clock.cure


@pytest.fixture
def two_drivers(ros_domain):
    """Publish clock and joint states in /left (time 100 s) and in /right (time 5000 s)."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    executor, nodes = SingleThreadedExecutor(context=context), []

    def drive(namespace: str, seconds: float) -> None:
        node = rclpy.create_node("driver", namespace=namespace, context=context)
        clock = node.create_publisher(Clock, "clock", 10)
        joints = node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        names = CONTRACT.command_joints
        count = iter(range(10**9))

        def publish() -> None:
            now = seconds + 0.01 * next(count)
            time = Clock()
            time.clock.sec, time.clock.nanosec = int(now), int(now % 1.0 * 1e9)
            clock.publish(time)
            message = JointState(name=list(names), position=[0.1] * len(names))
            message.header.stamp = time.clock
            joints.publish(message)

        node.create_timer(0.01, publish)
        executor.add_node(node)
        nodes.append(node)

    drive("left", 100.0)
    drive("right", 5000.0)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield
    executor.shutdown()
    thread.join()
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.ros
@pytest.mark.parametrize("namespace", ["left", "right"])
def test_stamps_are_compared_with_the_clock_of_the_namespace(namespace, two_drivers, capsys):
    command.main(["robot:=sim_arm", f"namespace:={namespace}", "seconds:=0.5", "json:=-"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    rows = [(each["subject"], each["level"], each["seen"]) for each in findings]
    # Another clock would be decades away.
    assert [row for row in rows if row[0] == "joint states" and "old on arrival" in row[2]], rows
    assert not [row for row in rows if row[0] == "joint states" and row[1] != "PASS"], rows
    assert ("clock", "PASS", f"simulated (/{namespace}/clock), as the robot is") in rows
    assert ("nodes", "PASS", "1, none twice") in rows
