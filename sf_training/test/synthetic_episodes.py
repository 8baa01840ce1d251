"""Small synthetic episodes: a contract with tiny cameras, and bags with traceable values."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import yaml

from sf_policy_node.contract import Contract, load_contract, parse_contract
from sf_policy_node.contract.upgrade import ARM_KEYS
from sf_policy_node.motion.types import Chunk
from sf_training.recording import messages
from sf_training.recording.topics import absolute, camera_pose_topic, episode_topics
from sf_training.recording.writer.episode_writer import EpisodeWriter

SIM_ARM = Path(__file__).resolve().parents[2] / "sf_bringup/config/robots/sim_arm.yaml"
WIDTH, HEIGHT, STEP = 32, 24, 0.1
START = 1.0
REST = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])


def tiny_contract(**changes) -> Contract:
    """Return the simulated arm's contract with 32x24 cameras.

    ``changes`` replace its keys; ``action`` and ``topics`` are merged.
    """
    contract = load_contract(SIM_ARM)
    data = contract.model_dump(mode="json")
    for camera in data["cameras"]:
        camera.update(width=WIDTH, height=HEIGHT)
    for key, value in changes.items():
        keys = data["arms"]["arm"] if key in ARM_KEYS else data
        keys[key] = (keys[key] or {}) | value if isinstance(value, dict) else value
    return parse_contract(yaml.safe_dump(data), contract.urdf_xml)


def image(frame: int, camera: int) -> np.ndarray:
    """Return an image (H, W, 3) whose brightness encodes frame and camera."""
    return np.full((HEIGHT, WIDTH, 3), (10 * frame + 100 * camera) % 256, np.uint8)


def joints_at(seconds: float) -> np.ndarray:
    """Return joints (7,) that move linearly in time."""
    return REST + np.array([0.1, 0.05, 0.0, 0.0, 0.0, 0.2, -0.005]) * (seconds - START)


def expert_answer(contract: Contract, stamp: float, instruction: str, value: float) -> Chunk:
    """Return a chunk filled with ``value``."""
    shape = (contract.action.horizon, len(contract.action.names))
    return Chunk(
        stamp=stamp,
        frame=contract.base_frame,
        policy_id="expert",
        contract_hash=contract.hash,
        instruction=instruction,
        epoch=1,
        sequence=0,
        space=contract.action.space,
        names=tuple(contract.action.names),
        step_s=contract.action.step_s,
        data=np.full(shape, value),
        reference_names=tuple(contract.command_joints),
        reference=joints_at(stamp),
    )


def open_writer(
    directory: Path, contract: Contract, name: str = "episode", **options
) -> EpisodeWriter:
    """Open a writer with all topics of the contract."""
    writer = EpisodeWriter(
        directory,
        contract,
        **{"instruction": "pick the red cube", "operator": "test", "name": name} | options,
    )
    for topic in episode_topics(contract):
        writer.add_topic(topic.name, topic.type_name)
    return writer


def write_cameras(
    writer: EpisodeWriter,
    contract: Contract,
    frame: int,
    stamp: float,
    *,
    depth: bool = True,
    without: Collection[str] = (),
) -> None:
    """Write all cameras' images at one stamp.

    Depth is ``1 + frame`` metres; the pose of the camera is included.
    """
    at = messages.nanoseconds(stamp)
    for index, camera in enumerate(contract.cameras):
        if camera.name in without:
            continue
        writer.write(
            absolute(camera.topic), messages.image(stamp, camera.frame, image(frame, index)), at
        )
        if depth:
            metres = np.full((HEIGHT, WIDTH), 1.0 + frame, np.float32)
            writer.write(
                absolute(camera.depth_topic), messages.depth_image(stamp, camera.frame, metres), at
            )
        pose = messages.pose(
            stamp,
            contract.base_frame,
            np.diag([-1.0, 1.0, -1.0]),
            [float(index), 0.0, float(frame)],
        )
        writer.write(camera_pose_topic(camera.name), pose, at)


def write_joints(
    writer: EpisodeWriter, contract: Contract, topic: str, stamp: float, positions: np.ndarray
) -> None:
    """Write one joint state or command."""
    writer.write(
        absolute(topic),
        messages.joint_state(stamp, contract.command_joints, positions),
        messages.nanoseconds(stamp),
    )


def write_episode(
    directory: Path,
    contract: Contract,
    name: str = "episode",
    *,
    frames: int = 5,
    labels: str = "expert",
    depth: bool = True,
    outcome: str = "success",
    instruction: str = "pick the red cube",
    without: Collection[str] = (),
) -> Path:
    """Write an episode.

    ``labels`` is "expert" (two instructions per frame), "operator" (joint commands) or "none".
    """
    with open_writer(directory, contract, name, instruction=instruction) as writer:
        for camera in contract.cameras:
            if camera.name in without:
                continue
            matrix = np.array([[20.0, 0.0, WIDTH / 2], [0.0, 20.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
            info = messages.camera_info(START, camera.frame, WIDTH, HEIGHT, matrix)
            writer.write(absolute(camera.info_topic), info, messages.nanoseconds(START))
        for frame in range(frames):
            stamp = START + frame * STEP
            write_cameras(writer, contract, frame, stamp, depth=depth, without=without)
            if labels == "expert":
                for value, text in enumerate(("red", "green")):
                    chunk = expert_answer(
                        contract, stamp, f"pick the {text} cube", frame + 10 * value
                    )
                    writer.write(
                        absolute(contract.topics.expert_chunk),
                        messages.action_chunk(chunk),
                        messages.nanoseconds(stamp),
                    )
            for sample in range(5):
                moment = stamp + sample * STEP / 5
                write_joints(
                    writer, contract, contract.topics.joint_states, moment, joints_at(moment)
                )
                if labels == "operator":
                    write_joints(
                        writer,
                        contract,
                        contract.topics.teleop_command,
                        moment,
                        joints_at(moment + 0.05),
                    )
        return writer.finish(outcome)
