"""Tests of episodes after a conversion that copies only messages.

`ros2 bag convert` is one; the tests run `rosbags-convert`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic_episodes import tiny_contract, write_episode

from sf_training.data.episode_arrays import load_episode
from sf_training.data.episode_reader import EpisodeReader
from sf_training.recording.messages import string
from sf_training.recording.writer.episode_message import EPISODE_TOPIC, read_episode_message


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_contract_instruction_and_outcome_survive_a_conversion(tmp_path, storage):
    contract = tiny_contract()
    bag = write_episode(
        tmp_path, contract, labels="operator", outcome="failure", instruction="fold the towel"
    )
    converted = tmp_path / "converted"
    command = [
        Path(sys.executable).with_name("rosbags-convert"),
        "--src",
        bag,
        "--dst",
        converted,
        "--dst-storage",
        storage,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    before, after = EpisodeReader(bag), EpisodeReader(converted)
    assert not after.foreign and after.contract.hash == contract.hash
    assert (after.instruction, after.outcome, after.operator) == (
        "fold the towel",
        "failure",
        "test",
    )
    assert after.metadata == before.metadata and after.counts[EPISODE_TOPIC] == 1
    first, second = (load_episode(reader, 24, depth=False) for reader in (before, after))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.pairs.targets, second.pairs.targets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"contract": "x"}',
        '{"contract": "", "urdf": "", "urdf_name": "", "record": 3}',
    ],
)
def test_other_texts_on_the_topic_are_ignored(text):
    assert read_episode_message(bytes(string(text))) is None
