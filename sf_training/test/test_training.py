"""Tests of the trainer: learning, resuming after a kill, messages about bad input."""

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
from sf_training.config_file import parse
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.presets import PRESETS
from sf_training.spatial_forcing.vision_targets import Targets
from sf_training.training.loop.run import TrainingRun
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.students import StudentSettings, build_student
from sf_training.training.training_set import ContrastiveSampler, TrainingSet

CONTRACT_FILE = Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml"
CONTRACT = load_contract(CONTRACT_FILE)
SIDE = 32
TEXTS = ("pick the red cube", "pick the blue cube")
SMALL = StudentSettings(image_size=(SIDE,))
SETTINGS = Settings(
    data=Path("data"),
    out=Path("out"),
    steps=40,
    pairs=2,
    singles=2,
    student=SMALL,
    width=32,
    layers=2,
    decay_share=0.0,
)


def synthetic(frames: int = 12) -> TrainingSet:
    """Make data where even frames have two labels and odd ones have one."""
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


def start(
    chosen: Settings = SETTINGS, data: TrainingSet | None = None, targets: Targets | None = None
) -> TrainingRun:
    data = data or synthetic()
    torch.manual_seed(chosen.seed)
    student = build_student(
        chosen.student, CONTRACT, head=chosen.head, width=chosen.width, layers=chosen.layers
    )
    embeddings = np.random.default_rng(1).normal(size=(2, 384)).astype(np.float32)
    normalisation = Normalisation.from_data(
        data.states,
        data.label_chunk,
        embeddings,
        CONTRACT.columns.action.grippers,
    )
    text = torch.from_numpy(normalisation.text.normalise(embeddings))
    if chosen.teacher != "none" and targets is None:
        targets = (
            np.random.default_rng(2).normal(size=(len(data.images), 2, 2, 2, 16)).astype(np.float16)
        )
    return TrainingRun(
        chosen.resolved(student),
        student,
        CONTRACT,
        data,
        data.labels,
        normalisation,
        text,
        targets,
    )


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=20),
    pairs=st.integers(0, 4),
    singles=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_pairs_are_two_different_labels_of_one_frame(counts, pairs, singles, seed):
    if not pairs + singles or (not pairs and min(counts) > 1) or (not singles and max(counts) == 1):
        pairs, singles = 2, 2
    label_frame = np.repeat(np.arange(len(counts)), counts)
    frames, rows, labels = ContrastiveSampler(
        label_frame, np.arange(len(label_frame)), pairs, singles, seed
    ).draw()
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
    full, first = start(chosen), start(chosen)
    for _ in range(10):
        full.train_step()
    for _ in range(6):
        first.train_step()
    first.save_state(tmp_path / "resume.pt")
    resumed = start(chosen)
    assert resumed.load_state(tmp_path / "resume.pt")
    for _ in range(4):
        resumed.train_step()
    pairs = [(run.model, run.averaged(), run.alignment) for run in (full, resumed)]
    for one, other in zip(*pairs, strict=True):
        assert all(
            torch.equal(*both) for both in zip(one.parameters(), other.parameters(), strict=True)
        )
    assert full.progress().action_loss == resumed.progress().action_loss


def test_a_flow_run_gives_a_policy_for_real_time_chunking(tmp_path):
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
    with pytest.raises(
        TrainingError,
        match="belongs to a run with other settings; choose another --out, or delete it",
    ):
        start(replace(SETTINGS, seed=5)).load_state(tmp_path / "resume.pt")


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    runs = [start(), start(), start(replace(SETTINGS, seed=1))]
    for run in runs:
        run.train_step()
    losses = [run.progress().action_loss for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_a_non_finite_loss_stops_the_run():
    run = start()
    with torch.no_grad():
        run.model.head.weight.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"step 1: the loss is not finite; lower --learning-rate"
    ):
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
        assert (
            run.alignment.gate.grad is None and run.alignment.gate.abs().sum() > 0
        )  # the loss has decreased


