"""``ros2 run sf_training train``: from recorded episodes to a checkpoint with its report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.motion.limits import require_limits
from sf_policy_node.vla.checkpoint import CheckpointError, save_checkpoint
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.text import text_encoder
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError
from sf_training.data.split import split_episodes
from sf_training.spatial_forcing.alignment import AlignmentError
from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.training.alignment_targets import alignment_targets
from sf_training.training.curves import Curves, Row, plot_curves
from sf_training.training.loop import TrainingRun
from sf_training.training.settings import Settings, TrainingError
from sf_training.training.training_set import TrainingSet, load_training_set

_EVALUATION_SEED = 900_000
IMAGE_SIZE = 96
PATCH = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    settings = parse(Settings, argv, "train")
    try:
        train(settings, Console())
    except (AlignmentError, BagError, CheckpointError, ContractError, FloatingPointError, TeacherError, TrainingError, OSError) as error:
        sys.exit(f"train: {error}")
    except KeyboardInterrupt:
        sys.exit("train: interrupted; start the same command again to resume from the last save")
    return 0


def train(settings: Settings, console: Console) -> None:
    """Train, or resume, one run. Raises the errors that :func:`main` turns into one sentence."""
    print_settings(settings, console)
    torch.set_flush_denormal(True)  # tiny second moments would slow a processor down many times
    recorded, data = load_training_set(settings.data, IMAGE_SIZE, console)
    contract = _robot_contract(settings, recorded)
    train_episodes, validation_episodes = split_episodes(int(data.episodes.max()) + 1, settings.validation_share, seed=0)
    labels, held_out = data.part(train_episodes), data.part(validation_episodes)
    console.print(
        f"{len(np.unique(data.episodes))} episodes, {len(data.images)} frames, {len(labels)} labels to train on, "
        f"{len(held_out)} held out, {len(data.texts)} different instructions",
        soft_wrap=True,
    )
    embeddings = text_encoder().encode(list(data.texts))
    normalisation = Normalisation.from_data(data.states, data.label_chunk[labels], embeddings, contract.action.names)
    targets = alignment_targets(settings, data, (IMAGE_SIZE // PATCH, IMAGE_SIZE // PATCH), console)
    run = TrainingRun(settings, contract, data, labels, normalisation, embeddings, targets)
    report = settings.out / "report"
    report.mkdir(parents=True, exist_ok=True)
    state = report / "resume.pt"
    if run.load_state(state):
        console.print(f"resuming at step {run.step}")
    _Session(settings, contract, data, run, held_out, report, state, console).go()


def _robot_contract(settings: Settings, recorded: Contract) -> Contract:
    """The robot's, whose limits may be newer than those in the bags."""
    contract = load_contract(settings.contract) if settings.contract else recorded
    if contract.hash != recorded.hash:
        difference = "; ".join(contract.difference(recorded)[:5])
        raise TrainingError(f"--contract: the bags were recorded with another one than {settings.contract} ({difference}); record again")
    if settings.evaluate_every:
        try:
            require_limits(contract)
        except ContractError as error:
            raise TrainingError(f"--evaluate-every: the simulated arm cannot move: {error}, or name the robot's --contract") from None
    return contract


class _Session:
    """One process's share of a run: the loop with its reports, saves and evaluations."""

    def __init__(self, settings, contract, data, run, held_out, report, state, console) -> None:
        self.settings: Settings = settings
        self.contract: Contract = contract
        self.run: TrainingRun = run
        self.held_out: np.ndarray = held_out
        self.report: Path = report
        self.state: Path = state
        self.console: Console = console
        self.data_hash = _data_hash(data)
        self.curves = Curves(report, run.step)
        self.started = time.monotonic()
        self.reached = False
        self._sim = None

    def go(self) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        steps, settings = self.settings.steps, self.settings
        try:
            with Progress(*columns, console=self.console) as bar:
                task = bar.add_task("", total=steps, completed=self.run.step)
                while self.run.step < steps and not self.reached:
                    self.run.train_step()
                    bar.update(task, completed=self.run.step)
                    if _due(settings.validate_every, self.run.step, steps):
                        self._report(evaluating=_due(settings.evaluate_every, self.run.step, steps))
                    if _due(settings.save_every, self.run.step, steps):
                        self.run.save_state(self.state)
            self._save()
        finally:
            self.curves.close()
            if self._sim:
                self._sim.close()
        self.state.unlink(missing_ok=True)
        self.console.print(f"checkpoint: {settings.out}   report: {self.report / 'curves.png'}")

    def _report(self, *, evaluating: bool) -> None:
        progress = self.run.progress()
        error, choice = self.run.validate(self.held_out)
        success = episodes = wrong = None
        if evaluating:
            results = self._evaluate()
            episodes = len(results)
            success = sum(result.success for result in results) / episodes
            wrong = sum(result.wrong_object for result in results)
            self.reached = bool(self.settings.stop_at) and success >= self.settings.stop_at
        row = Row(
            step=progress.step,
            cpu_s=round(progress.cpu_s, 2),
            wall_s=round(time.monotonic() - self.started, 1),
            action_loss=round(progress.action_loss, 5),
            cosine=None if progress.alignment_loss is None else round(1 - progress.alignment_loss, 5),
            validation_error=round(error, 6),
            validation_choice=round(choice, 4),
            success=success,
            episodes=episodes,
            wrong_object=wrong,
        )
        self.curves.add(row)
        parts = [f"step {row.step}", f"cpu {row.cpu_s:.0f} s", f"loss {row.action_loss:.4f}"]
        parts += [f"cosine {row.cosine:.3f}"] if row.cosine is not None else []
        parts += [f"validation {1000 * error:.1f} mm", f"right cube {choice:.0%}"]
        parts += [f"success {success:.0%} of {episodes}"] if success is not None else []
        self.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _evaluate(self) -> list:
        from sf_training.simulation.arm_sim import ArmSim
        from sf_training.simulation.rollout import run_episode

        self._sim = self._sim or ArmSim(self.contract)
        policy = Policy(self.run.average, self.contract, self.run.normalisation, policy_id=self.settings.out.name, device="cpu")
        count = self.settings.evaluation_episodes
        return [run_episode(self._sim, policy, _EVALUATION_SEED + number, cubes=2 + number % 2) for number in range(count)]

    def _save(self) -> None:
        facts = {
            "command": "train " + shlex.join(sys.argv[1:]),
            "settings": json.loads(json.dumps(dataclasses.asdict(self.settings), default=str)),
            "data_hash": self.data_hash,
            "steps": self.run.step,
            "cpu_s": round(self.run.cpu_s, 1),
            "torch": torch.__version__,
            "processor": platform.machine(),
        }
        plot_curves(
            self.curves.rows,
            self.report / "curves.png",
            f"{self.settings.out.name}: teacher {self.settings.teacher}, seed {self.settings.seed}",
        )
        (self.report / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        save_checkpoint(self.settings.out, self.run.average, self.contract, self.run.normalisation, facts)


def _due(count: int, step: int, last: int) -> bool:
    """Every ``count`` steps and at the last one; never when ``count`` is 0."""
    return bool(count) and (step % count == 0 or step == last)


def _data_hash(data: TrainingSet) -> str:
    digest = hashlib.sha256()
    for array in (data.states, data.episodes, data.label_frame, data.label_text, data.label_chunk):
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\n".join(data.texts).encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
