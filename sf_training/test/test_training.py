"""The trainer: what it learns from, resuming after a kill, and what it says about bad input."""

import json
import os
import shutil
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
from safetensors.torch import load_file, save_file
from seeded_weights import vggt_weights

from sf_policy_node.contract import load_contract
from sf_policy_node.motion.types import Join
from sf_policy_node.ros_testing import PATIENCE_S
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_training.config_file import parse
from sf_training.simulation import demonstrations
from sf_training.spatial_forcing.alignment import AlignmentOptions
from sf_training.spatial_forcing.presets import PRESETS
from sf_training.spatial_forcing.vision_targets import Targets
from sf_training.training.curves import read_curves
from sf_training.training.loop import TrainingRun, resolved
from sf_training.training.report import read_runs, summarise
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import StudentSettings, build_student
from sf_training.training.train import main as train_command
from sf_training.training.training_set import ContrastiveSampler, TrainingSet

CONTRACT_FILE = Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml"
CONTRACT = load_contract(CONTRACT_FILE)
SIDE = 32
TEXTS = ("pick the red cube", "pick the blue cube")
SMALL = StudentSettings(image_size=(SIDE,))
SETTINGS = Settings(data=Path("data"), out=Path("out"), steps=40, pairs=2, singles=2, student=SMALL, width=32, layers=2, decay_share=0.0)


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


def start(chosen: Settings = SETTINGS, data: TrainingSet | None = None, targets: Targets | None = None) -> TrainingRun:
    data = data or synthetic()
    torch.manual_seed(chosen.seed)
    student = build_student(chosen.student, CONTRACT, head=chosen.head, width=chosen.width, layers=chosen.layers)
    embeddings = np.random.default_rng(1).normal(size=(2, 384)).astype(np.float32)
    normalisation = Normalisation.from_data(data.states, data.label_chunk, embeddings, CONTRACT.action.names)
    text = torch.from_numpy(normalisation.text.normalise(embeddings))
    if chosen.teacher != "none" and targets is None:
        targets = np.random.default_rng(2).normal(size=(len(data.images), 2, 2, 2, 16)).astype(np.float16)
    return TrainingRun(resolved(chosen, student), student, CONTRACT, data, np.arange(len(data.label_frame)), normalisation, text, targets)


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
    pairs = [(run.model, run.averaged(), run.alignment) for run in (whole, resumed)]
    for one, other in zip(*pairs, strict=True):
        assert all(torch.equal(*both) for both in zip(one.parameters(), other.parameters(), strict=True))
    assert whole.progress().action_loss == resumed.progress().action_loss


def test_a_flow_run_validates_and_leaves_a_policy_for_real_time_chunking(tmp_path):
    run = start(replace(SETTINGS, head="flow", steps=5))
    for _ in range(5):
        run.train_step()
    labels = np.arange(10)
    assert run.validate(labels) == run.validate(labels)
    save_checkpoint(tmp_path / "flow", run.averaged(), CONTRACT, run.normalisation, {})
    loaded = Policy.load(tmp_path / "flow", contract=CONTRACT, device="cpu")
    assert loaded.join is Join.RTC
    assert not any("readout" in name for name in run.averaged().state_dict())


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


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_nano(name):
    run = start(replace(SETTINGS, preset=name))
    config = run.settings.alignment
    assert max(config.student_layers) <= SETTINGS.layers
    assert config.token_shift == (name == "paper_openvla")
    run.train_step()
    first = run.progress()
    for _ in range(39):
        run.train_step()
    assert run.progress().alignment_loss < first.alignment_loss
    if name == "adaptive":
        assert run.alignment.gate.grad is None and run.alignment.gate.abs().sum() > 0  # it has learned


def test_a_preset_gives_way_to_what_is_asked_for_beside_it():
    chosen = replace(SETTINGS, preset="paper_openvla", alignment=AlignmentOptions(coefficient=0.1)).alignment_of(4)
    assert (chosen.coefficient, chosen.token_shift, chosen.mask) == (0.1, 1, False)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("", {"layer": 24, "token_shift": 0, "mask": True}),
        ("--preset paper_openvla", {"layer": 24, "token_shift": 1, "mask": False}),
        ("--preset paper_openvla --alignment.token-shift 0", {"layer": 24, "token_shift": 0}),
        ("--preset paper_openvla --alignment.mask True", {"token_shift": 1, "mask": True}),
        ("--alignment.layer 2", {"layer": 2, "layers": ()}),
        ("--preset multilayer --alignment.layer 2", {"student_layers": (2,), "teacher_layers": (-1,)}),
        ("--preset multilayer --alignment.teacher-layers -1", {"student_layers": (*range(2, 20, 2), 32), "teacher_layers": (-1,)}),
        ("--preset adaptive --alignment.combine each", {"combine": "each", "student_layers": tuple(range(1, 33))}),
    ],
)
def test_what_is_typed_beside_a_preset_counts_even_where_it_is_the_usual_value(typed, found, tmp_path):
    words = "--data d --out o --student.kind hf --student.weights w --student.train-vision lora --teacher vggt --teacher-weights v"
    chosen = parse(Settings, [*words.split(), *typed.split()], "train").alignment_of(32)
    assert {name: getattr(chosen, name) for name in found} == found


