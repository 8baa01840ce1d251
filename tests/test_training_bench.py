"""Tests of the training benchmarks: cases, memory of one process, refusal without a GPU."""

import json
import sys

import numpy as np
import pytest
import torch
from bench import gpu_training
from bench.training_case import STUDENTS, load_data, save_data, start, targets, write_teacher
from bench.training_speed import _ratio, make_frames, measure_memory
from hypothesis import given
from hypothesis import strategies as st

from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.training.loop.run import TrainingRun
from sf_training.training.loop.step_times import WARM_UP_STEPS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench")
    save_data(make_frames(8), path)
    write_teacher(path)
    return path


@pytest.mark.parametrize("student", STUDENTS)
def test_cases_differ_only_in_the_source_of_targets(folder, student):
    data = load_data(folder)
    losses = {}
    for source in ("no_sf", "cache", "loop"):
        run = start(student, source, data, folder)
        run.train_step()
        losses[source] = run.progress()
    assert losses["no_sf"].alignment_loss is None
    assert losses["cache"].action_loss == losses["loop"].action_loss == losses["no_sf"].action_loss
    assert losses["cache"].alignment_loss == pytest.approx(losses["loop"].alignment_loss, rel=0.02)


def test_memory_excludes_the_parent_process(folder):
    """A child process inherits the peak that getrusage reports from a big parent."""
    ballast = np.ones(400_000_000, np.uint8)
    found = measure_memory("nano", "no_sf", folder)
    assert found["before"] < found["most"] < found["before"] + 300_000  # KiB
    assert ballast.all()


def test_int8_halves_the_cache(folder):
    data = load_data(folder)
    cached = {source: targets(source, data, (6, 6), folder) for source in ("cache", "cache_int8")}
    assert cached["cache_int8"].nbytes < 0.52 * cached["cache"].nbytes
    assert cached["cache_int8"].cosine < cached["cache"].cosine < 1


def test_a_ratio_has_its_interval():
    rng = np.random.default_rng(0)
    ratio, low, high = _ratio(list(rng.normal(1.1, 0.05, 30)), list(rng.normal(1.0, 0.05, 30)))
    assert low < 1.1 < high and low < ratio < high and high - low < 0.1


@given(most=st.integers(1, 300), room=st.integers(0, 400))
def test_the_largest_batch_is_found(most, room):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= room

    assert gpu_training._largest(fits, most) == min(room, most)
    assert max(tried) <= most and len(tried) < 20


def test_without_a_gpu_the_message_names_the_dry_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_training"])
    with pytest.raises(
        SystemExit, match="PyTorch finds no GPU here; run it where one is, or take --dry-run"
    ):
        gpu_training.main()


def test_the_gpu_benchmark_runs_dry_on_a_cpu(monkeypatch, tmp_path):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "gpu_training",
            "--dry-run",
            "--steps",
            "1",
            "--batch",
            "1",
            "--most",
            "2",
            "--out",
            str(out),
        ],
    )
    steps, teacher = [], []
    step, features = TrainingRun.train_step, VggtTeacher.features
    monkeypatch.setattr(TrainingRun, "train_step", lambda run: steps.append(run) or step(run))
    monkeypatch.setattr(
        VggtTeacher, "features", lambda *words: teacher.append(words) or features(*words)
    )
    gpu_training.main()
    # Memory: 2 steps; largest batch: 2 each of 1 and 2 labels; time: the warm-up and one step.
    assert len(steps) == len(gpu_training.SOURCES) * (2 + 2 * 2 + WARM_UP_STEPS + 1)
    assert len(teacher) == len(steps) / len(gpu_training.SOURCES)  # once in each step of the loop
    found = json.loads(out.read_text())
    assert (
        found["gpu_largest_batch_loop"]["value"] == 2
        and found["gpu_step_loop_over_no_sf"]["value"] > 0
    )
    assert found["device"] == "dry run"
