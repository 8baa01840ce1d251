"""With random chunks that are delayed, lost and reordered, every command keeps the limits."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from motion_cases import HOME, Bench, contract_for, kinematics, sim_arm

from sf_policy_node.contract import ActionSpace
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.types import Join

CONTRACTS = [
    sim_arm(),
    contract_for(ActionSpace.EE_DELTA, rate_hz=125.0),
    contract_for(ActionSpace.JOINT_DELTA),
    contract_for(ActionSpace.JOINT_POSITION, rate_hz=100.0),
]


def random_rows(contract, rng, size):
    rows, columns = contract.action.horizon, len(contract.action.names)
    step = size * (0.02 if contract.action.space.is_tool else 0.1)
    data = np.cumsum(rng.normal(0.0, step, (rows, columns)), axis=0)
    if contract.action.space is ActionSpace.JOINT_POSITION:
        data += HOME
    data[:, -1] = rng.uniform(-0.2, 1.2, rows)
    return data


def outside_box(bench):
    """Return the largest distance of the tool outside the box, checked every 5 ms [m]."""
    box = Workspace(bench.contract, kinematics())
    return max(box.outside(position) for _, position in bench.measured)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    contract=st.sampled_from(CONTRACTS),
    seed=st.integers(0, 2**31),
    size=st.sampled_from([0.3, 1.0, 4.0]),
    lost=st.floats(0.0, 0.5),
    delay=st.floats(0.0, 0.5),
    join=st.sampled_from(list(Join)),
    stop=st.sampled_from(
        ["none", "emergency stop", "joint states", "pause", "policy ended", "clock step"]
    ),
)
@pytest.mark.slow
def test_no_sequence_of_chunks_breaks_a_limit(contract, seed, size, lost, delay, join, stop):
    rng = np.random.default_rng(seed)
    bench = Bench(contract, start=rng.choice([0.0, 1.7e9]), join=join)
    waiting = []  # (arrival, chunk)
    for _ in range(12):
        if rng.random() >= lost:
            chunk = bench.chunk(random_rows(contract, rng, size))
            waiting.append((bench.now + delay * rng.random(), chunk))
        for _ in range(rng.integers(1, 8)):
            bench.run(0.05)
            for item in [item for item in waiting if item[0] <= bench.now]:
                waiting.remove(item)
                try:
                    bench.send(item[1], transit=rng.uniform(0.0, 0.02))
                except ChunkRefused:
                    continue
    if stop == "emergency stop":
        bench.post(bench.executor.emergency_stop(bench.now), 0.005)
    elif stop == "pause":
        bench.post(bench.executor.pause(True, bench.now), 0.005)
    elif stop == "policy ended":
        bench.post(bench.executor.on_policy_state(False, 1, "stopped", bench.now), 0.005)
    elif stop == "clock step":
        bench.set_by = rng.choice([-30.0, -0.2, 0.4, 30.0])
    bench.joint_states = stop != "joint states"
    bench.run(2.5)
    assert not bench.violations()
    assert (bench.observer.state(bench.now)[1] == 0.0).all()
    assert outside_box(bench) < 5e-3
