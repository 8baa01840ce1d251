"""``ros2 run sf_training demonstrations``: record episodes of the scripted expert as rosbag2 MCAP.
The recorder's writer writes them.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.types import Chunk
from sf_training.config_file import parse
from sf_training.progress import ProgressBar
from sf_training.recording import messages
from sf_training.recording.topics import absolute, camera_pose_topic, episode_topics
from sf_training.recording.writer.episode_writer import EpisodeWriteError, EpisodeWriter, Outcome
from sf_training.simulation.arm_sim import ArmSim
from sf_training.simulation.instructions import Phrasing
from sf_training.simulation.joint_expert import JointExpert
from sf_training.simulation.joint_operator import demonstrate_joints
from sf_training.simulation.operator import Frame, demonstrate
from sf_training.simulation.rendering import RenderingError

OPERATOR = "scripted expert"
_START = 1.0  # s: stamp 0 would mean "no stamp"


@dataclass(frozen=True)
class Arguments:
    """Record demonstrations of the simulated arm."""

    out: Path
    """Directory for the episodes; existing ones are kept."""
    contract: Path
    """Contract of the simulated arm, config/robots/sim_arm.yaml."""
    episodes: int = 200
    """Number of episodes; their seeds count up from --seed."""
    seed: int = 0
    """Seed of the first episode."""
    workers: int = 2
    """Number of processes."""
    slips: bool = False
    """Each arm misses a grasp once and recovers; only for robots whose chunks are joint targets."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "demonstrations")
    try:
        record(arguments, Console())
    except (ContractError, EpisodeWriteError, RenderingError, ValueError) as error:
        sys.exit(f"demonstrations: {error}")
    except KeyboardInterrupt:
        sys.exit("demonstrations: interrupted; run the same command again to continue")
    return 0


def record(arguments: Arguments, console: Console) -> None:
    """Record the episodes that are missing, several at a time."""
    contract = load_contract(arguments.contract)
    if arguments.slips and contract.action.space.is_tool:
        raise ValueError("--slips: needs a robot whose chunks are joint targets; leave it out")
    seeds = [
        seed
        for seed in range(arguments.seed, arguments.seed + arguments.episodes)
        if not (arguments.out / _name(seed)).exists()
    ]
    if not seeds:
        console.print(f"{arguments.out}: all {arguments.episodes} episodes already exist")
        return
    outcomes: dict[str, int] = {}
    # spawn: a GL context must not be inherited
    with (
        multiprocessing.get_context("spawn").Pool(
            min(arguments.workers, len(seeds)),
            _start_worker,
            (contract, arguments.out, arguments.slips),
        ) as pool,
        ProgressBar("demonstrations", console=console) as bar,
    ):
        task = bar.add_task("", total=len(seeds))
        for outcome in pool.imap_unordered(_record_seed, seeds):
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            bar.advance(task)
    console.print(
        f"{arguments.out}: "
        + ", ".join(
            f"{count} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True)
        )
    )


def record_episode(
    sim: ArmSim,
    contract: Contract,
    kinematics: Kinematics | None,
    directory: Path,
    seed: int,
    expert: JointExpert | None = None,
    *,
    slips: bool = False,
) -> str:
    """Record one episode in ``directory``; return its outcome.

    Args:
        kinematics: needed for action spaces of the tool.
        expert: for action spaces of the joints; None makes one.
        slips: each arm misses a grasp once; only for action spaces of the joints.
    """
    rng = np.random.default_rng(seed)
    scene = sim.reset(seed)
    instruction = Phrasing.draw(rng).say(scene.targets, rng)
    started = sim.time - _START
    with EpisodeWriter(
        directory, contract, instruction=instruction, operator=OPERATOR, name=_name(seed)
    ) as writer:
        for topic in episode_topics(contract):
            writer.add_topic(topic.name, topic.type_name)
        stamp = messages.nanoseconds(_START)
        writer.write(absolute(contract.topics.instruction), messages.string(instruction), stamp)
        for camera in contract.cameras:
            if camera.info_topic:
                info = messages.camera_info(
                    _START, camera.frame, camera.width, camera.height, sim.intrinsics(camera.name)
                )
                writer.write(absolute(camera.info_topic), info, stamp)
        if contract.action.space.is_tool:
            assert kinematics is not None
            frames = demonstrate(sim, contract, kinematics, rng)
        else:
            frames = demonstrate_joints(sim, contract, rng, expert, slips=slips)
        for sequence, frame in enumerate(frames):
            _write_frame(writer, contract, frame, started, sequence)
        state = sim.task_state()
        lifted = state.picked()
        touched = [
            cube.colour
            for cube in state.objects
            if cube.touched and cube.colour not in scene.targets
        ]
        outcome: Outcome = "success" if lifted and not touched else "failure"
        note = (
            ""
            if outcome == "success"
            else (f"touched {', '.join(touched)}" if touched else "not lifted")
        )
        writer.finish(outcome, note=note)
    return outcome


def _write_frame(
    writer: EpisodeWriter, contract: Contract, frame: Frame, started: float, sequence: int
) -> None:
    stamp = frame.stamp - started
    at = messages.nanoseconds(stamp)
    for camera in contract.cameras:
        writer.write(
            absolute(camera.topic),
            messages.image(stamp, camera.frame, frame.images[camera.name]),
            at,
        )
        if camera.depth_topic:
            writer.write(
                absolute(camera.depth_topic),
                messages.depth_image(stamp, camera.frame, frame.depth[camera.name]),
                at,
            )
        pose = messages.pose(stamp, contract.base_frame, *frame.camera_poses[camera.name])
        writer.write(camera_pose_topic(camera.name), pose, at)
    names, topics = contract.command_joints, contract.topics
    writer.write(
        absolute(topics.joint_states),
        messages.joint_state(stamp, names, frame.reference, frame.reference_velocities),
        at,
    )
    for instruction, data in frame.answers:
        chunk = Chunk.of(
            contract,
            data,
            stamp=stamp,
            reference=frame.reference,
            policy_id=OPERATOR,
            instruction=instruction,
            epoch=1,
            sequence=sequence,
        )
        writer.write(absolute(topics.expert_chunk), messages.action_chunk(chunk), at)
    for sample in frame.motion[:-1]:  # the last one is the next frame's reference
        moment = sample.stamp - started
        state = messages.joint_state(moment, names, sample.positions, sample.velocities)
        writer.write(absolute(topics.joint_states), state, messages.nanoseconds(moment))
    due = stamp + contract.action.step_s  # when the arm should reach the command
    writer.write(
        absolute(topics.teleop_command),
        messages.joint_state(due, names, frame.command),
        messages.nanoseconds(due),
    )


def _name(seed: int) -> str:
    return f"demo_{seed:06d}"


# Of a process that records: one simulator each.
_worker: tuple[ArmSim, Contract, Kinematics | None, Path]
_expert: JointExpert | None
_slips: bool
_refusal: Exception | None = None  # why the process cannot record


def _start_worker(contract: Contract, directory: Path, slips: bool) -> None:
    global _worker, _expert, _slips, _refusal
    try:
        is_tool = contract.action.space.is_tool
        kinematics = Kinematics(contract) if is_tool else None
        sim = ArmSim(contract)
        _worker = (sim, contract, kinematics, directory)
        _expert = None if is_tool else JointExpert(contract, sim)
        _slips = slips
    except Exception as error:  # a pool would start processes that fail here again and again
        _refusal = error


def _record_seed(seed: int) -> str:
    if _refusal is not None:
        raise _refusal
    return record_episode(*_worker, seed, _expert, slips=_slips)


if __name__ == "__main__":
    sys.exit(main())