def test_a_file_says_yes_or_no_to_the_mask(tmp_path):
    for value in (True, False):
        (tmp_path / "run.yaml").write_text(f"data: d\nout: o\npreset: paper_openvla\nalignment:\n  mask: {str(value).lower()}\n")
        assert parse(Settings, ["--config", str(tmp_path / "run.yaml")], "train").alignment_of(4).mask is value


def test_several_teacher_layers_are_paired_with_those_of_the_student():
    chosen = replace(SETTINGS, teacher="vggt", teacher_weights="weights", preset="multilayer", layers=4)
    assert (chosen.alignment_of(4).student_layers, chosen.alignment_of(4).teacher_layers) == ((2, 4), (1, -1))
    rng = np.random.default_rng(2)
    layers = tuple(rng.normal(size=(12, 2, 2, 2, 16)).astype(np.float16) for _ in range(2))
    run = start(chosen, targets=Targets(layers, prepared=True))
    for _ in range(3):
        run.train_step()
    assert np.isfinite(run.progress().alignment_loss)


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
        ({"alignment": AlignmentOptions(layers=(1, 3))}, "--alignment.layers: the model has 2 blocks, got 3"),
        ({"alignment": AlignmentOptions(teacher_layers=(3,))}, "--alignment.teacher-layers: teacher pointmap has one layer, -1"),
        ({"teacher": "vggt"}, "--teacher-weights: teacher vggt needs a file, a directory or a hub id"),
        ({"teacher_weights": "facebook/VGGT-1B"}, "--teacher-weights: teacher pointmap has none; take --teacher vggt or hf"),
        ({"teacher_channels": 90}, "--teacher-channels: must be a multiple of 4, or 0 for all, got 90"),
        ({"teacher": "rgb", "control": "mean"}, "--control mean: teacher rgb is a control itself"),
        ({"teacher": "none", "control": "mean"}, "--control mean: a control stands for a teacher; give --teacher"),
    ],
)
def test_bad_settings_name_the_option(change, message):
    with pytest.raises(TrainingError, match=message):
        replace(SETTINGS, **change)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def here(main, *arguments: object) -> int:
    """Run a command line in this process: a new one imports torch and transformers for seconds."""
    return main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    assert here(demonstrations.main, "--out", folder, "--contract", CONTRACT_FILE, "--episodes", 3, "--workers", 1) in (0, None)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_from_bags_survives_a_kill_and_leaves_a_checkpoint_with_a_report(demos, tmp_path):
    out = tmp_path / "nano"
    train = command("sf_training.training.train", "--data", demos, "--out", out, "--steps", 60, "--width", 32, "--layers", 2)
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
    options = ["--data", demos, "--steps", 6, "--width", 32, "--layers", 2, "--validation-share", 0.34]
    options += ["--teacher", "vggt", "--teacher-weights", tmp_path, "--teacher-size", 56, "--teacher-channels", 16]
    said = []
    for control in ("none", "mean"):
        assert here(train_command, *options, "--control", control, "--out", tmp_path / control) == 0, capsys.readouterr().err
        said.append(" ".join(capsys.readouterr().out.split()))
    assert "licence of its weights: Somebody's licence" in said[0]
    assert "teacher features" in said[0]
    assert "16 of 64 channels kept: mean cosine with the whole targets 0." in said[1]
    assert "teacher features" not in said[1]
    assert len(list(demos.glob(".cache/features-*"))) == 1
    assert Policy.load(tmp_path / "mean", contract=CONTRACT, device="cpu").policy_id.startswith("mean@")


