"""Tests of the recording session without ROS, on synthetic times and streams."""

import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from synthetic_episodes import tiny_contract

from sf_training.recording import messages
from sf_training.recording.edit.episode_folder import find_episode, outcome_of
from sf_training.recording.labels import LabelError, add_label
from sf_training.recording.session import recording_session as session
from sf_training.recording.session.recording_session import RecordingSession, SessionError, State
from sf_training.recording.session.stream_monitor import Verdict
from sf_training.recording.writer.episode_writer import EpisodeWriteError, EpisodeWriter
from sf_training.recording.writer.queued_writer import QueuedWriter

SCENE, WRIST, JOINTS, TELEOP = (
    "/scene_camera/image_raw",
    "/wrist_camera/image_raw",
    "/joint_states",
    "/teleop/joint_command",
)
PIXELS = np.zeros((24, 32, 3), np.uint8)
NAMES = tiny_contract().command_joints


class Desk:
    """A session with its streams and a manual clock."""

    def __init__(self, directory):
        self.directory = directory
        self.session = RecordingSession(tiny_contract(), directory, "anna", settable_clock=True)
        self.now, self.steady = 1000.0, 50.0
        self.sequence = 0

    def frame(self, seconds=1 / 30):
        self.now, self.steady = self.now + seconds, self.steady + seconds
        self.sequence += 1
        streams = {
            SCENE: messages.image(self.now, "c", PIXELS),
            WRIST: messages.image(self.now, "c", PIXELS),
            JOINTS: messages.joint_state(self.now, NAMES, np.zeros(7)),
            TELEOP: messages.joint_state(self.now, NAMES, np.zeros(7)),
        }
        for topic, data in streams.items():
            self.session.add(
                topic, bytes(data), round(self.now * 1e9), None, self.sequence, topic.encode()
            )
        return self.session.tick(self.now, self.steady)

    def start(self, instruction="pick", countdown_s=0.0):
        return self.session.start(instruction, countdown_s, self.now, self.steady)

    def end(self, outcome="success", note=""):
        return self.session.settle(self.session.end(outcome, note, self.now)())


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "episodes")
    for _ in range(5):
        desk.frame()
    return desk


def custom_data(bag):
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "custom_data"
    ]


def count(bag, topic):
    with AnyReader([bag]) as reader:
        return sum(connection.topic == topic for connection, _, _ in reader.messages())


def test_the_verdict_and_its_reasons_are_in_the_bag(desk):
    desk.start()
    for _ in range(40):
        desk.frame()
    finished = desk.end()
    assert finished.done and finished.verdict == Verdict.WARN  # no calibration and no depth arrived
    custom = custom_data(finished.path)
    assert custom["verdict"] == "WARN" and any(
        "camera_info: no message" in reason for reason in json.loads(custom["reasons"])
    )
    assert desk.session.outcomes["success"] == 1 and desk.session.state == State.IDLE


def test_nothing_is_recorded_before_the_countdown_is_over(desk):
    desk.start(countdown_s=2.0)
    assert desk.session.countdown(desk.steady) == pytest.approx(2.0)
    for _ in range(90):
        desk.frame()
    finished = desk.end("failure")
    assert 28 <= count(finished.path, SCENE) <= 32


def test_a_cancelled_countdown_leaves_nothing(desk):
    desk.start(countdown_s=3.0)
    desk.frame()
    finished = desk.end()
    assert finished.done and finished.path is None and not list(desk.directory.iterdir())
    desk.start()
    desk.frame()
    assert desk.end("discarded").path.exists()


@pytest.mark.parametrize("countdown", [-1.0, 61.0, float("nan")])
def test_an_invalid_countdown_is_refused(desk, countdown):
    with pytest.raises(SessionError, match="is not between 0 and 60"):
        desk.start(countdown_s=countdown)


def test_impossible_commands_are_refused_with_a_reason(desk):
    with pytest.raises(SessionError, match="no episode is being recorded; start one first"):
        desk.end()
    desk.start()
    with pytest.raises(
        SessionError, match="an episode is being recorded; stop or discard it first"
    ):
        desk.start()
    with pytest.raises(
        SessionError, match="must be one of success, failure, discarded, got 'fine'"
    ):
        desk.end("fine")
    desk.frame()
    complete = desk.session.end("success", "", desk.now)
    with pytest.raises(SessionError, match="an episode is being completed; wait a moment"):
        desk.session.end("success", "", desk.now)
    desk.session.settle(complete())


def test_earlier_latched_messages_are_in_the_episode(desk):
    source = bytes(messages.string("x"))  # any bytes: they are stored unchanged
    desk.session.add("/control_source", source, round(desk.now * 1e9), None, 1, b"executor")
    desk.start()
    desk.frame()
    bag = desk.end().path
    assert count(bag, "/control_source") == 1 and count(bag, "/instruction") == 1