def test_typed_options_override_a_preset():
    chosen = replace(
        SETTINGS, preset="paper_openvla", alignment=AlignmentConfig(coefficient=0.1)
    ).alignment_of(4)
    assert (chosen.coefficient, chosen.token_shift, chosen.mask) == (0.1, 1, False)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("", {"layer": 24, "token_shift": 0, "mask": True}),
        ("--preset paper_openvla", {"layer": 24, "token_shift": 1, "mask": False}),
        ("--preset paper_openvla --alignment.token-shift 0", {"layer": 24, "token_shift": 0}),
        ("--preset paper_openvla --alignment.mask True", {"token_shift": 1, "mask": True}),
        ("--alignment.layer 2", {"layer": 2, "layers": ()}),
        (
            "--preset multilayer --alignment.layer 2",
            {"student_layers": (2,), "teacher_layers": (-1,)},
        ),
        (
            "--preset multilayer --alignment.teacher-layers -1",
            {"student_layers": (*range(2, 20, 2), 32), "teacher_layers": (-1,)},
        ),
        (
            "--preset adaptive --alignment.combine each",
            {"combine": "each", "student_layers": tuple(range(1, 33))},
        ),
    ],
)
def test_typed_default_values_override_a_preset_too(typed, found, tmp_path):
    words = (
        "--data d --out o --student.kind hf --student.weights w --student.train-vision lora"
        " --teacher vggt --teacher-weights v"
    )
    chosen = parse(Settings, [*words.split(), *typed.split()], "train").alignment_of(32)
    assert {name: getattr(chosen, name) for name in found} == found


def test_a_file_switches_the_mask_on_or_off(tmp_path):
    for value in (True, False):
        (tmp_path / "run.yaml").write_text(
            f"data: d\nout: o\npreset: paper_openvla\nalignment:\n  mask: {str(value).lower()}\n"
        )
        assert (
            parse(Settings, ["--config", str(tmp_path / "run.yaml")], "train").alignment_of(4).mask
            is value
        )


def test_a_null_in_a_file_is_the_preset_or_the_default(tmp_path):
    """This includes settings that were None when not given, in files of earlier versions."""
    (tmp_path / "run.yaml").write_text(
        "data: d\nout: o\npreset: paper_openvla\nalignment:\n  mask: null\n  coefficient: null\n"
    )
    found = parse(Settings, ["--config", str(tmp_path / "run.yaml")], "train").alignment_of(4)
    assert (found.mask, found.token_shift, found.coefficient) == (False, 1, 0.5)


def test_several_teacher_layers_are_paired_with_those_of_the_student():
    chosen = replace(
        SETTINGS, teacher="vggt", teacher_weights="weights", preset="multilayer", layers=4
    )
    assert (chosen.alignment_of(4).student_layers, chosen.alignment_of(4).teacher_layers) == (
        (2, 4),
        (1, -1),
    )
    rng = np.random.default_rng(2)
    layers = tuple(rng.normal(size=(12, 2, 2, 2, 16)).astype(np.float16) for _ in range(2))
    run = start(chosen, targets=Targets(layers, prepared=True))
    for _ in range(3):
        run.train_step()
    assert np.isfinite(run.progress().alignment_loss)


def test_non_finite_data_are_refused():
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
        (
            {"alignment": AlignmentConfig(layers=(1, 3))},
            "--alignment.layers: the model has 2 blocks, got 3",
        ),
        (
            {"alignment": AlignmentConfig(teacher_layers=(3,))},
            "--alignment.teacher-layers: teacher pointmap has one layer; leave it out",
        ),
        (
            {"teacher": "vggt"},
            "--teacher-weights: teacher vggt needs a file, a directory or a hub id",
        ),
        (
            {"teacher_weights": "facebook/VGGT-1B"},
            "--teacher-weights: teacher pointmap has none; take --teacher vggt, da3 or hf",
        ),
        (
            {"teacher_channels": 90},
            "--teacher-channels: must be a multiple of 4, or 0 for all, got 90",
        ),
        ({"teacher": "rgb", "control": "mean"}, "--control mean: teacher rgb is a control itself"),
        (
            {"teacher": "none", "control": "mean"},
            "--control mean: a control replaces a teacher; give --teacher",
        ),
    ],
)
def test_bad_settings_name_the_option(change, message):
    with pytest.raises(TrainingError, match=message):
        replace(SETTINGS, **change)
