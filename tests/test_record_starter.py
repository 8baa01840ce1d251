"""Tests of the record journey in a real terminal (pty): one command, keys, a trainable episode."""

import os
import signal
import subprocess
import sys

import pytest
import yaml
from journey.terminal import Terminal, processes_of

from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.recording.labels import read_labels
from sf_training.recording.recover.verification import verify_episode

pytestmark = pytest.mark.ros
COMMAND = [sys.executable, "-m", "sf_bringup.record"]


@pytest.fixture
def start(ros_domain, tmp_path):
    """Start the record journey in its own terminal."""
    words = [
        "robot:=sim_arm",
        "task:=pick the red cube",
        f"directory:={tmp_path / 'episodes'}",
        "countdown:=1",
        "operator:=anna",
    ]
    started = []

    def start_one():
        started.append(Terminal([*COMMAND, *words]))
        return started[-1]

    yield start_one
    for terminal in started:
        terminal.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_operator_records_labels_and_undoes(start, tmp_path):
    terminal = start()
    terminal.wait_for("READY", PATIENCE_S)
    terminal.wait_for(r"camera skew \d+ ms")  # both cameras publish
    terminal.press(" ")
    terminal.wait_for("GET READY")
    terminal.wait_for(r"RECORDING   ([2-9]|\d\d)\.")
    terminal.press("f")
    terminal.wait_for(": failure, ")
    terminal.press("s")
    terminal.wait_for(r"labelled,\s+the\s+outcome\s+is\s+success")
    terminal.press("u")
    terminal.wait_for(r"the\s+outcome\s+is\s+failure")
    terminal.press("d")
    terminal.wait_for(r"the\s+outcome\s+is\s+discarded")
    terminal.press("q")
    terminal.wait_for("are in")
    assert terminal.wait_for_exit() == 0
    (bag,) = (path for path in (tmp_path / "episodes").iterdir() if path.is_dir())
    verify_episode(bag)
    custom = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]
    assert (custom["instruction"], custom["operator"], custom["outcome"]) == (
        "pick the red cube",
        "anna",
        "failure",
    )
    assert custom["verdict"] in ("WARN", "FAIL"), "no command was recorded"
    assert read_labels(bag).outcome == "discarded"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_recorder_ends_everything_and_names_the_cure(start, tmp_path):
    terminal = start()
    terminal.wait_for("READY", PATIENCE_S)
    terminal.wait_for(r"camera skew \d+ ms")
    terminal.press(" ")
    terminal.wait_for(r"RECORDING   ([2-9]|\d\d)\.")
    (recorder,) = (
        number
        for number, words in processes_of(tmp_path / "episodes").items()
        if "image_codec" in words and "sf_bringup.record" not in words
    )
    os.kill(recorder, signal.SIGKILL)
    terminal.wait_for("recorder was ended by SIGKILL, so everything was stopped", PATIENCE_S)
    terminal.wait_for(r"interrupted recordings: \S+\.partial; recover with")
    assert terminal.wait_for_exit() == 1


def test_without_a_terminal_the_message_names_the_error_and_the_cure():
    done = subprocess.run(
        [*COMMAND, "robot:=ur55"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and done.stderr.startswith(
        "record: robot: 'ur55' is unknown; known are "
    )
    done = subprocess.run(
        [sys.executable, "-m", "sf_training.recording.keyboard_node"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2 and "stdin is not a terminal" in done.stderr