def test_a_nearly_full_disk_ends_the_episode_in_time(desk, monkeypatch):
    desk.start()
    for _ in range(10):
        desk.frame()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 << 20))
    complete = desk.frame()
    finished = desk.session.settle(complete())
    assert finished.outcome == "discarded" and "nearly full" in custom_data(finished.path)["note"]
    assert count(finished.path, SCENE) == 11


def test_a_disk_that_will_be_full_soon_warns(desk, monkeypatch):
    desk.start()
    free = [10 << 30]

    def usage(path):
        free[0] -= 20 << 20
        return SimpleNamespace(free=free[0])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(QueuedWriter, "written", property(lambda self: (10 << 30) - free[0]))
    for _ in range(60):
        desk.frame()
    report = desk.session.report(desk.now)
    assert report.verdict >= Verdict.WARN and "the disk is full in" in report.reasons[0]
    desk.end()


def test_a_slow_disk_drops_messages_and_the_verdict_reports_it(desk, monkeypatch):
    """The disk blocks: callbacks continue, the queue fills, and the bag has the count of drops."""
    allowed = threading.Event()
    write = EpisodeWriter.write

    def slowly(self, *arguments):
        allowed.wait()
        write(self, *arguments)

    monkeypatch.setattr(EpisodeWriter, "write", slowly)
    monkeypatch.setattr(
        session,
        "QueuedWriter",
        lambda writer, **options: QueuedWriter(writer, capacity=100_000, **options),
    )
    desk.start()
    for _ in range(60):
        desk.frame()
    assert desk.session.queue.share > 0.9
    allowed.set()
    finished = desk.end()
    assert finished.verdict == Verdict.FAIL and any(
        "messages were lost" in reason for reason in finished.reasons
    )
    drops = json.loads(custom_data(finished.path)["drops"])
    assert drops[SCENE] > 20 and count(finished.path, SCENE) == 60 - drops[SCENE]


def test_after_a_disk_error_written_messages_are_saved_and_the_session_continues(desk, monkeypatch):
    desk.start()
    for _ in range(30):
        desk.frame()
    desk.session._writer.flush()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sf_training.recording.writer.mcap_file.McapFile.flush", refuse)
        finished = desk.end()
    assert (
        not finished.done
        and "sf_training recover" in finished.sentence
        and finished.verdict == Verdict.FAIL
    )
    assert [path.name.endswith(".partial") for path in desk.directory.iterdir()] == [True]
    desk.start()
    desk.frame()
    assert desk.end().path


def test_an_episode_without_a_camera_is_not_a_success(desk):
    desk.start()
    desk.session.add(
        JOINTS,
        bytes(messages.joint_state(desk.now, NAMES, np.zeros(7))),
        round(desk.now * 1e9),
        None,
        99,
        JOINTS.encode(),
    )
    finished = desk.end("success")
    assert (
        not finished.done
        and finished.outcome == "discarded"
        and "no message on /scene_camera" in custom_data(finished.path)["note"]
    )


def test_two_recorders_in_one_directory_label_their_own_episodes(tmp_path):
    desks = [Desk(tmp_path), Desk(tmp_path)]
    for desk in desks:
        desk.start()
    for number in range(30):
        desks[0].frame()
        if number % 2:
            desks[1].frame()
    bags = [desk.end().path for desk in desks]
    assert [count(bag, SCENE) for bag in bags] == [30, 15]
    assert sorted(tmp_path.iterdir()) == sorted(bags)


def test_the_last_episode_is_found_and_a_label_changes_its_outcome(desk):
    for outcome in ("success", "failure"):
        desk.start()
        desk.frame()
        desk.end(outcome)
    path = find_episode(desk.directory, "", desk.session.last.path)
    assert path == desk.session.last.path and outcome_of(path) == "failure"
    assert (
        find_episode(desk.directory, path.name) == path
        and find_episode(desk.directory, "") in desk.directory.iterdir()
    )
    add_label(path, outcome="success")
    desk.session.relabelled("failure", outcome_of(path))
    assert desk.session.outcomes["success"] == 2 and not desk.session.outcomes["failure"]
    with pytest.raises(LabelError, match="is not a finished episode; give the name of one"):
        find_episode(desk.directory, "nothing")


def test_a_writer_with_any_error_leaves_no_finished_episode():
    class BrokenWriter:
        size = 0

        def write(self, topic, data, log_time, publish_time):
            raise MemoryError("no more of it")

        def finish(self, *_, **__):
            raise AssertionError("finished")

    queued = QueuedWriter(BrokenWriter())
    queued.put("/t", b"data", 0)
    with pytest.raises(EpisodeWriteError, match="a message cannot be written: MemoryError"):
        queued.finish("success")
