"""The trainer: what it learns from, resuming after a kill, and what it says about bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_policy_node.contract import load_contract
from sf_policy_node.motion.types import Join
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_training.training.curves import read_curves
from sf_training.training.loop import TrainingRun
from sf_training.training.report import read_runs, summarise
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.training_set import ContrastiveSampler, TrainingSet

CONTRACT_FILE = Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml"
CONTRACT = load_contract(CONTRACT_FILE)
SIDE = 32
TEXTS = ("pick the red cube", "pick the blue cube")
SETTINGS = Settings(data=Path("data"), out=Path("out"), steps=40, pairs=2, singles=2, width=32, layers=2, decay_share=0.0)


def synthetic(frames: int = 12) -> TrainingSet:
    """Even frames have two labels, odd ones have one."""
    rng = np.random.default_rng(0)
    label_frame = np.repeat(np.arange(frames), [2 - frame % 2 for frame in range(frames)])
    return TrainingSet(
        images=rng.integers(0, 256, (frames, 2, 3, SIDE, SIDE), dtype=np.uint8),
        states=rng.normal(size=(frames, 10)),
        episodes=np.arange(frames) // 3,
        label_frame=label_frame,
        label_text=np.concatenate([[0, 1] if frame % 2 == 0 else [0] for frame in range(frames)]),
        label_chunk=rng.normal(size=(len(label_frame), 8, 4)).astype(np.float32),
        texts=TEXTS,
        depth=None,
        views=None,
    )


def start(chosen: Settings = SETTINGS, data: TrainingSet | None = None) -> TrainingRun:
    data = data or synthetic()
    embeddings = np.random.default_rng(1).normal(size=(2, 384)).astype(np.float32)
    normalisation = Normalisation.from_data(data.states, data.label_chunk, embeddings, CONTRACT.action.names)
    targets = None
    if chosen.teacher != "none":
        targets = np.random.default_rng(2).normal(size=(len(data.images), 2, 2, 2, 16)).astype(np.float16)
    return TrainingRun(chosen, CONTRACT, data, np.arange(len(data.label_frame)), normalisation, embeddings, targets)


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=20), pairs=st.integers(0, 4), singles=st.integers(0, 4), seed=st.integers(0, 99)
)
def test_pairs_are_two_different_labels_of_one_frame(counts, pairs, singles, seed):
    if not pairs + singles or (not pairs and min(counts) > 1) or (not singles and max(counts) == 1):
        pairs, singles = 2, 2
    label_frame = np.repeat(np.arange(len(counts)), counts)
    frames, rows, labels = ContrastiveSampler(label_frame, np.arange(len(label_frame)), pairs, singles, seed).draw()
    assert len(rows) == len(labels) >= pairs + singles
    np.testing.assert_array_equal(frames[rows], label_frame[labels])
    for frame in range(len(frames)):
        drawn = labels[rows == frame]
        assert len(set(drawn)) == len(drawn) == min(2, counts[frames[frame]])


@pytest.mark.parametrize("head", ["regression", "flow"])
def test_loss_and_alignment_fall(head):
    run = start(replace(SETTINGS, head=head))
    run.train_step()
    first = run.progress()
    for _ in range(39):
        run.train_step()
    last = run.progress()
    assert last.action_loss < first.action_loss
    assert last.alignment_loss < first.alignment_loss


@pytest.mark.parametrize("head", ["regression", "flow"])
def test_a_resumed_run_has_the_same_weights_as_an_uninterrupted_one(tmp_path, head):
    chosen = replace(SETTINGS, head=head)
    whole, first = start(chosen), start(chosen)
    for _ in range(10):
        whole.train_step()
    for _ in range(6):
        first.train_step()
    first.save_state(tmp_path / "resume.pt")
    resumed = start(chosen)
    assert resumed.load_state(tmp_path / "resume.pt")
    for _ in range(4):
        resumed.train_step()
    for model in ("model", "average", "alignment"):
        for one, other in zip(getattr(whole, model).parameters(), getattr(resumed, model).parameters(), strict=True):
            assert torch.equal(one, other)
    assert whole.progress().action_loss == resumed.progress().action_loss


def test_a_flow_run_validates_and_leaves_a_policy_for_real_time_chunking(tmp_path):
    run = start(replace(SETTINGS, head="flow", steps=5))
    for _ in range(5):
        run.train_step()
    labels = np.arange(10)
    assert run.validate(labels) == run.validate(labels)
    save_checkpoint(tmp_path / "flow", run.average, CONTRACT, run.normalisation, {})
    loaded = Policy.load(tmp_path / "flow", contract=CONTRACT, device="cpu")
    assert loaded.join is Join.RTC
    assert not any("readout" in name for name in run.average.state_dict())


def test_a_run_does_not_resume_from_other_settings(tmp_path):
    run = start()
    run.save_state(tmp_path / "resume.pt")
    with pytest.raises(TrainingError, match="belongs to a run with other settings; choose another --out, or delete it"):
        start(replace(SETTINGS, seed=5)).load_state(tmp_path / "resume.pt")


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    runs = [start(), start(), start(replace(SETTINGS, seed=1))]
    for run in runs:
        run.train_step()
    losses = [run.progress().action_loss for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_a_loss_that_is_not_finite_stops_the_run():
    run = start()
    with torch.no_grad():
        run.model.head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 1: the loss is not finite; lower --learning-rate"):
        run.train_step()


def test_data_that_are_not_finite_are_refused():
    data = synthetic()
    data.label_chunk[3, 0, 0] = np.nan
    with pytest.raises(TrainingError, match="not finite: remove that episode"):
        replace(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps: must be at least 1"),
        ({"validation_share": 1.0}, "--validation-share"),
        ({"pairs": 0, "singles": 0}, "--pairs, --singles"),
        ({"layers": 1}, "--alignment.layer: the model has 1 blocks, got 2"),
    ],
)
def test_bad_settings_name_the_option(change, message):
    with pytest.raises(TrainingError, match=message):
        replace(SETTINGS, **change)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    make = command("sf_training.simulation.demonstrations", "--out", folder, "--contract", CONTRACT_FILE, "--episodes", 3, "--workers", 1)
    subprocess.run(make, check=True, timeout=100)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_training_from_bags_survives_a_kill_and_leaves_a_checkpoint_with_a_report(demos, tmp_path):
    out = tmp_path / "nano"
    train = command("sf_training.training.train", "--data", demos, "--out", out, "--steps", 60, "--width", 32, "--layers", 2)
    train += ["--save-every", "5", "--validate-every", "20", "--validation-share", "0.34"]
    state = out / "report/resume.pt"
    process = subprocess.Popen(train, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    done = subprocess.run(train, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
    assert [row.step for row in read_curves(out / "report/curves.csv")] == [20, 40, 60]
    assert (out / "report/curves.png").stat().st_size > 10_000
    assert json.loads((out / "report/training.json").read_text())["settings"]["seed"] == 0
    assert any((out / "report/tensorboard").iterdir())
    assert not state.exists()
    assert Policy.load(out, contract=CONTRACT, device="cpu").policy_id.startswith("nano@")


def test_training_without_episodes_says_how_to_record_some(tmp_path):
    train = command("sf_training.training.train", "--data", tmp_path, "--out", tmp_path / "nano")
    done = subprocess.run(train, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "no episode bags here; make some with `ros2 run sf_training demonstrations` or the recorder" in done.stderr
    assert not (tmp_path / "nano").exists()


@pytest.mark.slow
def test_a_truncated_bag_is_named_and_nothing_is_written(demos, tmp_path):
    copy = tmp_path / "demos"
    subprocess.run(["cp", "-r", demos, copy], check=True)
    bag = sorted(copy.glob("demo_*/*.mcap"))[1]
    os.truncate(bag, bag.stat().st_size // 2)
    train = command("sf_training.training.train", "--data", copy, "--out", tmp_path / "nano")
    done = subprocess.run(train, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert bag.name in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "nano").exists()


def test_report_counts_steps_to_the_threshold_and_says_when_it_was_not_reached(tmp_path):
    header = "step,cpu_s,wall_s,action_loss,cosine,validation_error,validation_choice,success,episodes,wrong_object\n"
    for teacher, rates in (("pointmap", (0.5, 0.9)), ("none", (0.0, 0.1))):
        folder = tmp_path / f"{teacher}_s0/report"
        folder.mkdir(parents=True)
        rows = [f"{100 * n},{10 * n},{10 * n},0.1,,0.01,0.5,{rate},40,0\n" for n, rate in enumerate(rates, 1)]
        (folder / "curves.csv").write_text(header + "".join(rows))
        (folder / "training.json").write_text(json.dumps({"settings": {"teacher": teacher, "seed": 0}}))
    summary = summarise(read_runs(tmp_path), 0.85)["teachers"]
    assert summary["pointmap"]["steps_to_threshold"] == [200]
    assert summary["none"]["steps_to_threshold"] == [None]
    assert summary["pointmap"]["success_by_step"] == {"100": [0.5], "200": [0.9]}
