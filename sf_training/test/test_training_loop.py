"""Tests of a run from start to checkpoint: best weights, restarts, kills."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from student_cases import CONTRACT
from training_process import make_run

from sf_training.training.curves import read_curves
from sf_training.training.loop import training_loop
from sf_training.training.loop.training_loop import TrainingLoop
from sf_training.training.settings import Settings, TrainingError

STEPS = 6


def a_run(folder: Path, steps: int = STEPS, **changes):
    return make_run("nano", folder, steps, **{"validate_every": 2, "save_every": 2, **changes})


def loop_of(run, begin: float | None = None) -> TrainingLoop:
    return TrainingLoop(
        run,
        CONTRACT,
        np.arange(3),
        Console(width=300),
        "train",
        time.monotonic() if begin is None else begin,
    )


def trained_steps(folder: Path) -> dict[str, int]:
    """Return the trained steps from the checkpoint's name."""
    return {
        path.parent.name: json.loads(path.read_text())["training"]["steps"]
        for path in folder.glob("out*/config.json")
    }


@pytest.mark.parametrize(
    ("errors", "best"), [((0.3, 0.1, 0.2), 4), ((0.3, 0.2, 0.1), None), ((0.1, 0.1, 0.1), None)]
)
def test_the_best_weights_are_saved_beside_the_last(errors, best, tmp_path, monkeypatch, capsys):
    """No older checkpoint is called the best if the last one is as good."""
    run = a_run(tmp_path)
    monkeypatch.setattr(run, "validate", lambda labels: (errors[run.step // 2 - 1], 1.0))
    loop_of(run).go()
    run.close()
    output = capsys.readouterr().out
    assert "labels per second" not in output  # no step is left after the warm-up
    assert trained_steps(tmp_path) == {"out": 6} | ({"out-best": best} if best else {})
    assert ("out-best" in output) == bool(best) and ("(also the best)" in output) != bool(best)
    assert not (tmp_path / "out.resume.pt").exists()


def test_a_finished_run_is_not_repeated(tmp_path, capsys):
    loop_of(a_run(tmp_path)).go()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = a_run(tmp_path, save_every=3)  # this option does not change the computation
    loop_of(again).go()
    assert "out: this run is finished; give another --out to train again" in capsys.readouterr().out
    assert again.step == 0
    assert {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == before


@pytest.mark.parametrize("changed", ["settings", "episodes"])
def test_the_checkpoint_of_another_run_is_not_overwritten(changed, tmp_path):
    loop_of(a_run(tmp_path)).go()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    other = a_run(tmp_path, **({"seed": 5} if changed == "settings" else {}))
    if changed == "episodes":
        other.data.label_chunk[0] += 1
    with pytest.raises(
        TrainingError,
        match=f"out: holds the checkpoint of a run with other {changed}; choose another, or delete",
    ):
        loop_of(other)
    assert {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == before


def test_bars_of_a_letterbox_are_not_aligned(tmp_path):
    """The first camera is wider than high, the model's images are square."""
    runs = [make_run("pi0", tmp_path, 2, head="flow") for _ in range(3)]
    rows, columns = runs[0].model.visual_layout().grid
    valid = runs[0].training.valid.view(1, len(CONTRACT.cameras), rows, columns, 1)
    height = CONTRACT.cameras[0].height / CONTRACT.cameras[0].width
    assert valid[:, 0].float().mean() == pytest.approx(height, abs=1 / rows)
    beside = (~valid).numpy()
    losses = []
    for run, changed in zip(runs, (np.zeros_like(beside), beside, ~beside), strict=True):
        (layer,) = run._targets.targets.layers
        layer[...] = np.where(changed, -layer, layer)
        run.train_step()
        losses.append(run.progress().alignment_loss)
        run.close()
    assert losses[0] == losses[1] != losses[2]


class Killed(BaseException):
    """Acts like SIGKILL: nothing catches it."""


def killed_at(run, step: int, begin: float | None = None) -> None:
    """Train until a simulated kill after the save at ``step``."""
    train = run.train_step

    def step_or_die():
        if run.step == step:
            raise Killed
        train()

    run.train_step = step_or_die
    with pytest.raises(Killed):
        loop_of(run, begin).go()
    run.close()


def test_a_refused_command_does_not_change_the_settings_of_a_running_training(tmp_path):
    killed_at(a_run(tmp_path), 4)
    file = tmp_path / "out/report/settings.yaml"
    before = file.read_text()
    with pytest.raises(TrainingError, match="belongs to a run with other settings"):
        loop_of(a_run(tmp_path, learning_rate=0.5))
    assert file.read_text() == before


def test_time_and_losses_continue_after_a_kill(tmp_path):
    killed_at(a_run(tmp_path / "killed"), 5, begin=time.monotonic() - 1000)
    loop_of(a_run(tmp_path / "killed")).go()
    loop_of(a_run(tmp_path / "whole")).go()
    found, expected = (
        read_curves(tmp_path / name / "out/report/curves.csv") for name in ("killed", "whole")
    )
    assert [row.step for row in found] == [2, 4, 6]
    for one, other in zip(found, expected, strict=True):
        assert (one.action_loss, one.cosine, one.validation_error) == (
            other.action_loss,
            other.cosine,
            other.validation_error,
        )
    assert all(1000 < row.wall_s < 1100 for row in found) and all(
        row.wall_s < 100 for row in expected
    )
    assert json.loads((tmp_path / "killed/out/report/training.json").read_text())["wall_s"] > 1000


def test_early_stopping_survives_a_kill(tmp_path, monkeypatch):
    """The kill comes while the checkpoint is written."""
    success = type("Result", (), {"success": True, "wrong_object": False})
    monkeypatch.setattr(TrainingLoop, "_evaluate", lambda self: [success])
    options = {"evaluate_every": 2, "stop_at": 0.9}
    complete = TrainingLoop._save

    def killed(self, out):
        if out == self._out:
            raise Killed
        complete(self, out)

    monkeypatch.setattr(TrainingLoop, "_save", killed)
    with pytest.raises(Killed):
        loop_of(a_run(tmp_path, **options)).go()
    monkeypatch.setattr(TrainingLoop, "_save", complete)
    loop_of(a_run(tmp_path, **options)).go()
    assert trained_steps(tmp_path) == {"out": 2}


@pytest.mark.parametrize(
    ("save_every", "cure"), [(1, "the state of the run is saved"), (4, "start again")]
)
def test_a_full_disk_at_a_checkpoint_gives_one_sentence_and_loses_nothing(
    save_every, cure, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_loop, "plot_curves", full)
    with pytest.raises(TrainingError, match=f"No space left on device; {cure}"):
        loop_of(a_run(tmp_path, save_every=save_every)).go()
    assert (tmp_path / "out.resume.pt").exists() == (save_every == 1)
    monkeypatch.undo()
    loop_of(a_run(tmp_path, save_every=save_every)).go()
    assert trained_steps(tmp_path)["out"] == STEPS


def test_training_from_a_checkpoint_continues_with_its_projector(tmp_path, capsys):
    loop_of(a_run(tmp_path / "first")).go()
    first = tmp_path / "first/out"
    kept = load_file(first / "report/alignment.safetensors")
    more = a_run(tmp_path / "more", student_weights=first)
    for name, value in more.training.alignment.state_dict().items():
        assert torch.equal(value, kept[name])
    loop_of(more)
    assert (
        f"projector: continues from {first}/report/alignment.safetensors" in capsys.readouterr().out
    )
    other = a_run(tmp_path / "other", student_weights=first, control="mean")
    assert (
        other.projector_origin
        == f"projector: starts from random weights, that of {first} was for teacher pointmap,"
        " student layer 2"
    )
    assert not torch.equal(
        other.training.alignment.state_dict()["projector.out.weight"], kept["projector.out.weight"]
    )
    (first / "report/alignment.safetensors").write_bytes(b"broken")
    assert a_run(tmp_path / "broken", student_weights=first).projector_origin.endswith(
        "cannot be read"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"evaluate_every": 300},
            "--evaluate-every: must be a multiple of --validate-every 200, got 300",
        ),
        (
            {"evaluate_every": -200},
            "--evaluate-every: must be a multiple of --validate-every 200, got -200",
        ),
        ({"stop_at": 0.9}, "--stop-at 0.9: needs --evaluate-every"),
    ],
)
def test_evaluations_that_would_never_run_are_refused(change, message):
    with pytest.raises(TrainingError, match=message):
        Settings(data=Path("data"), out=Path("out"), **change)


def test_a_complete_checkpoint_exists_at_every_moment(tmp_path):
    """This holds for a robot that loads during replacement, and after a kill."""
    run = a_run(tmp_path, 2)
    loop_of(run).go()
    out, seen, ended = tmp_path / "out", [], threading.Event()

    def look():
        while not ended.is_set():
            seen.append(os.path.exists(out / "config.json"))

    thread = threading.Thread(target=look)
    thread.start()
    again = loop_of(a_run(tmp_path / "again", 2))
    for _ in range(30):
        again._save(out)
    ended.set()
    thread.join()
    assert len(seen) > 100 and all(seen)
