"""Which chunks the executor refuses, with which reason, while the current motion continues.

Times are simulated.
"""

import contextlib

import numpy as np
import pytest
from motion_cases import FORWARD, HOME, STAY, sim_arm, straight

from sf_policy_node.contract import ActionSpace
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.status import ExecutorState

# ---- refusals ----

REFUSALS = {
    "NaN": (
        {"data": np.where(np.arange(32).reshape(8, 4) == 9, np.nan, 0.0)},
        "step 2, column y is nan",
    ),
    "infinity": ({"data": np.full((8, 4), np.inf)}, "step 0, column x is inf"),
    "too few steps": ({"data": np.zeros((7, 4))}, "size is 7 x 4"),
    "too many columns": ({"data": np.zeros((8, 5))}, "size is 8 x 5"),
    "empty": ({"data": np.zeros((0, 4))}, "it is empty"),
    "names": ({"names": ("y", "x", "z", "gripper")}, "columns are y, x, z, gripper"),
    "action space": ({"space": ActionSpace.EE_POSE}, "action space is ee_pose"),
    "contract": ({"contract_hash": "0123"}, "made for contract 0123"),
    "frame": ({"frame": "world"}, "frame is 'world'"),
    "blending mode": ({"join": 7}, "blending mode is 7"),
    "step": ({"step_s": 0.05}, "0.05 s apart"),
    "reference names": ({"reference_names": ("joint1",)}, "reference names joint1"),
    "reference size": ({"reference": np.zeros(3)}, "reference has size 3"),
    "reference NaN": ({"reference": np.full(7, np.nan)}, "not finite"),
    "a reference that was not measured": ({"reference": np.zeros(7)}, "not where joint"),
    "future stamp": ({"stamp": 9.0}, "in the future"),
    "old stamp": ({"stamp": 1.3}, "budgets.chunk_age_s allows 0.5 s"),
    "stamp not finite": ({"stamp": float("nan")}, "stamp is not finite"),
    "same sequence": ({"sequence": 1}, "sequence 1 after 1"),
    "older epoch": ({"epoch": 4}, "earlier instruction"),
    "older observation": ({"stamp": 1.9, "reference": HOME}, "older than that of the chunk in use"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_chunk_is_refused_with_a_reason_and_the_motion_continues(bench, case):
    changes, reason = REFUSALS[case]
    bench.run(2.0)
    bench.send(bench.chunk(FORWARD, epoch=5, stamp=bench.now - 0.001))
    bench.run(0.1)
    path = bench.executor.path
    with pytest.raises(ChunkRefused, match=reason):
        bench.send(
            bench.chunk(FORWARD, epoch=5).__class__(
                **{**vars(bench.chunk(FORWARD, epoch=5)), **changes}
            )
        )
    status = bench.executor.status
    assert bench.executor.path is path
    assert status.chunks_refused == 1 and reason in status.reason
    assert status.state is ExecutorState.EXECUTING


def test_a_refused_chunk_does_not_raise_the_epoch(bench):
    with pytest.raises(ChunkRefused):
        bench.send(bench.chunk(np.full((8, 4), np.nan), epoch=2**62))
    bench.send(bench.chunk(FORWARD, epoch=1))


def test_a_new_epoch_may_restart_its_sequence_numbers(bench):
    bench.send(bench.chunk(FORWARD, sequence=3))
    bench.run(0.2)
    bench.send(bench.chunk(FORWARD, sequence=1, epoch=2))


def test_reordered_chunks_are_refused(bench):
    first, second = bench.chunk(FORWARD, sequence=1), bench.chunk(FORWARD, sequence=2)
    bench.send(second)
    with pytest.raises(ChunkRefused, match="comes late"):
        bench.send(first)


def test_a_chunk_whose_first_step_cannot_be_reached_is_refused_and_counted(bench):
    data = STAY.copy()
    data[:, :3] = [-0.2, 0.29, 0.2]
    with pytest.raises(ChunkRefused, match="steps from 0 on"):
        bench.send(bench.chunk(data))
    assert bench.executor.status.step_clips.max() == 8


def test_reachable_steps_are_executed_and_the_status_reports_the_others(bench):
    data = STAY.copy()
    data[4:, :3] = [-0.2, 0.29, 0.2]
    bench.send(bench.chunk(data))
    assert "steps from 4 on" in bench.executor.status.reason


def test_the_tool_never_leaves_the_workspace_box(bench):
    box = sim_arm().workspace
    for n in range(30):
        push = [(0.05, 0.0, 0.02), (0.0, 0.06, -0.05), (-0.05, -0.06, 0.0)][n // 10]
        with contextlib.suppress(ChunkRefused):  # some corners are out of reach
            bench.send(bench.chunk(straight(sim_arm(), push), age=0.1))
        for _ in range(15):
            bench.run(0.02)
            tool = bench.tool()
            assert (tool >= np.array(box.lower) - 2e-3).all() and (
                tool <= np.array(box.upper) + 2e-3
            ).all(), tool
    assert bench.executor.status.workspace_clips > 0
    assert not bench.violations()
