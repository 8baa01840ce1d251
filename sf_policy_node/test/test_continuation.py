"""Tests of continuing the last chunk: the same motion, relative to a new observation."""

from pathlib import Path

import numpy as np
import pinocchio
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from sf_policy_node.contract import Contract, load_contract, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.safety.leads import JOIN_S
from sf_policy_node.motion.types import Chunk
from sf_policy_node.session.continuation import ChunkHistory

CONTRACT = load_contract(Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml")
JOINT_NAMES = list(CONTRACT.arm_joints)
TOOL_NAMES = ["x", "y", "z", "rx", "ry", "rz"]
REST = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])
STEP, HORIZON = CONTRACT.action.step_s, CONTRACT.action.horizon
STAMP = 100.0


def contract(space: str, binary: bool = True) -> Contract:
    data = yaml.safe_load(CONTRACT.to_yaml())
    data["action"].update(
        space=space, names=[*(TOOL_NAMES if space.startswith("ee") else JOINT_NAMES), "gripper"]
    )
    data["action"].pop("tool_orientation", None)
    data["arms"]["arm"]["gripper"]["binary"] = binary
    return parse_contract(yaml.safe_dump(data), CONTRACT.urdf_xml)


CONTRACTS = {
    space: contract(space) for space in ("joint_position", "joint_delta", "ee_delta", "ee_pose")
}
KINEMATICS = Kinematics(CONTRACT)


def rows(space: str, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random chunk with a gripper that closes at some step."""
    columns = 6
    start = {"joint_position": REST[:6], "ee_pose": np.array([0.3, 0.0, 0.2, 1.0, -0.5, 0.3])}.get(
        space, np.zeros(columns)
    )
    data = start + np.cumsum(rng.normal(0.0, 0.02, (HORIZON, columns)), axis=0)
    return np.column_stack(
        [data, (np.arange(HORIZON) < rng.integers(0, HORIZON + 1)).astype(float)]
    )


def sent(
    chosen: Contract, data: np.ndarray, reference: np.ndarray = REST, stamp: float = STAMP
) -> Chunk:
    about = {"policy_id": "test", "instruction": "go", "epoch": 1, "sequence": 0}
    return Chunk.of(chosen, data, stamp=stamp, reference=reference, **about)


def in_space(space: str, row: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the target of a step: joints (6,), or tool position and rotation matrix (12,)."""
    if space == "joint_position":
        return row[:6]
    if space == "joint_delta":
        return reference[:6] + row[:6]
    position, turn = row[:3], pinocchio.exp3(row[3:6])
    if space == "ee_delta":
        start = KINEMATICS.forward(reference[:6])
        position, turn = start.position + position, turn @ start.rotation
    return np.concatenate([position, turn.ravel()])


@pytest.mark.parametrize("space", CONTRACTS)
@budget(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(0, HORIZON + 2), latency=st.floats(0.0, 2.0))
def test_steps_on_the_grid_have_the_targets_of_the_last_chunk(space, seed, steps, latency):
    rng = np.random.default_rng(seed)
    data, joints = rows(space, rng), REST + rng.normal(0.0, 0.1, 7)
    history = ChunkHistory(CONTRACTS[space])
    history.note(sent(CONTRACTS[space], data), latency)
    ahead = history.continuation(STAMP + steps * STEP, joints)
    if steps >= HORIZON:
        assert ahead is None
        return
    assert ahead.rows.shape == (HORIZON - steps, 7)
    for now, before in zip(ahead.rows, data[steps:], strict=True):
        np.testing.assert_allclose(
            in_space(space, now, joints), in_space(space, before, REST), atol=1e-7
        )
        assert now[6] == before[6]
    assert 0 <= ahead.delay_rows <= len(ahead.rows)
    assert ahead.delay_rows == len(ahead.rows) or ahead.delay_rows * STEP >= latency + JOIN_S - 1e-6


@pytest.mark.parametrize("space", CONTRACTS)
@budget(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), after=st.floats(0.0, HORIZON * STEP))
def test_steps_off_the_grid_are_interpolated(space, seed, after):
    rng = np.random.default_rng(seed)
    data, joints = rows(space, rng), REST + rng.normal(0.0, 0.1, 7)
    history = ChunkHistory(CONTRACTS[space])
    history.note(sent(CONTRACTS[space], data), 0.05)
    ahead = history.continuation(STAMP + after, joints)
    if ahead is None:
        assert after > (HORIZON - 1) * STEP - 1e-6
        return
    assert (
        STAMP + after + len(ahead.rows) * STEP <= STAMP + HORIZON * STEP + 1e-6
    )  # never past the last chunk's end
    assert (
        STAMP + after + (len(ahead.rows) + 1) * STEP > STAMP + HORIZON * STEP - 1e-6
    )  # and no step is missing
    for i, now in enumerate(ahead.rows):
        point = i + after / STEP
        one = in_space(space, data[min(int(point), HORIZON - 1)], REST)
        other = in_space(space, data[min(int(point) + 1, HORIZON - 1)], REST)
        here, apart = in_space(space, now, joints), np.linalg.norm(other - one)
        assert np.linalg.norm(here - one) <= apart + 1e-6
        assert np.linalg.norm(here - other) <= apart + 1e-6
        assert now[6] in (0.0, 1.0)


