"""Fuzz tests: a damaged bag gives a result or one sentence.

``SF_FUZZ=2000 pytest sf_training/test/test_bag_fuzz.py`` tries more cases.
"""

import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from foreign_recordings import (
    BEGIN,
    FLOATS,
    GRIPPER,
    LEADER,
    SECOND_NS,
    STATES,
    changed,
    contract,
    entry,
    make,
    merged,
    pose,
    pose_at,
    recording,
    text,
    without,
    write_bag,
    write_mcap,
)
from mcap.writer import CompressionType, IndexType
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from synthetic_episodes import tiny_contract, write_episode

from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_training.data.bag_files import BagError
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.export_bags import stretches
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages
from sf_training.recording.writer.video_encoder import VideoEncoder
from sf_training.view.episode import load as view_episode

TRIED = int(os.environ.get("SF_FUZZ", "210"))
ROBOT = contract(topics={GRIPPER: "/teleop/joint_command"})


def with_effort(each):
    """Return a joint state with efforts."""
    each.content.effort = np.arange(7.0)
    return each.content


ENTRIES = [
    *changed(recording(0.4), STATES, with_effort),
    entry("/instruction", messages.STRING, 0.5, text("stack the bowls")),
]
KINEMATICS = Kinematics(ROBOT)
ENCODER = VideoEncoder()
VIDEO_ENTRIES = [
    replace(
        each,
        message_type=messages.VIDEO_PACKET,
        content=messages.deserialize(
            ENCODER.packet(messages.typestore().serialize_cdr(each.content, messages.IMAGE)),
            messages.VIDEO_PACKET,
        ),
    )
    if each.message_type == messages.IMAGE
    else each
    for each in ENTRIES
]
TOOL_ENTRIES = merged(
    without(ENTRIES, LEADER),
    [
        entry(LEADER, messages.POSE, k / 25, pose(BEGIN + k * SECOND_NS // 25, tool))
        for k in range(10)
        for tool in [KINEMATICS.forward(pose_at(k / 25)[:6])]
    ],
    [entry(GRIPPER, FLOATS, k / 25, make(FLOATS, 0.02)) for k in range(10)],
)
PLAIN = {"compression": CompressionType.NONE, "enable_crcs": False}


def folder_of(path):
    """Return the folder of a bare file."""
    return path.parent


MAKERS = {
    "mcap": lambda out: folder_of(write_mcap(out / "a.mcap", ENTRIES, **PLAIN)),
    "zstd": lambda out: folder_of(write_mcap(out / "a.mcap", ENTRIES, chunk_size=6000)),
    "tool": lambda out: folder_of(write_mcap(out / "a.mcap", TOOL_ENTRIES, **PLAIN)),
    "video": lambda out: folder_of(write_mcap(out / "a.mcap", VIDEO_ENTRIES, **PLAIN)),
    "no index": lambda out: folder_of(
        write_mcap(out / "a.mcap", ENTRIES, index_types=IndexType.NONE, chunk_size=6000, **PLAIN)
    ),
    "no chunks": lambda out: folder_of(
        write_mcap(out / "a.mcap", ENTRIES, use_chunking=False, **PLAIN)
    ),
    "sqlite3": lambda out: write_bag(out / "bag", ENTRIES, StoragePlugin.SQLITE3),
    "packed": lambda out: write_bag(
        out / "bag", ENTRIES, compression=(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    ),
    "own": lambda out: write_episode(out, tiny_contract(), frames=3, labels="operator"),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with one kind of damage."""
    data = bytearray(data)
    size, kind = (
        len(data),
        rng.choice(["cut", "flip", "flips", "swap", "number", "drop", "double", "zeros"]),
    )
    at = rng.randrange(size)
    if rng.random() < 0.4:  # at the ends, where the structure is
        at = min(size - 1, rng.choice([rng.randrange(200), max(0, size - 1 - rng.randrange(1500))]))
    length = min(rng.choice([1, 2, 4, 8, 30, 400]), size - at)
    if kind == "cut":
        del data[at:]
    elif kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(rng.randrange(2, 40)):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "swap":
        other = rng.randrange(size - length + 1)
        data[at : at + length], data[other : other + length] = (
            data[other : other + length],
            data[at : at + length],
        )
    elif kind == "number":
        number = rng.choice([0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1])
        data[at : at + 8] = number.to_bytes(8, "little")[: min(8, size - at)]
    elif kind == "drop":
        del data[at : at + length]
    elif kind == "double":
        data[at:at] = data[at : at + length]
    else:
        data[at : at + length] = bytes(length)
    return bytes(data)


def read_everything(path, robot):
    """Read all that stats, train, lint, view and export use; return the error sentences."""
    sentences = []
    for read in (
        lambda: np.asarray(load_dataset([path], robot, size=8, workers=1, progress=False).images),
        lambda: view_episode(EpisodeReader(path, robot)),
        lambda: stretches(EpisodeReader(path, robot), 10, "commanded", 2, 0.5, effort=True),
    ):
        try:
            read()
        except BagError as error:
            sentences.append(str(error))
    sentences.append(measure_episode(path, Thresholds(), 2, robot).broken)
    return sentences


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    out = tmp_path_factory.mktemp("fuzz")
    return {name: make(out / name.replace(" ", "_")) for name, make in MAKERS.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_damage_gives_a_result_or_one_sentence(originals, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    rng = random.Random(f"{name} {TRIED}")
    robot = None if name == "own" else ROBOT
    refused = 0
    for number in range(-(-TRIED // len(MAKERS))):
        path = tmp_path / "bag"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(originals[name], path)
        names = sorted(each for each in path.iterdir() if each.stat().st_size)
        bags = [each for each in names if each.suffix != ".yaml"]
        target = rng.choice(names if rng.random() < 0.2 else bags)
        target.chmod(0o644)
        target.write_bytes(damaged(target.read_bytes(), rng))
        try:
            sentences = read_everything(path, robot)
        except Exception as error:
            raise AssertionError(
                f"number {number} of {name}: {type(error).__name__}: {error}"
            ) from error
        refused += any(sentences)
        for sentence in filter(None, sentences):
            assert "\n" not in sentence and len(sentence) < 1200
            assert str(tmp_path) in sentence or sentence.startswith(
                "none of 1 episodes has the outcome"
            )
    assert refused
