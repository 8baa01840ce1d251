"""Tests of a policy session: when it predicts, for which instruction, when it gives up.

They use a real worker thread and a manual clock.
"""

import threading
import time

import numpy as np
import pytest
from motion_cases import HOME, sim_arm
from session_cases import Stage

from sf_policy_node.session.instruction_run import Termination
from sf_policy_node.session.status import PolicyState


def test_without_an_instruction_there_is_no_prediction(stage):
    stage.advance(0.5)
    assert not stage.policy.calls and stage.session.status().state is PolicyState.IDLE


def test_a_chunk_has_stamp_joints_and_instruction_of_its_observation(stage):
    run = stage.session.begin(" pick the red cube ")
    stage.see(100.01)
    stage.now = 100.08
    stage.session.add_joint_state(100.03, sim_arm().command_joints, HOME + 1.0)
    stage.until(lambda: stage.chunks, "a chunk")
    chunk = stage.chunks[0]
    assert chunk.stamp == 100.01 and np.allclose(chunk.reference, HOME)
    assert chunk.instruction == "pick the red cube" == stage.policy.calls[0][2]
    assert (chunk.epoch, chunk.sequence, chunk.contract_hash) == (run.epoch, 1, sim_arm().hash)
    assert stage.session.status().state is PolicyState.RUNNING


def test_images_from_before_the_instruction_are_not_used(stage):
    stage.see(99.9)
    stage.session.begin("pick the red cube")
    stage.settle()
    assert not stage.policy.calls


def test_predictions_respect_the_replan_interval(stage):
    stage.session.begin("pick the red cube")
    stage.advance(3.0)
    stamps = [chunk.stamp for chunk in stage.chunks]
    assert 8 <= len(stamps) <= 11
    assert np.diff(stamps) == pytest.approx(0.3, abs=0.051)
    assert [chunk.sequence for chunk in stage.chunks] == list(range(1, len(stamps) + 1))


def test_a_new_instruction_replaces_the_old_and_a_late_chunk_does_not_leak(stage):
    entered, leave = threading.Event(), threading.Event()
    predict = stage.policy.predict

    def slow(images, joints, instruction):
        entered.set()
        leave.wait(120.0)
        return predict(images, joints, instruction)

    stage.policy.predict = slow
    first = stage.session.begin("pick the red cube")
    stage.see()
    assert entered.wait(120.0)
    second = stage.session.begin("pick the blue cube")
    leave.set()
    stage.until(lambda: stage.policy.calls, "the first prediction")
    stage.settle()
    assert first.termination is Termination.REPLACED and second.epoch > first.epoch
    stage.advance(0.5)
    assert {chunk.instruction for chunk in stage.chunks} == {"pick the blue cube"}
    assert stage.session.take_ended() == [first]


def test_an_old_camera_image_gives_a_wait_with_the_cameras_name(stage):
    stage.session.begin("pick the red cube")
    stage.see()
    stage.until(lambda: stage.chunks, "a chunk")
    for _ in range(10):
        stage.now += 0.05
        stage.see(cameras=("scene",))
    stage.until(lambda: stage.session.status().state is PolicyState.WAITING, "waiting")
    status = stage.session.status()
    assert "camera wrist: the newest image is" in status.reason and status.observations_refused > 0
    stage.advance(0.5)
    assert stage.session.status().state is PolicyState.RUNNING


def test_an_instruction_without_observations_is_dropped(stage):
    run = stage.session.begin("pick the red cube")
    stage.see(cameras=("scene",))
    stage.settle()
    stage.now += 4.0
    stage.session.check_time()
    assert run.termination is None
    stage.now += 1.5
    stage.session.check_time()
    assert run.termination is Termination.NO_OBSERVATION and "nothing usable for 5 s" in run.message


def test_a_slow_model_is_not_mistaken_for_a_missing_camera(stage):
    leave = threading.Event()
    stage.policy.predict = lambda *_: leave.wait(120.0) and np.zeros((8, 4))
    run = stage.session.begin("pick the red cube")
    stage.see()
    stage.settle()
    stage.until(lambda: run.waiting_since is None, "the prediction")
    stage.now += 20.0
    stage.session.check_time()
    assert run.termination is None
    leave.set()


def test_a_timeout_ends_an_instruction(stage):
    run = stage.session.begin("pick the red cube", timeout_s=2.0)
    stage.advance(1.9)
    stage.session.check_time()
    assert run.termination is None and run.chunks > 3
    stage.advance(0.3)
    stage.session.check_time()
    assert run.termination is Termination.TIMEOUT and run.duration_s == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ValueError("no wrist camera"), "the policy failed: no wrist camera"),
        (RuntimeError("out of memory"), "the policy failed: RuntimeError: out of memory"),
        (
            np.zeros((3, 4)),
            "the policy failed: it returned a chunk of shape (3, 4), the contract says (8, 4)",
        ),
        (np.full((8, 4), np.nan), "the policy failed: it returned nan in column x"),
    ],
)
def test_a_failing_policy_ends_the_instruction_with_its_reason(stage, result, message):
    stage.policy.result = result
    run = stage.session.begin("pick the red cube")
    stage.see()
    stage.until(lambda: run.termination is not None, "the end")
    assert run.termination is Termination.ERROR and run.message == message and not stage.chunks
    assert stage.session.status().state is PolicyState.ERROR
    stage.policy.result = None
    stage.session.begin("pick the red cube")
    stage.advance(0.2)
    assert stage.chunks


def test_an_unreadable_image_gives_a_wait_with_the_reason(stage):
    def decode(camera, image):
        raise ValueError("/scene_camera/image_raw: encoding 'x' cannot be read")

    stage.decode = decode
    stage.session.begin("pick the red cube")
    stage.see()
    stage.until(
        lambda: "encoding 'x' cannot be read" in stage.session.status().reason, "the sentence"
    )
    assert stage.session.status().state is PolicyState.WAITING and not stage.chunks


def test_a_refused_instruction_does_not_replace_the_current_one(stage):
    run = stage.session.begin("pick the red cube")
    for text in ("", "x" * 10_000):
        with pytest.raises(ValueError):
            stage.session.begin(text)
    assert stage.session.run is run


def test_epochs_increase_across_restarts(stage):
    first = stage.session.begin("pick the red cube").epoch
    other = Stage()
    time.sleep(0.002)
    assert other.session.begin("pick the red cube").epoch > first
    other.session.close()


def test_a_backward_clock_jump_ends_the_instruction(stage):
    run = stage.session.begin("pick the red cube")
    stage.advance(0.5)
    stage.now = 3.0
    stage.session.check_time()
    assert run.termination is Termination.STOPPED and "clock" in run.message


def test_an_instruction_before_the_first_clock_message_starts_with_the_clock(stage):
    stage.now = 0.0
    run = stage.session.begin("pick the red cube", timeout_s=2.0)
    stage.settle()
    stage.now = 1000.0
    stage.session.check_time()
    assert run.termination is None and run.progress(stage.now) == 0.0
    stage.advance(1.0)
    assert stage.chunks and run.elapsed_s(stage.now) == pytest.approx(1.0)
