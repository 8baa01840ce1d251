"""The record journey as a person has it: one command in a terminal, single keys, and an episode
that trains; a real terminal (pty).
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.recording.labels import read_labels
from sf_training.recording.verification import verify_episode

pytestmark = pytest.mark.ros
COMMAND = [sys.executable, "-m", "sf_bringup.record"]


class Terminal:
    """A program in a terminal of its own: what it shows, and keys for it."""

    def __init__(self, command):
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="400", LINES="50")
            os.execvp(command[0], command)
        self._shown, self.code = "", None

    def wait_for(self, pattern, timeout=PATIENCE_S):
        end = time.monotonic() + timeout
        while not (found := list(re.finditer(pattern, self._shown))):
            assert time.monotonic() < end, (
                f"{pattern!r} was not shown; the end of the screen:\n{self._shown[-3000:]}"
            )
            self._read()
        self._shown = self._shown[found[-1].end() :]

    def press(self, key):
        os.write(self._file, key.encode())

    def ended(self, timeout=PATIENCE_S):
        end = time.monotonic() + timeout
        while self.code is None:
            assert time.monotonic() < end, "the program did not end"
            self._read()
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def drop(self):
        """Close the terminal under the program, as a dropped SSH link does."""
        os.close(self._file)
        os.waitpid(self._pid, 0)
        self.code = 0

    def close(self):
        if self.code is None:
            os.kill(self._pid, signal.SIGTERM)
            self.ended()
            os.close(self._file)

    def _read(self):
        ready, _, _ = select.select([self._file], [], [], 0.1)
        if ready:
            try:
                self._shown += os.read(self._file, 65536).decode(errors="replace")
            except OSError:  # the other side is gone
                time.sleep(0.05)


@pytest.fixture
def start(ros_domain, tmp_path):
    """Starts the record journey in a terminal of its own."""
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


def processes_of(directory):
    """Processes that were started for episodes in a directory, wherever their parents are now: id
    and command line.
    """
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes() if folder.name.isdecimal() else b""
        except OSError:
            continue
        if str(directory).encode() in words:
            found[int(folder.name)] = words.replace(b"\0", b" ").decode()
    return found


def wait_until_nothing_runs(directory):
    end = time.monotonic() + PATIENCE_S
    while left := processes_of(directory):
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.1)


def episodes_of(directory):
    return sorted(path for path in directory.iterdir() if path.is_dir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_day_with_a_dropped_link_and_a_killed_recorder_loses_nothing(start, tmp_path):
    episodes = tmp_path / "episodes"
    first = start()
    first.wait_for("READY", PATIENCE_S)
    second = subprocess.run(
        [*COMMAND, f"directory:={tmp_path}"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (
        second.returncode == 2
        and "already (process" in second.stderr
        and "set another ROS_DOMAIN_ID" in second.stderr
    )
    first.wait_for(r"camera skew \d+ ms")
    first.press("\x1b[D\x1b[C")  # arrows: nothing
    first.press("ifold the towel\x1b[Ds\r")
    first.wait_for("fold the towels")
    first.press(" ")
    first.wait_for(r"RECORDING   [1-9]")
    first.drop()
    wait_until_nothing_runs(tmp_path)
    (dropped,) = episodes_of(episodes)
    verify_episode(dropped)
    custom = yaml.safe_load((dropped / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]
    assert (custom["instruction"], custom["outcome"], custom["note"]) == (
        "fold the towels",
        "discarded",
        "the recorder was stopped",
    )

    again = start()
    again.wait_for(r"camera skew \d+ ms", PATIENCE_S)
    again.press(" ")
    again.wait_for(r"RECORDING   [1-9]")
    (recorder,) = (
        pid for pid, words in processes_of(tmp_path).items() if "__node:=recorder" in words
    )
    os.kill(recorder, signal.SIGKILL)
    again.wait_for("recorder was ended by SIGKILL")
    assert again.ended() == 1
    wait_until_nothing_runs(tmp_path)
    assert [path.suffix for path in episodes_of(episodes)] == ["", ".partial"]

    last = start()
    last.wait_for(r"1 recordings that were cut off: .*partial")
    last.press("y\r")
    last.wait_for("recovered")
    last.wait_for("READY", PATIENCE_S)
    last.press("q")
    assert last.ended() == 0
    for episode in episodes_of(episodes):
        verify_episode(episode)
    assert len(list(episodes.glob("record_*.log"))) == 2, "the logs of the runs before are kept"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_person_records_labels_and_undoes(start, tmp_path):
    terminal = start()
    terminal.wait_for("READY", PATIENCE_S)
    terminal.wait_for(r"camera skew \d+ ms")  # both cameras deliver
    terminal.press(" ")
    terminal.wait_for("GET READY")
    terminal.wait_for(r"RECORDING   ([2-9]|\d\d)\.")
    terminal.press("f")
    terminal.wait_for(": failure, ")
    terminal.press("s")
    terminal.wait_for("labelled, the outcome is success")
    terminal.press("u")
    terminal.wait_for("the outcome is failure")
    terminal.press("d")
    terminal.wait_for("the outcome is discarded")
    terminal.press("q")
    terminal.wait_for("are in")
    assert terminal.ended() == 0
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
    assert custom["verdict"] in ("WARN", "FAIL"), "nobody moved the arm"
    assert read_labels(bag).outcome == "discarded"


def test_without_a_terminal_it_says_what_is_wrong_and_helps():
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
    assert done.returncode == 2 and "needs a terminal for its keys" in done.stderr
