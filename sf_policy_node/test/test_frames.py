"""Tests of chunks in frames fixed to the robot, by its URDF or /tf_static."""

import dataclasses

import numpy as np
import pinocchio
import pytest
from executor_cases import Executor
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, FORWARD, Bench, contract_for, make_chunk, sim_arm, straight
from rclpy.qos import DurabilityPolicy, QoSProfile

from sf_policy_node.contract import ActionSpace, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.chunks.frames import FixedFrames
from sf_policy_node.motion.refusals import ChunkRefused

BASE = sim_arm().base_frame
QUARTER = np.array([0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])  # about z, counterclockwise
NO_TURN = np.array([0.0, 0.0, 0.0, 1.0])
vectors = st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3).map(np.array)


def frames(contract=None) -> FixedFrames:
    contract = contract or sim_arm()
    return FixedFrames(contract, Kinematics(contract))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    return pinocchio.Quaternion(rotation).coeffs()


@settings(deadline=None, max_examples=50)
@given(position=vectors, turn=vectors, tool=vectors, tool_turn=vectors)
def test_a_pose_in_the_table_frame_is_converted_to_the_base_frame(position, turn, tool, tool_turn):
    contract = contract_for(ActionSpace.EE_POSE, rotation=True)
    known, table = frames(contract), pinocchio.SE3(pinocchio.exp3(turn), position)
    known.set("table", BASE, position, quaternion(table.rotation))
    wanted = pinocchio.SE3(pinocchio.exp3(tool_turn), tool)
    there = table.inverse() * wanted
    row = np.concatenate([there.translation, pinocchio.log3(there.rotation), [1.0]])
    given_there = make_chunk(contract, np.tile(row, (contract.action.horizon, 1)), frame="table")
    here = known.in_base(given_there)
    assert here.frame == BASE and here.data.shape == given_there.data.shape
    assert here.data[0, :3] == pytest.approx(tool, abs=1e-9) and here.data[0, 6] == 1.0
    assert pinocchio.exp3(here.data[0, 3:6]) == pytest.approx(wanted.rotation, abs=1e-7)


def test_a_displacement_is_rotated_but_not_translated():
    contract = contract_for(ActionSpace.EE_DELTA, rotation=True)
    known = frames(contract)
    known.set("table", BASE, np.array([1.0, 2.0, 3.0]), QUARTER)
    row = [0.1, 0.0, 0.02, 0.3, 0.0, 0.0, 0.0]
    here = known.in_base(
        make_chunk(contract, np.tile(row, (contract.action.horizon, 1)), frame="table")
    )
    assert here.data[0] == pytest.approx([0.0, 0.1, 0.02, 0.0, 0.3, 0.0, 0.0])


def test_frames_are_found_through_common_ancestors_and_below_links():
    known = frames()
    known.set(BASE, "world", np.array([1.0, 0.0, 0.5]), QUARTER)
    known.set("table", "world", np.array([1.0, 2.0, 0.0]), QUARTER)
    known.set("board", "table", np.array([0.1, 0.0, 0.0]), NO_TURN)
    known.set("riser", BASE, np.array([0.0, 0.0, -0.1]), NO_TURN)
    assert known.pose("table").translation == pytest.approx([2.0, 0.0, -0.5])
    assert known.pose("table").rotation == pytest.approx(np.eye(3))
    assert known.pose("board").translation == pytest.approx([2.1, 0.0, -0.5])
    assert known.pose("world").translation == pytest.approx([0.0, 1.0, -0.5])
    assert known.pose("riser").translation == pytest.approx([0.0, 0.0, -0.1])
    assert known.pose(BASE).translation == pytest.approx(0.0)
    assert (
        known.pose("moon") is None and known.pose(sim_arm().tool_frame) is None
    )  # joints move the tool


def test_frames_in_a_cycle_are_unknown():
    known = frames()
    known.set("egg", "hen", np.zeros(3), NO_TURN)
    known.set("hen", "egg", np.zeros(3), NO_TURN)
    assert known.pose("egg") is None


@pytest.mark.parametrize("turn", [np.zeros(4), np.full(4, np.nan), 2.0 * NO_TURN])
def test_invalid_rotations_are_ignored(turn):
    known = frames()
    with pytest.raises(ValueError, match="the transform from base_link to table is invalid"):
        known.set("table", BASE, np.zeros(3), turn)
    assert known.pose("table") is None