@pytest.mark.slow
def test_two_processes_are_started_by_torchrun_and_leave_what_one_does(demos, tmp_path):
    """The command as a whole: data prepared by one of them, curves and checkpoint written by one of them."""
    options = ["--data", demos, "--steps", 6, "--width", 32, "--layers", 2, "--validation-share", "0.34", "--validate-every", 2]
    alone = command("sf_training", "train", *options)
    launch = command("torch.distributed.run", "--standalone", "--nproc_per_node=2", *alone[1:])

    def run(start: list[str], name: str, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*start, "--out", tmp_path / name, *more], capture_output=True, text=True, timeout=PATIENCE_S)

    found, weights = [], []
    for name, start in (("two", launch), ("one", alone)):
        done = run(start, name)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("checkpoint: ") == 1
        rows = read_curves(tmp_path / name / "report/curves.csv")
        found.append([[row.step, row.action_loss, row.cosine, row.validation_error] for row in rows])
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=2e-5)
    for key, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][key], rtol=1e-3, atol=1e-4)
    again = run(launch, "two", "--seed", "1")
    assert again.returncode != 0 and "train: --out" in again.stderr
    assert "holds the checkpoint of a run with other settings" in again.stderr


@pytest.mark.slow
def test_the_robot_gives_its_limits_to_the_checkpoint_and_nothing_else(demos, tmp_path, capsys):
    robots = {}
    for name, change in {"faster": ("velocity: 2.0", "velocity: 2.1"), "longer": ("horizon: 8", "horizon: 9")}.items():
        robots[name] = tmp_path / f"{name}.yaml"
        robots[name].write_text(CONTRACT_FILE.read_text().replace(*change))
    (tmp_path / "sim_arm.urdf").write_bytes(CONTRACT_FILE.with_name("sim_arm.urdf").read_bytes())
    options = ["--data", demos, "--out", tmp_path / "nano", "--steps", 2, "--width", 32, "--layers", 2]
    options += ["--validation-share", 0.34, "--teacher", "none", "--contract"]
    assert here(train_command, *options, robots["longer"]) == 1
    said = capsys.readouterr().err
    assert "expert chunk is ee_delta 8x4" in said and "the contract says ee_delta 9x4" in said
    assert here(train_command, *options, robots["faster"]) == 0
    assert Policy.load(tmp_path / "nano", device="cpu").contract.joints[0].velocity == 2.1


def test_training_without_episodes_says_how_to_record_some(tmp_path, capsys):
    assert here(train_command, "--data", tmp_path, "--out", tmp_path / "nano") == 1
    assert "no episode bags here; make some with `ros2 run sf_training demonstrations` or the recorder" in capsys.readouterr().err
    assert not (tmp_path / "nano").exists()


def test_a_truncated_bag_is_named_and_left_out_or_with_strict_refused(demos, tmp_path, capsys):
    copy = tmp_path / "demos"
    shutil.copytree(demos, copy)
    bag = sorted(copy.glob("demo_*/*.mcap"))[1]
    os.truncate(bag, bag.stat().st_size // 2)
    options = ["--data", copy, "--out", tmp_path / "nano", "--steps", 2, "--width", 32, "--layers", 2, "--teacher", "none"]
    assert here(train_command, *options, "--strict") == 1
    said = capsys.readouterr().err
    assert bag.name in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "nano").exists()
    assert here(train_command, *options, "--validation-share", 0.5) == 0
    assert bag.name in "".join(capsys.readouterr())
    assert (tmp_path / "nano/config.json").exists()


def test_report_counts_steps_to_the_threshold_and_says_when_it_was_not_reached(tmp_path):
    header = "step,cpu_s,wall_s,action_loss,cosine,validation_error,validation_choice,success,episodes,wrong_object\n"
    for teacher, rates in (("pointmap", (0.5, 0.9)), ("none", (0.0, 0.1))):
        folder = tmp_path / f"{teacher}_s0/report"
        folder.mkdir(parents=True)
        rows = [f"{100 * n},{10 * n},{10 * n},0.1,,0.01,0.5,{rate},40,0\n" for n, rate in enumerate(rates, 1)]
        (folder / "curves.csv").write_text(header + "".join(rows))
        (folder / "training.json").write_text(json.dumps({"settings": {"teacher": teacher, "seed": 0}}))
    shutil.copytree(tmp_path / "pointmap_s0", tmp_path / "other_s0")
    other = {"settings": {"teacher": "vggt", "control": "mean", "seed": 0}}
    (tmp_path / "other_s0/report/training.json").write_text(json.dumps(other))
    summary = summarise(read_runs(tmp_path), 0.85)["teachers"]
    assert list(summary) == ["none", "pointmap", "vggt mean"]
    assert summary["pointmap"]["steps_to_threshold"] == [200]
    assert summary["none"]["steps_to_threshold"] == [None]
    assert summary["pointmap"]["success_by_step"] == {"100": [0.5], "200": [0.9]}
