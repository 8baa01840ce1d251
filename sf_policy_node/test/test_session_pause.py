"""Tests of a policy session: pause, resume, cadence, frozen cameras, continued chunks."""

import threading

import numpy as np
import pytest
from motion_cases import HOME, sim_arm
from node_cases import ScriptedPolicy
from session_cases import Stage

from sf_policy_node.motion.types import Join
from sf_policy_node.session.instruction_run import Termination
from sf_policy_node.session.status import PolicyState


def test_a_pause_keeps_the_instruction_and_predicts_nothing(stage):
    run = stage.session.begin("pick the red cube")
    stage.advance(1.0)
    predicted = len(stage.policy.calls)
    stage.notified.clear()
    assert stage.session.pause(True) is run
    assert stage.notified.is_set(), (
        "the status must go out at once: the executor stops the arm by it"
    )
    stage.advance(2.0)
    status = stage.session.status()
    assert len(stage.policy.calls) == predicted
    assert (status.state, status.instruction, status.epoch) == (
        PolicyState.PAUSED,
        "pick the red cube",
        run.epoch,
    )


def test_a_resume_continues_in_a_new_epoch_with_new_observations(stage):
    run = stage.session.begin("pick the red cube")
    stage.advance(1.0)
    first = run.epoch
    stage.session.pause(True)
    stage.advance(1.0)
    stage.now = resumed = stage.now + 0.01
    assert stage.session.pause(False) is run and stage.session.status().state is PolicyState.RUNNING
    stage.settle()
    assert {chunk.epoch for chunk in stage.chunks} == {first}, (
        "images from before the resume are not used"
    )
    stage.advance(1.0)
    later = [chunk for chunk in stage.chunks if chunk.epoch != first]
    assert later and all(
        chunk.epoch == run.epoch > first and chunk.stamp >= resumed for chunk in later
    )
    assert {chunk.instruction for chunk in stage.chunks} == {"pick the red cube"}
    assert np.all(np.diff([chunk.sequence for chunk in stage.chunks]) == 1)


def test_the_time_limit_does_not_run_during_a_pause(stage):
    run = stage.session.begin("pick the red cube", timeout_s=2.0)
    stage.advance(1.0)
    stage.session.pause(True)
    stage.advance(10.0, step=0.5)
    stage.session.check_time()
    assert (
        run.termination is None
        and run.progress(stage.now) == pytest.approx(0.5)
        and run.elapsed_s(stage.now) == pytest.approx(1.0)
    )
    stage.session.pause(False)
    stage.advance(0.9)
    stage.session.check_time()
    assert run.termination is None and run.progress(stage.now) == pytest.approx(0.95)
    stage.advance(0.2)
    stage.session.check_time()
    assert run.termination is Termination.TIMEOUT and run.duration_s == pytest.approx(2.1)


def test_cameras_may_be_missing_during_a_pause_but_not_after_it(stage):
    run = stage.session.begin("pick the red cube")
    stage.advance(0.5)
    stage.session.pause(True)
    stage.now += 60.0
    stage.session.check_time()
    assert run.termination is None
    stage.session.pause(False)
    stage.now += 4.0
    stage.session.check_time()
    assert run.termination is None
    stage.settle()
    stage.now += 2.0
    stage.session.check_time()
    assert run.termination is Termination.NO_OBSERVATION


def test_a_running_prediction_is_dropped_by_a_pause(stage):
    entered, leave, predict = threading.Event(), threading.Event(), stage.policy.predict

    def slow(*arguments):
        entered.set()
        leave.wait(120.0)
        return predict(*arguments)

    stage.policy.predict = slow
    stage.session.begin("pick the red cube")
    stage.see()
    assert entered.wait(120.0)
    stage.session.pause(True)
    stage.now += 0.01
    stage.session.pause(False)
    leave.set()
    stage.until(lambda: stage.policy.calls, "the prediction from before the pause")
    stage.settle()
    assert not stage.chunks
    stage.advance(0.2)
    assert stage.chunks and stage.chunks[0].epoch == stage.session.run.epoch


def test_a_new_instruction_replaces_a_paused_one_and_a_stop_ends_it(stage):
    first = stage.session.begin("pick the red cube")
    stage.session.pause(True)
    second = stage.session.begin("pick the blue cube")
    assert (
        first.termination is Termination.REPLACED
        and not second.paused
        and stage.session.status().state is PolicyState.RUNNING
    )
    stage.session.pause(True)
    stage.session.end(Termination.STOPPED, "emergency stop")
    assert stage.session.run is None and stage.session.status().state is PolicyState.IDLE


