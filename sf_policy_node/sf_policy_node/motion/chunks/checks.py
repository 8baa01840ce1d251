"""Checks that an action chunk must pass before the executor uses it.

A chunk that fails one check is refused completely, with one sentence that says why.
"""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.refusals import ChunkRefused
from sf_policy_node.motion.safety.clock import FUTURE_S
from sf_policy_node.motion.types import Chunk, Join


def check_form(chunk: Chunk, contract: Contract, contract_hash: str) -> None:
    """Check that a chunk was made for this contract, is complete, and has finite values.

    Args:
        contract_hash: the hash of ``contract``, passed in because computing it takes a while.

    Raises:
        ChunkRefused: with the first problem found.
    """
    action = contract.action
    _require(
        chunk.contract_hash == contract_hash,
        f"it was made for contract {chunk.contract_hash or '(none)'} and this is {contract_hash};"
        " use a checkpoint of this contract",
    )
    _require(
        chunk.space == action.space,
        f"its action space is {chunk.space}, the contract says {action.space}; use a policy for"
        " this contract",
    )
    _require(
        chunk.frame == contract.base_frame,
        f"its frame is {chunk.frame!r}, which is neither the contract's base_frame"
        f" {contract.base_frame!r} nor known to be fixed to it; send chunks in base_frame, or"
        " publish the frame on /tf_static",
    )
    _require(
        tuple(chunk.names) == tuple(action.names),
        f"its columns are {', '.join(chunk.names) or 'none'}, the contract says"
        f" {', '.join(action.names)}; send these columns in this order",
    )
    _require(
        chunk.join in tuple(Join),
        f"its blending mode is {chunk.join}; send 0 (BLEND), 1 (ENSEMBLE) or 2 (RTC)",
    )
    data = np.asarray(chunk.data)
    expected = (action.horizon, len(action.names))
    _require(data.size > 0, f"it is empty; send {expected[0]} x {expected[1]} values")
    _require(
        data.shape == expected,
        f"its size is {_size(data)}, the contract says {expected[0]} x {expected[1]}; correct the"
        " policy, or action.horizon and action.names",
    )
    _require(
        abs(chunk.step_s - action.step_s) <= 1e-6,
        f"its steps are {chunk.step_s:g} s apart, the contract says {action.step_s:g} s; correct"
        " the policy, or action.step_s",
    )
    finite = np.isfinite(data)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ChunkRefused(
            f"step {row}, column {chunk.names[column]} is {data[row, column]}; correct the policy"
        )
    joints = tuple(contract.command_joints)
    _require(
        tuple(chunk.reference_names) == joints,
        f"its reference names {', '.join(chunk.reference_names) or 'none'} instead of"
        f" {', '.join(joints)}; send the reference of all joints in this order",
    )
    reference = np.asarray(chunk.reference)
    _require(
        reference.shape == (len(joints),),
        f"its reference has size {_size(reference)} for {len(joints)} joints; send one position for"
        " each joint",
    )
    _require(
        bool(np.isfinite(reference).all()),
        "its reference has a joint position that is not finite; send the measured positions",
    )


def check_age(chunk: Chunk, contract: Contract, now: float, future_s: float = FUTURE_S) -> None:
    """Check that a chunk's observation is neither too old nor from the future at ``now`` [s].

    Args:
        future_s: how far its stamp may be ahead of this computer's clock [s].

    Raises:
        ChunkRefused: with the age, or because the stamp is not finite.
    """
    _require(
        bool(np.isfinite(chunk.stamp)),
        "its stamp is not finite; stamp it with the time of its observation",
    )
    age = now - chunk.stamp
    budget = contract.budgets.chunk_age_s
    _require(
        age <= budget,
        f"its observation is {age:.3f} s old, budgets.chunk_age_s allows {budget:g} s; use a faster"
        " device or policy, or raise the budget",
    )
    _require(
        age >= -future_s,
        f"its observation is stamped {-age:.3f} s in the future; synchronise the clocks",
    )


def check_order(chunk: Chunk, last: Chunk | None) -> None:
    """Check that a chunk is newer than the one accepted before it; ``last`` is None for the first.

    Raises:
        ChunkRefused: the epoch is older, the sequence number within the epoch is not higher, or
            the observation is older.
    """
    if last is None:
        return
    _require(
        chunk.epoch >= last.epoch,
        f"it follows an earlier instruction (epoch {chunk.epoch}, in force is {last.epoch})",
    )
    if chunk.epoch == last.epoch:
        _require(
            chunk.sequence > last.sequence,
            f"it comes late: sequence {chunk.sequence} after {last.sequence}; let only one policy"
            " node send chunks",
        )
    _require(
        chunk.stamp >= last.stamp,
        f"its observation is {last.stamp - chunk.stamp:.3f} s older than that of the chunk in use;"
        " let only one policy node send chunks",
    )


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ChunkRefused(sentence)


def _size(array: np.ndarray) -> str:
    return " x ".join(str(length) for length in array.shape) or "a single number"
