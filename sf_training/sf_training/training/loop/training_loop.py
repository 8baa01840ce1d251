"""The training loop of a run up to its checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import TimeElapsedColumn
from safetensors import SafetensorError

from sf_policy_node.contract import Contract
from sf_policy_node.vla.checkpoint import CheckpointError, save_checkpoint
from sf_policy_node.vla.policy import Policy
from sf_training.config_file import to_yaml
from sf_training.progress import ProgressBar
from sf_training.training.curves import Curves, Row, plot_curves
from sf_training.training.loop.run import TrainingRun
from sf_training.training.loop.state import OPERATIONAL_SETTINGS
from sf_training.training.loop.step_times import StepTimes
from sf_training.training.projector_file import save_projector
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.training_set import TrainingSet

_EVALUATION_SEED = 900_000


class TrainingLoop:
    """Trains a run, and reports and saves on the way.

    Only the main process writes and prints; every process has to call :meth:`go`.

    Args:
        run: new; it is resumed from its resume file where there is one.
        held_out: indices of the labels for validation.
        command: command line, written into the checkpoint.
        begin: start of the process (``time.monotonic()``) [s].

    Raises:
        TrainingError: Weights & Biases is requested but not installed, or ``out`` holds the
            checkpoint of another run.
    """

    def __init__(
        self,
        run: TrainingRun,
        contract: Contract,
        held_out: np.ndarray,
        console: Console,
        command: str,
        begin: float,
    ) -> None:
        self._run, self._contract, self._held_out = run, contract, held_out
        self._console, self._command, run.begin = console, command, begin
        self._settings = run.settings
        self._main = run.accelerator.is_main_process
        self._out = run.settings.out
        self._best_out = self._out.with_name(self._out.name + "-best")
        self._report = self._out / "report"
        # Beside the checkpoint, whose directory is replaced.
        self._state = self._out.with_name(self._out.name + ".resume.pt")
        (self._finished,) = self._agreed(
            self._main and not self._state.exists() and is_finished(run)
        )
        if self._finished:
            return
        if run.load_state(self._state):
            console.print(f"resuming at step {run.step}")
        elif run.projector_origin:
            console.print(run.projector_origin, highlight=False, soft_wrap=True)
        self._wandb = _open_wandb(run) if self._settings.wandb and self._main else None
        if self._main:
            self._report.mkdir(parents=True, exist_ok=True)
            (self._report / "settings.yaml").write_text(to_yaml(run.settings))
        run.accelerator.wait_for_everyone()
        self._curves = Curves(self._report, run.step) if self._main else None
        self._best = (
            max((merit for row in self._history.rows if (merit := _merit(row))), default=None)
            if self._main
            else None
        )
        self._times = StepTimes(run.batches.labels)
        self._sim: Any = None

    def go(self) -> None:
        """Train to the end and write the checkpoint."""
        if self._finished:
            self._console.print(
                f"{self._out}: this run is finished; give another --out to train again",
                highlight=False,
                soft_wrap=True,
            )
            return
        settings, run = self._settings, self._run
        steps, reached = settings.steps, self._agreed(self._main and self._is_reached())[0]
        try:
            with ProgressBar(
                "training", TimeElapsedColumn(), console=self._console, disable=not self._main
            ) as bar:
                task = bar.add_task("", total=steps, completed=run.step)
                while run.step < steps and not reached:
                    started = time.perf_counter()
                    run.train_step()
                    self._times.add(time.perf_counter() - started)
                    bar.update(task, completed=run.step)
                    if _due(settings.validate_every, run.step, steps):
                        reached = self._validate(
                            evaluating=_due(settings.evaluate_every, run.step, steps)
                        )
                    if _due(settings.save_every, run.step, steps):
                        run.save_state(self._state)
            self._save(self._out)
        finally:
            if self._curves:
                self._curves.close()
            if self._sim:
                self._sim.close()
            if self._wandb:
                self._wandb.finish()
        if self._main:
            self._state.unlink(missing_ok=True)
            # If the last step is the best one, an older "best" would mislead.
            if self._history.rows and _merit(self._history.rows[-1]) == self._best:
                shutil.rmtree(self._best_out, ignore_errors=True)
        self._print_speed()
        best = f"   best: {self._best_out}" if self._best_out.is_dir() else " (also the best)"
        self._console.print(
            f"checkpoint: {settings.out}{best}   report: {self._report / 'curves.png'}",
            highlight=False,
            soft_wrap=True,
        )

    def _print_speed(self) -> None:
        found = self._times.summary()
        if found["steps"]:
            self._console.print(
                f"{found['mean']:.4g} labels per second: {found['steps']} steps after"
                f" {found['warm_up_steps']} of warm-up; a step took {found['step_s_median']:.3g} s"
                f" (median), 95 % at most {found['step_s_95']:.3g} s",
                highlight=False,
                soft_wrap=True,
            )

    def _validate(self, *, evaluating: bool) -> bool:
        """Validate, report, and save a new best checkpoint; return whether the goal is reached."""
        progress = self._run.progress()
        error, choice = self._run.validate(self._held_out)
        results = self._evaluate() if evaluating else None
        if self._main:
            row = Row(
                step=progress.step,
                cpu_s=round(progress.cpu_s, 2),
                wall_s=round(self._run.wall_s, 1),
                action_loss=round(progress.action_loss, 5),
                cosine=(
                    None
                    if progress.alignment_loss is None
                    else round(1 - progress.alignment_loss, 5)
                ),
                validation_error=round(error, 6),
                validation_choice=round(choice, 4),
                success=(
                    None
                    if results is None
                    else sum(result.success for result in results) / len(results)
                ),
                episodes=None if results is None else len(results),
                wrong_object=(
                    None if results is None else sum(result.wrong_object for result in results)
                ),
            )
            self._history.add(row)
            if self._wandb:
                self._wandb.log(
                    {
                        name: value
                        for name, value in dataclasses.asdict(row).items()
                        if value is not None
                    },
                    step=row.step,
                )
            self._console.print(
                _in_words(row, self._unit, self._times.rate), highlight=False, soft_wrap=True
            )
        better, reached = self._agreed(
            self._main and self._is_best(), self._main and self._is_reached()
        )
        if better:
            self._save(self._best_out)
        return reached

    @property
    def _history(self) -> Curves:
        """Return the curves, which only the main process has."""
        assert self._curves is not None
        return self._curves

    @property
    def _unit(self) -> str:
        return "mm" if self._contract.action.space.startswith("ee") else "mrad"

    def _is_reached(self) -> bool:
        """Return whether this step reached ``stop_at``, also in a run resumed right after it."""
        rows = self._history.rows
        goal, row = self._settings.stop_at, rows[-1] if rows else None
        return bool(
            goal
            and row
            and row.step == self._run.step
            and row.success is not None
            and row.success >= goal
        )

    def _is_best(self) -> bool:
        merit = _merit(self._history.rows[-1])
        # Success outranks the validation error, so a run with evaluations is compared only there.
        if (
            merit is None
            or (self._best is not None and merit <= self._best)
            or (self._settings.evaluate_every and merit[0] < 0)
        ):
            return False
        self._best = merit
        return self._run.step < self._settings.steps  # the last one is saved anyway

    def _agreed(self, *choices: bool) -> list[bool]:
        """Return the main process's choices on every process."""
        if self._run.accelerator.num_processes == 1:
            return list(choices)
        values = torch.tensor(
            [float(self._main and choice) for choice in choices], device=self._run.device
        )
        return [bool(value) for value in self._run.accelerator.reduce(values, "sum")]

    def _evaluate(self) -> list | None:
        plain = self._run.averaged()
        if not self._main:
            return None
        from sf_training.simulation.arm_sim import ArmSim
        from sf_training.simulation.rollout import run_episode

        self._sim = self._sim or ArmSim(self._contract)
        policy = Policy(
            plain,
            self._contract,
            self._run.normalisation,
            policy_id=self._out.name,
            device=str(self._run.device),
        )
        count = self._settings.evaluation_episodes
        return [
            run_episode(self._sim, policy, _EVALUATION_SEED + number, cubes=2 + number % 2)
            for number in range(count)
        ]

    def _save(self, out: Path) -> None:
        """Write a checkpoint with the report up to now; every process has to call."""
        plain, projector = self._run.averaged(), self._run.projector()
        if not self._main:
            return
        facts = self._facts()
        title = (
            f"{self._out.name}: {self._settings.student.kind}, teacher {self._settings.teacher},"
            f" seed {self._settings.seed}"
        )
        try:
            plot_curves(self._history.rows, self._report / "curves.png", title, self._unit)
            (self._report / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
            if projector:
                save_projector(self._report, projector, self._settings)
            if out != self._out:  # both get the report
                shutil.copytree(
                    self._report,
                    out / "report",
                    ignore=shutil.ignore_patterns("tensorboard"),
                    dirs_exist_ok=True,
                )
            save_checkpoint(out, plain, self._contract, self._run.normalisation, facts)
        except (OSError, SafetensorError, CheckpointError) as error:
            cure = (
                "the state of the run is saved: start the same command again to resume"
                if self._state.exists()
                else "start again"
            )
            raise TrainingError(f"{error}; {cure}") from None

    def _held_out_episodes(self) -> list[str]:
        """Return the SHA-256 of the episodes for validation."""
        data = self._run.data
        episodes = np.unique(data.episodes[data.label_frame[self._held_out]])
        return [data.sources[number].checksum for number in episodes] if data.sources else []

    def _facts(self) -> dict:
        run = self._run
        return {
            "command": self._command,
            "settings": _as_saved(self._settings),
            "data_hash": _data_hash(run.data),
            "held_out_episodes": self._held_out_episodes(),
            "steps": run.step,
            "cpu_s": round(run.cpu_s, 1),
            "wall_s": round(run.wall_s, 1),
            "samples_per_s": self._times.summary(),
            "processes": run.accelerator.num_processes,
            "device": _device(run.device),
            "torch": torch.__version__,
        }


def _merit(row: Row) -> tuple[float, float] | None:
    """Return a sort key of an evaluation; larger is better."""
    if row.validation_error is None:
        return None
    return (-1.0 if row.success is None else row.success, -row.validation_error)


def _in_words(row: Row, unit: str, rate: float | None) -> str:
    """Return a line for the console; ``rate`` in labels per second, None where not measured."""
    parts = [f"step {row.step}", f"cpu {row.cpu_s:.0f} s", f"loss {row.action_loss:.4f}"]
    parts += [f"cosine {row.cosine:.3f}"] if row.cosine is not None else []
    if row.validation_error is not None:
        parts += [f"validation {1000 * row.validation_error:.1f} {unit}"]
    parts += (
        [f"instruction accuracy {row.validation_choice:.0%}"]
        if row.validation_choice == row.validation_choice
        else []
    )
    parts += [f"success {row.success:.0%} of {row.episodes}"] if row.success is not None else []
    parts += [f"{rate:.3g} labels/s"] if rate is not None else []
    return "  ".join(parts)


def _due(count: int, step: int, last: int) -> bool:
    """Return whether ``step`` is a multiple of ``count`` or the last one.

    Never when ``count`` is 0.
    """
    return bool(count) and (step % count == 0 or step == last)


def _device(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu ({platform.machine()})"
    )


def _open_wandb(run: TrainingRun) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise TrainingError(
            "--wandb: Weights & Biases is not installed; pip install wandb, or leave it out"
        ) from None
    return wandb.init(
        project=run.settings.wandb,
        name=run.settings.out.name,
        config=dataclasses.asdict(run.settings),
    )


def is_finished(run: TrainingRun) -> bool:
    """Return whether ``out`` holds the checkpoint that this run would write.

    Raises:
        TrainingError: ``out`` holds the checkpoint of another run.
    """
    out = run.settings.out
    if not (out / "config.json").exists():
        return False
    try:
        training = json.loads((out / "config.json").read_text())["training"]
        same = {
            name: value
            for name, value in training["settings"].items()
            if name not in OPERATIONAL_SETTINGS
        }
        wanted = {
            name: value
            for name, value in _as_saved(run.settings).items()
            if name not in OPERATIONAL_SETTINGS
        }
        other = (
            "settings"
            if same != wanted
            else "episodes"
            if training["data_hash"] != _data_hash(run.data)
            else ""
        )
    except (OSError, ValueError, KeyError, AttributeError):
        other = "settings"
    if other:
        raise TrainingError(
            f"--out {out}: holds the checkpoint of a run with other {other}; choose another, or"
            " delete it to train again"
        )
    return True


def _as_saved(settings: Settings) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def _data_hash(data: TrainingSet) -> str:
    if data.digest:
        return data.digest
    digest = hashlib.sha256()
    for array in (data.states, data.episodes, data.label_frame, data.label_text, data.label_chunk):
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\n".join(data.texts).encode())
    return digest.hexdigest()[:16]