def test_a_pause_needs_an_instruction_and_repeating_it_has_no_effect(stage):
    with pytest.raises(ValueError, match="there is no instruction to pause"):
        stage.session.pause(True)
    with pytest.raises(ValueError, match="there is no instruction to resume"):
        stage.session.pause(False)
    run = stage.session.begin("pick the red cube")
    epoch = run.epoch
    stage.session.pause(False)
    assert run.epoch == epoch
    stage.session.pause(True)
    stage.now += 5.0
    stage.session.pause(True)
    assert run.elapsed_s(stage.now) == 0.0


def test_the_cadence_of_a_run_remains_in_the_status_after_its_end(stage):
    run = stage.session.begin("pick the red cube")
    stage.advance(3.0)
    stage.session.pause(True)
    stage.advance(5.0, step=0.5)
    stage.session.pause(False)
    stage.advance(3.0)
    cadence = stage.session.status().cadence
    assert cadence.rate_wanted_hz == pytest.approx(1 / 0.3) and 3.0 < cadence.rate_hz < 3.7
    assert 0.25 < cadence.worst_s < 0.36 and cadence.cycles == run.chunks - 2
    stage.session.end(Termination.CANCELLED, "cancelled by the client")
    stage.now += 100.0
    assert stage.session.status().cadence == cadence


def test_clips_count_only_this_run_even_if_the_executor_restarts(stage):
    stage.session.note_clips(100)
    run = stage.session.begin("pick the red cube")
    for total in (100, 103, 103, 2, 3):
        stage.session.note_clips(total)
    assert run.clips == 6
    assert stage.session.begin("pick the blue cube").clips == 0


def test_a_frozen_camera_stops_the_predictions_and_then_the_instruction(stage):
    run = stage.session.begin("pick the red cube")
    for step in range(200):  # 10 s
        stage.now += 0.05
        stage.session.add_joint_state(stage.now, sim_arm().command_joints, HOME + 0.01 * step)
        stage.session.add_image("scene", stage.now, np.zeros((240, 320, 3), np.uint8))
        stage.session.add_image("wrist", stage.now, np.full((240, 320, 3), step, np.uint8))
        stage.settle()
        stage.session.check_time()
        if run.termination is not None:
            break
    assert run.termination is Termination.NO_OBSERVATION
    assert (
        "camera scene: the image has not changed for" in run.message
        and "restart the camera's driver" in run.message
    )
    assert run.chunks <= 2 and stage.session.status().observations_refused > 0


def test_unreadable_images_end_the_instruction_after_a_while(stage):
    def decode(camera, image):
        raise ValueError("/scene_camera/image_raw: encoding 'x' cannot be read")

    stage.decode = decode
    run = stage.session.begin("pick the red cube")
    stage.advance(4.5, step=0.1)
    stage.session.check_time()
    assert run.termination is None
    stage.advance(1.0, step=0.1)
    stage.session.check_time()
    assert (
        run.termination is Termination.NO_OBSERVATION
        and "encoding 'x' cannot be read" in run.message
    )


def test_chunks_have_the_policys_blending_mode(stage):
    stage.session.begin("pick the red cube")
    stage.advance(0.2)
    assert stage.chunks[0].join is Join.BLEND


def test_a_real_time_chunking_policy_receives_the_rest_of_its_last_chunk():
    pytest.importorskip("sf_policy_node.session.continuation")
    given = []

    class Continuing(ScriptedPolicy):
        join = Join.RTC

        def predict(self, images, joints, instruction, *, continuation):
            given.append((instruction, continuation))
            return super().predict(images, joints, instruction)

    stage = Stage(Continuing(), real_time_chunking=True)
    stage.session.begin("pick the red cube")
    stage.advance(1.0)
    assert {chunk.join for chunk in stage.chunks} == {Join.RTC}
    assert given[0][1] is None, "nothing came before the first chunk"
    rows = given[1][1].rows
    assert rows.shape[1] == 4 and 4 <= len(rows) <= 6, (
        "of 8 rows of 0.1 s, those of the first 0.3 s are over"
    )
    # The arm has not moved, so the rest equals the prediction.
    assert rows[0][0] == pytest.approx(0.005 * 4, abs=0.0026)
    stage.session.pause(True)
    stage.session.pause(False)
    paused_after = len(given)
    stage.advance(0.5)
    assert given[paused_after][1] is None, "nothing of before a pause is continued"
    stage.session.begin("pick the blue cube")
    stage.advance(0.2)
    assert (
        next(
            continuation
            for instruction, continuation in given
            if instruction == "pick the blue cube"
        )
        is None
    )
    stage.session.close()
