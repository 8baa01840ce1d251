"""Tests of the train command: checkpoint with report, kills, bad episodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from seeded_weights import vggt_weights

from sf_policy_node.contract import load_contract
from sf_policy_node.ros_testing import PATIENCE_S
from sf_policy_node.vla.policy import Policy
from sf_training.simulation import demonstrations
from sf_training.training import train
from sf_training.training.curves import read_curves
from sf_training.training.report import read_runs, summarise
from sf_training.training.settings import Settings
from sf_training.training.students import StudentSettings
from sf_training.training.train import main as train_command

CONTRACT_FILE = Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml"
CONTRACT = load_contract(CONTRACT_FILE)
SIDE = 32
TEXTS = ("pick the red cube", "pick the blue cube")
SMALL = StudentSettings(image_size=(SIDE,))


@pytest.mark.parametrize(("teacher", "needed"), [("pointmap", True), ("none", False)])
def test_depth_is_read_only_for_a_teacher_that_needs_it(monkeypatch, teacher, needed):
    asked = []

    def load(*_, depth, **__):
        asked.append(depth)
        return CONTRACT, SimpleNamespace(present=None)

    monkeypatch.setattr(train, "load_training_set", load)
    model = SimpleNamespace(config=SimpleNamespace(fit="crop"))
    student = SimpleNamespace(image_size=SIDE, model=model)
    settings = Settings(data=(Path("d"),), out=Path("o"), teacher=teacher)
    train.training_data(settings, student, CONTRACT, Console(quiet=True))
    assert asked == [needed]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def here(main, *arguments: object) -> int:
    """Run a command in this process; a new one would import torch and transformers for seconds."""
    return main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    assert here(
        demonstrations.main,
        "--out",
        folder,
        "--contract",
        CONTRACT_FILE,
        "--episodes",
        3,
        "--workers",
        1,
    ) in (0, None)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_survives_a_kill_and_writes_a_checkpoint_with_a_report(demos, tmp_path):
    out = tmp_path / "nano"
    train = command(
        "sf_training.training.train",
        "--data",
        demos,
        "--out",
        out,
        "--steps",
        60,
        "--width",
        32,
        "--layers",
        2,
    )
    train += ["--save-every", "5", "--validate-every", "20", "--validation-share", "0.34"]
    state = out.with_name(out.name + ".resume.pt")
    process = subprocess.Popen(train, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    done = subprocess.run(train, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
    assert [row.step for row in read_curves(out / "report/curves.csv")] == [20, 40, 60]
    assert (out / "report/curves.png").stat().st_size > 10_000
    assert json.loads((out / "report/training.json").read_text())["settings"]["seed"] == 0
    assert any((out / "report/tensorboard").iterdir())
    assert not state.exists()
    assert Policy.load(out, contract=CONTRACT, device="cpu").policy_id.startswith("nano@")


@pytest.mark.slow
def test_a_vision_teacher_trains_nano_and_its_features_are_computed_once(demos, tmp_path, capsys):
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    (tmp_path / "LICENSE").write_text("Somebody's licence\n")
    options = [
        "--data",
        demos,
        "--steps",
        6,
        "--width",
        32,
        "--layers",
        2,
        "--validation-share",
        0.34,
    ]
    options += [
        "--teacher",
        "vggt",
        "--teacher-weights",
        tmp_path,
        "--teacher-size",
        56,
        "--teacher-channels",
        16,
    ]
    output = []
    for control in ("none", "mean"):
        assert (
            here(train_command, *options, "--control", control, "--out", tmp_path / control) == 0
        ), capsys.readouterr().err
        output.append(" ".join(capsys.readouterr().out.split()))
    assert "licence of its weights: Somebody's licence" in output[0]
    assert "teacher features" in output[0]
    assert "16 of 64 channels saved: mean cosine with the full targets 0." in output[1]
    assert "teacher features" not in output[1]
    assert len(list(demos.glob(".cache/features-*"))) == 1
    assert Policy.load(tmp_path / "mean", contract=CONTRACT, device="cpu").policy_id.startswith(
        "mean@"
    )


@pytest.mark.slow
def test_two_torchrun_processes_give_the_result_of_one(demos, tmp_path):
    """One process prepares data and writes curves and checkpoint."""
    options = [
        "--data",
        demos,
        "--steps",
        6,
        "--width",
        32,
        "--layers",
        2,
        "--validation-share",
        "0.34",
        "--validate-every",
        2,
    ]
    alone = command("sf_training", "train", *options)
    launch = command("torch.distributed.run", "--standalone", "--nproc_per_node=2", *alone[1:])

    def run(start: list[str], name: str, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*start, "--out", tmp_path / name, *more],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    found, weights = [], []
    for name, start in (("two", launch), ("one", alone)):
        done = run(start, name)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("checkpoint: ") == 1
        rows = read_curves(tmp_path / name / "report/curves.csv")
        found.append(
            [[row.step, row.action_loss, row.cosine, row.validation_error] for row in rows]
        )
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=2e-5)
    for key, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][key], rtol=1e-3, atol=1e-4)
    again = run(launch, "two", "--seed", "1")
    assert again.returncode != 0 and "train: --out" in again.stderr
    assert "holds the checkpoint of a run with other settings" in again.stderr


@pytest.mark.slow
def test_only_limits_of_the_robot_reach_the_checkpoint(demos, tmp_path, capsys):
    robots = {}
    for name, change in {
        "faster": ("velocity: 2.0", "velocity: 2.1"),
        "longer": ("horizon: 8", "horizon: 9"),
    }.items():
        robots[name] = tmp_path / f"{name}.yaml"
        robots[name].write_text(CONTRACT_FILE.read_text().replace(*change))
    (tmp_path / "sim_arm.urdf").write_bytes(CONTRACT_FILE.with_name("sim_arm.urdf").read_bytes())
    options = [
        "--data",
        demos,
        "--out",
        tmp_path / "nano",
        "--steps",
        2,
        "--width",
        32,
        "--layers",
        2,
    ]
    options += ["--validation-share", 0.34, "--teacher", "none", "--contract"]
    assert here(train_command, *options, robots["longer"]) == 1
    output = capsys.readouterr().err
    assert "expert chunk is ee_delta 8x4" in output and "the contract says ee_delta 9x4" in output
    assert here(train_command, *options, robots["faster"]) == 0
    assert Policy.load(tmp_path / "nano", device="cpu").contract.joints[0].velocity == 2.1


def test_training_without_episodes_names_the_recording_command(tmp_path, capsys):
    assert here(train_command, "--data", tmp_path, "--out", tmp_path / "nano") == 1
    assert "holds no episode; record some, or generate some with `" in capsys.readouterr().err
    assert not (tmp_path / "nano").exists()


def test_a_truncated_bag_is_excluded_or_refused_with_strict(demos, tmp_path, capsys):
    copy = tmp_path / "demos"
    shutil.copytree(demos, copy)
    bag = sorted(copy.glob("demo_*/*.mcap"))[1]
    os.truncate(bag, bag.stat().st_size // 2)
    options = [
        "--data",
        copy,
        "--out",
        tmp_path / "nano",
        "--steps",
        2,
        "--width",
        32,
        "--layers",
        2,
        "--teacher",
        "none",
    ]
    assert here(train_command, *options, "--strict") == 1
    output = capsys.readouterr().err
    assert bag.name in output
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "nano").exists()
    assert here(train_command, *options, "--validation-share", 0.5) == 0
    assert bag.name in "".join(capsys.readouterr())
    assert (tmp_path / "nano/config.json").exists()


def test_the_report_has_the_steps_to_the_threshold_or_their_absence(tmp_path):
    header = (
        "step,cpu_s,wall_s,action_loss,cosine,validation_error,validation_choice,success,"
        "episodes,wrong_object\n"
    )
    for teacher, rates in (("pointmap", (0.5, 0.9)), ("none", (0.0, 0.1))):
        folder = tmp_path / f"{teacher}_s0/report"
        folder.mkdir(parents=True)
        rows = [
            f"{100 * n},{10 * n},{10 * n},0.1,,0.01,0.5,{rate},40,0\n"
            for n, rate in enumerate(rates, 1)
        ]
        (folder / "curves.csv").write_text(header + "".join(rows))
        (folder / "training.json").write_text(
            json.dumps({"settings": {"teacher": teacher, "seed": 0}})
        )
    shutil.copytree(tmp_path / "pointmap_s0", tmp_path / "other_s0")
    other = {"settings": {"teacher": "vggt", "control": "mean", "seed": 0}}
    (tmp_path / "other_s0/report/training.json").write_text(json.dumps(other))
    summary = summarise(read_runs(tmp_path), 0.85)["teachers"]
    assert list(summary) == ["none", "pointmap", "vggt mean"]
    assert summary["pointmap"]["steps_to_threshold"] == [200]
    assert summary["none"]["steps_to_threshold"] == [None]
    assert summary["pointmap"]["success_by_step"] == {"100": [0.5], "200": [0.9]}
