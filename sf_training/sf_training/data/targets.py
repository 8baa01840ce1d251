"""What a policy should have answered at an observation: the expert's chunks, or what the operator
commanded next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pinocchio

from sf_policy_node.contract import ActionSpace, ColumnKind, Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, kinematics_of
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.types import Chunk
from sf_training.data.synchronisation import SAME_STAMP_NS, JointStream, nearest

IDLE_SHARE = (
    0.002  # of a joint's range: commands that stay within it over a whole label are no motion
)


@dataclass(frozen=True)
class Pairs:
    """P labels: ``frame`` (P,) index of the observation, ``instructions`` P texts, ``targets`` (P,
    H, A) float32.

    ``idle`` (P,) float32: for how long [s] the operator had commanded no motion by then, and went
    on so over the whole label; else 0.
    """

    frame: np.ndarray
    instructions: list[str]
    targets: np.ndarray
    idle: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Pairs], frames: Sequence[int]) -> Pairs:
        """One after the other; ``frames`` are the numbers of observations that the parts belong
        to.
        """
        offsets = np.cumsum([0, *frames[:-1]])
        return cls(
            np.concatenate(
                [part.frame + offset for part, offset in zip(parts, offsets, strict=True)]
            ).astype(np.int32),
            [text for part in parts for text in part.instructions],
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.idle for part in parts]),
        )


def expert_pairs(
    contract: Contract, stamps: np.ndarray, chunks: Sequence[Chunk], chunk_stamps: np.ndarray
) -> Pairs:
    """One pair for every chunk that has the time of an observation; several per observation are
    contrastive labels.

    Args:
        stamps: observation times (N,) [ns].
        chunk_stamps: times of the chunks (C,) [ns].

    Raises:
        ValueError: when a chunk is in another action space, or has fewer rows or others than the
            contract says. More rows are cut.
    """
    action = contract.action
    frame = nearest(stamps, chunk_stamps) if len(stamps) else np.empty(0, int)
    same = (
        np.abs(stamps[frame] - chunk_stamps) <= SAME_STAMP_NS if len(stamps) else np.empty(0, bool)
    )
    kept = np.flatnonzero(same)
    for index in kept:
        chunk = chunks[index]
        fits = len(chunk.data) >= action.horizon and abs(chunk.step_s - action.step_s) < 1e-6
        if chunk.space != action.space or list(chunk.names) != action.names or not fits:
            raise ValueError(
                f"expert chunk is {chunk.space} {'x'.join(map(str, chunk.data.shape))} of"
                f" {chunk.step_s:g} s ({', '.join(chunk.names)}), the contract says {action.space}"
                f" {action.horizon}x{len(action.names)} of {action.step_s:g} s"
                f" ({', '.join(action.names)}); make the demonstrations again with this contract"
            )
        if not np.isfinite(chunk.data).all():
            at = (int(chunk_stamps[index]) - int(stamps[0])) * 1e-9
            raise ValueError(
                f"expert chunk at {at:.2f} s holds a value that is not finite; leave the"
                " episode out"
            )
    targets = np.array(
        [chunks[index].data[: action.horizon] for index in kept], np.float32
    ).reshape(-1, action.horizon, len(action.names))
    idle = np.zeros(len(kept), np.float32)  # an expert's answer is one on purpose
    return Pairs(
        frame[kept].astype(np.int32), [chunks[index].instruction for index in kept], targets, idle
    )


def operator_pairs(
    contract: Contract,
    stamps: np.ndarray,
    measured: np.ndarray,
    commands: JointStream,
    instructions: Sequence[str],
    until: np.ndarray | None = None,
) -> Pairs:
    """One pair per observation, from the joint positions that the operator commanded after it.

    Row k is the command in force at ``stamp + (k + 1) * step_s`` (the newest at or before it), in
    the contract's action space and relative to the joints measured at the observation. After the
    last command that one holds. Observations before the first command or after the last have no
    pair.

    Args:
        stamps: observation times (N,) [ns].
        measured: joint positions (N, J) at these times, in the order of
            ``contract.command_joints``.
        commands: of the same joints.
        instructions: N, in force at these times.
        until: (N,) [ns], no row of a label may lie behind; None where none is too late.
    """
    action = contract.action
    steps = np.arange(1, action.horizon + 1) * round(action.step_s * 1e9)
    usable = is_commanded(contract, stamps, commands)
    if until is not None:
        usable &= stamps + steps[-1] <= until
    labelled = np.flatnonzero(usable)
    commanded = commands.held((stamps[labelled, None] + steps).ravel()).reshape(
        len(labelled), action.horizon, len(contract.command_joints)
    )
    kinematics = kinematics_of(contract) if action.space.is_tool else None
    targets = np.array(
        [
            in_action_space(contract, kinematics, *rows)
            for rows in zip(commanded, measured[labelled], strict=True)
        ],
        np.float32,
    )
    targets = targets.reshape(-1, action.horizon, len(action.names))
    idle = _idle(
        contract,
        stamps[labelled],
        np.concatenate([commands.held(stamps[labelled])[:, None], commanded], axis=1),
    )
    return Pairs(
        labelled.astype(np.int32), [instructions[row] for row in labelled.tolist()], targets, idle
    )


def is_commanded(contract: Contract, stamps: np.ndarray, commands: JointStream) -> np.ndarray:
    """Return at which observations (N,) [ns] a command follows, so that there is a label."""
    first_step = round(contract.action.step_s * 1e9)
    return (stamps + first_step >= commands.first) & (stamps < commands.last)


def no_labels(labelled: np.ndarray) -> list[str]:
    """Return a sentence where no observation (N,) has a label."""
    if labelled.any():
        return []
    return [
        "no observation has a label: commands, or the expert's answers, are at other times than the"
        " images; `sf_training view` shows when each came"
    ]


def _idle(contract: Contract, stamps: np.ndarray, commanded: np.ndarray) -> np.ndarray:
    """See :class:`Pairs`; of commands (P, 1 + H, J) from the observation on, of which NaN is not
    known yet.
    """
    limits = JointLimits.of(contract)
    known = np.where(np.isfinite(commanded), commanded, commanded[:, -1:])
    still = (np.ptp(known, axis=1) <= IDLE_SHARE * (limits.upper - limits.lower)).all(axis=1)
    idle = np.zeros(len(stamps), np.float32)
    began = 0
    for row in range(len(stamps)):
        if not still[row]:
            began = row + 1
        else:
            idle[row] = (stamps[row] - stamps[began]) * 1e-9
    return idle


def in_action_space(
    contract: Contract,
    kinematics: Kinematics | Mapping[str, Kinematics] | None,
    commanded: np.ndarray,
    measured: np.ndarray,
) -> np.ndarray:
    """Commanded joints (H, J) as the columns of ``contract.action.names``, (H, A), seen from the
    joints measured (J,).

    Args:
        kinematics: of every arm by its name, needed where ``contract.action.space.is_tool``; of a
            robot with one arm also alone.
    """
    space, action = contract.action.space, contract.columns.action
    result = np.zeros((len(commanded), len(action)))
    for name, arm in contract.arms.items():
        commands = contract.columns.commands
        joints, fingers = (
            commands.indices(kind, arm=name) for kind in (ColumnKind.JOINT, ColumnKind.GRIPPER)
        )
        own = action.indices(arm=name, without=[ColumnKind.GRIPPER])
        if kinematics:
            of_arm = kinematics if isinstance(kinematics, Kinematics) else kinematics[name]
            poses = _tool_columns(of_arm, space, commanded[:, joints], measured[joints])
            result[:, own] = poses[:, : len(own)]
        else:
            origin = measured[joints] if space == ActionSpace.JOINT_DELTA else 0.0
            result[:, own] = commanded[:, joints] - origin
        if len(gripper := action.indices(ColumnKind.GRIPPER, arm=name)):
            openings = [arm.gripper.mean_opening(row) for row in commanded[:, fingers]]
            result[:, gripper[0]] = np.clip(openings, 0.0, 1.0)
    return result


def _tool_columns(
    kinematics: Kinematics, space: ActionSpace, commanded: np.ndarray, measured: np.ndarray
) -> np.ndarray:
    """(H, 6): displacement from the measured tool pose, or the pose itself; rotations as vectors
    in the base frame.
    """
    start = kinematics.forward(measured)
    poses = [kinematics.forward(row) for row in commanded]
    if space == ActionSpace.EE_DELTA:
        rows = [
            np.append(
                pose.position - start.position, pinocchio.log3(pose.rotation @ start.rotation.T)
            )
            for pose in poses
        ]
    else:
        rows = [np.append(pose.position, pinocchio.log3(pose.rotation)) for pose in poses]
    return np.array(rows)
