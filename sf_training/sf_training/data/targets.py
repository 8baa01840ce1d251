"""Make the labels of observations: the chunks of an expert, or the operator's next commands."""

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

# Share of a joint's range: if the commands of a label stay within it, the label is idle.
IDLE_SHARE = 0.002
UNLABELLED_SHARE = 0.25  # of the observations: more without a command get a note


@dataclass(frozen=True)
class Pairs:
    """P labels of H steps and A action columns.

    Attributes:
        frame: (P,) index of the observation.
        instructions: P texts.
        targets: (P, H, A) float32.
        idle: (P,) float32, for labels without motion the time [s] since the operator last commanded
            a motion; else 0.
    """

    frame: np.ndarray
    instructions: list[str]
    targets: np.ndarray
    idle: np.ndarray

    def of(self, kept: np.ndarray) -> Pairs:
        """Return the labels of those observations (N,) that are kept."""
        numbers, rows = np.cumsum(kept) - 1, np.flatnonzero(kept[self.frame])
        return Pairs(
            numbers[self.frame[rows]].astype(np.int32),
            [self.instructions[row] for row in rows.tolist()],
            self.targets[rows],
            self.idle[rows],
        )

    @classmethod
    def joined(cls, sections: Sequence[Pairs], frames: Sequence[int]) -> Pairs:
        """Concatenate labels of several sections, which have ``frames`` observations each."""
        offsets = np.cumsum([0, *frames[:-1]])
        return cls(
            np.concatenate(
                [section.frame + offset for section, offset in zip(sections, offsets, strict=True)]
            ).astype(np.int32),
            [text for section in sections for text in section.instructions],
            np.concatenate([section.targets for section in sections]),
            np.concatenate([section.idle for section in sections]),
        )


def expert_pairs(
    contract: Contract, stamps: np.ndarray, chunks: Sequence[Chunk], chunk_stamps: np.ndarray
) -> Pairs:
    """Return one label for every chunk with the stamp of an observation.

    Several chunks at one observation, for different instructions, are contrastive labels. Chunks
    that are longer than the horizon are cut.

    Args:
        stamps: observation times (N,) [ns].
        chunk_stamps: times of the chunks (C,) [ns].

    Raises:
        ValueError: a chunk has another action space, step or columns than the contract, is too
            short, or holds a value that is not finite.
    """
    action = contract.action
    frame = nearest(stamps, chunk_stamps) if len(stamps) else np.empty(0, int)
    same = (
        np.abs(stamps[frame] - chunk_stamps) <= SAME_STAMP_NS if len(stamps) else np.empty(0, bool)
    )
    matching = np.flatnonzero(same)
    for index in matching.tolist():
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
        [chunks[index].data[: action.horizon] for index in matching.tolist()], np.float32
    ).reshape(-1, action.horizon, len(action.names))
    idle = np.zeros(len(matching), np.float32)  # an expert that waits does so on purpose
    instructions = [chunks[index].instruction for index in matching.tolist()]
    return Pairs(frame[matching].astype(np.int32), instructions, targets, idle)


def operator_pairs(
    contract: Contract,
    stamps: np.ndarray,
    measured: np.ndarray,
    commands: JointStream,
    instructions: Sequence[str],
    until: np.ndarray | None = None,
) -> Pairs:
    """Return one label per observation from the commands of the operator after it.

    Step k (from 0) of the label at stamp t is the command in force at t + (k + 1) * ``step_s``, in
    the action space of the contract, relative to the joints measured at t. The last command is
    held. Observations before the first or after the last command have no label.

    Args:
        stamps: observation times (N,) [ns].
        measured: joint positions (N, J) at these times, in the order of
            ``contract.command_joints`` [rad, m].
        commands: of the same joints.
        instructions: N texts in force at these times.
        until: (N,) [ns]: a label with a step after it is left out; None keeps all.
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
    """Return at which observation times (N,) [ns] a label can be made.

    The first step has a command, and a command follows.
    """
    first_step = round(contract.action.step_s * 1e9)
    return (stamps + first_step >= commands.first) & (stamps < commands.last)


def unlabelled(
    contract: Contract, stamps: np.ndarray, commands: JointStream, start: int
) -> list[str]:
    """Return a sentence if many observations (N,) have no label because they are before the first
    or after the last command of a joint, else an empty list.

    Args:
        stamps: of the observations [ns].
        commands: of the joints ``contract.command_joints``.
        start: first image of the recording [ns].
    """
    lost = ~is_commanded(contract, stamps, commands)
    if lost.sum() <= UNLABELLED_SHARE * len(lost) or lost.all():
        return []
    names = contract.command_joints
    begins = [int(knots.stamps[0]) for knots in commands.knots]
    reasons = []
    if (lost & (stamps < commands.first)).any():
        late = [name for name, begin in zip(names, begins, strict=True) if begin == commands.first]
        at = f"{(commands.first - start) * 1e-9:.2f} s"
        which = (
            f"{', '.join(late)} is first commanded" if len(late) < len(names) else "commands begin"
        )
        reasons.append(f"{which} at {at}")
    if (lost & (stamps >= commands.last)).any():
        reasons.append(f"no joint is commanded after {(commands.last - start) * 1e-9:.2f} s")
    problem = (
        f"{lost.sum()} of {len(stamps)} observations have no label: {', and '.join(reasons)};"
        " publish the commands of all joints during the whole recording, or trim the episode"
    )
    return [problem]


def no_labels(labelled: np.ndarray) -> list[str]:
    """Return a sentence if no observation (N,) has a label, else an empty list."""
    if labelled.any():
        return []
    problem = (
        "no observation has a label: commands or expert chunks are at other times than the images;"
        " check their times with `python3 -m sf_training view`"
    )
    return [problem]


def _idle(contract: Contract, stamps: np.ndarray, commanded: np.ndarray) -> np.ndarray:
    """Return ``Pairs.idle`` (P,).

    Args:
        stamps: (P,) [ns] of the observations.
        commanded: (P, 1 + H, J) commands at the observation and at the H steps; NaN where there is
            none yet.
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
    """Convert commanded joints (H, J) to actions (H, A) of ``contract.action.names``.

    Args:
        kinematics: of every arm by its name, or of the only arm; needed if
            ``contract.action.space.is_tool``, else None.
        measured: (J,) joints at the observation, the reference of relative action spaces.
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
            openings = [arm.fitted_gripper.mean_opening(row) for row in commanded[:, fingers]]
            result[:, gripper[0]] = np.clip(openings, 0.0, 1.0)
    return result


def _tool_columns(
    kinematics: Kinematics, space: ActionSpace, commanded: np.ndarray, measured: np.ndarray
) -> np.ndarray:
    """Return tool actions (H, 6) as (position [m], rotation vector [rad]) in the base frame.

    With (p, R) = forward(commanded) and (p0, R0) = forward(measured): EE_DELTA is
    (p - p0, log(R R0^T)), EE_POSE is (p, log R), where log is the logarithm of SO(3).
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