def test_a_continuous_gripper_is_interpolated_and_a_binary_one_switches_early():
    data = np.zeros((HORIZON, 7))
    data[3:, 6] = 1.0
    for binary, expected in ((True, [0.0, 1.0, 1.0]), (False, [0.0, 0.25, 1.0])):
        chosen = contract("joint_delta", binary)
        history = ChunkHistory(chosen)
        history.note(sent(chosen, data), 0.0)
        np.testing.assert_allclose(
            history.continuation(STAMP + 1.25 * STEP, REST).rows[:3, 6], expected, atol=1e-9
        )


def test_the_delay_is_the_worst_of_ten_latencies_plus_the_executors_lead():
    chosen = CONTRACTS["joint_delta"]
    history = ChunkHistory(chosen)
    chunk = sent(chosen, np.zeros((HORIZON, 7)))
    history.note(chunk, 2.4 * STEP - JOIN_S)
    for _ in range(9):
        history.note(chunk, 0.0)
    assert history.continuation(STAMP + STEP, REST).delay_rows == 3
    history.note(chunk, 2 * STEP - JOIN_S)
    assert (
        history.continuation(STAMP + STEP, REST).delay_rows == 2
    )  # exactly two steps of time are two chunk steps


def test_no_steps_remain_before_the_first_chunk_and_after_a_backward_clock_jump():
    chosen = CONTRACTS["joint_delta"]
    history = ChunkHistory(chosen)
    assert history.continuation(STAMP, REST) is None
    history.note(sent(chosen, np.zeros((HORIZON, 7))), 0.0)
    assert history.continuation(STAMP - 0.01, REST) is None


def test_a_contract_with_a_fixed_tool_orientation_has_only_positions():
    data = np.column_stack(
        [np.linspace(0.01, 0.08, HORIZON)[:, None] * [1.0, 0.0, -1.0], np.ones(HORIZON)]
    )
    history = ChunkHistory(CONTRACT)
    history.note(sent(CONTRACT, data), 0.05)
    joints = REST + [0.05, 0.0, 0.02, 0.0, 0.0, 0.0, 0.0]
    moved = KINEMATICS.forward(joints[:6]).position - KINEMATICS.forward(REST[:6]).position
    ahead = history.continuation(STAMP + 3 * STEP, joints)
    np.testing.assert_allclose(ahead.rows[:, :3], data[3:, :3] - moved, atol=1e-9)
    assert ahead.delay_rows == 2