def test_the_executor_follows_a_chunk_of_a_known_frame_and_no_other():
    turned, straight_on = Bench(sim_arm()), Bench(sim_arm())
    chunk = dataclasses.replace(turned.chunk(FORWARD), frame="table")
    with pytest.raises(
        ChunkRefused,
        match="neither the contract's base_frame 'base_link' nor known to be fixed to it",
    ):
        turned.send(chunk)
    turned.executor.frames.set(
        "table", BASE, np.array([0.3, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.0])
    )
    backwards = FORWARD.copy()
    backwards[:, :2] *= -1.0
    turned.send(dataclasses.replace(turned.chunk(backwards), frame="table"))
    straight_on.send(straight_on.chunk(FORWARD))
    turned.run(1.0)
    straight_on.run(1.0)
    assert turned.tool() == pytest.approx(straight_on.tool(), abs=1e-4) and not turned.violations()
    assert np.linalg.norm(turned.tool() - Bench(sim_arm()).tool()) > 0.01


def test_an_empty_chunk_of_poses_is_refused():
    contract = contract_for(ActionSpace.EE_POSE, rotation=True)
    known = frames(contract)
    known.set("table", BASE, np.zeros(3), NO_TURN)
    chunk = make_chunk(contract, np.zeros((0, 7)), frame="table")
    assert known.in_base(chunk) is chunk


@pytest.mark.parametrize(
    "change",
    [
        {"data": np.zeros((3, 2))},
        {"data": np.full((8, 4), np.nan)},
        {"names": ("a",)},
        {"space": "number 77"},
    ],
)
def test_a_malformed_chunk_is_unchanged(change):
    known = frames()
    known.set("table", BASE, np.zeros(3), NO_TURN)
    chunk = make_chunk(sim_arm(), straight(sim_arm()), frame="table")
    chunk = dataclasses.replace(chunk, **change)
    assert known.in_base(chunk) is chunk


def test_joint_chunks_are_not_transformed():
    contract = contract_for(ActionSpace.JOINT_DELTA)
    known = frames(contract)
    known.set("table", BASE, np.zeros(3), NO_TURN)
    chunk = make_chunk(
        contract, np.zeros((contract.action.horizon, len(contract.action.names))), frame="table"
    )
    assert known.in_base(chunk) is chunk


@pytest.mark.ros
def test_the_node_receives_earlier_tf_static(graph):
    tf2 = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not on PyPI; it comes with ROS 2")
    from geometry_msgs.msg import Quaternion, TransformStamped

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = graph.peer.create_publisher(tf2.TFMessage, "/tf_static", latched)
    transform = TransformStamped(child_frame_id="table")
    transform.header.frame_id = BASE
    transform.transform.rotation = Quaternion(z=1.0, w=0.0)
    broken = TransformStamped(child_frame_id="nowhere")
    broken.header.frame_id, broken.transform.rotation = BASE, Quaternion(w=0.0)
    publisher.publish(tf2.TFMessage(transforms=[broken, transform]))
    executor = Executor(graph)

    def followed() -> bool:
        executor.send(frame="table")
        return executor.commands

    executor.until(followed, "a motion from a chunk in the frame of the table")
    executor.send(frame="nowhere")
    executor.until(
        lambda: any("'nowhere', which is neither" in status.reason for status in executor.statuses),
        "the refusal",
    )


def test_links_of_the_urdf_are_known_without_tf():
    urdf = sim_arm().urdf_xml.replace(
        "</robot>",
        '<link name="bench"/><joint name="bench_joint" type="fixed"><parent'
        ' link="base_link"/><child link="bench"/><origin xyz="0.5 0 -0.1" rpy="0 0'
        ' 0"/></joint></robot>',
    )
    known = frames(parse_contract(CONTRACT_PATH.read_text(), urdf))
    assert known.pose("bench").translation == pytest.approx([0.5, 0.0, -0.1])


def test_a_link_behind_an_unnamed_joint_is_not_fixed():
    urdf = sim_arm().urdf_xml.replace(
        "</robot>",
        '<link name="head"/><joint name="neck" type="revolute"><parent link="base_link"/><child'
        ' link="head"/><axis xyz="0 0 1"/><limit lower="-1" upper="1" effort="1"'
        ' velocity="1"/></joint></robot>',
    )
    known = frames(parse_contract(CONTRACT_PATH.read_text(), urdf))
    assert known.pose("head") is None
    known.set("camera", "head", np.zeros(3), NO_TURN)
    assert known.pose("camera") is None
