"""Tests of the trainer in separate processes: several, sharded, killed, full disk."""

import json
import multiprocessing
import os
import socket
import sys
import time
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
import training_process
from safetensors.torch import load_file
from training_process import make_run

from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.training.settings import TrainingError

STEPS = 6
# Training processes are forked from a process that has imported all modules, which takes 6 s of
# processor time. test_train_command.py starts some with torchrun.
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def _preloaded():
    FORKS.set_forkserver_preload(["training_process"])
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 does not give its own sys.path to the server.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


class Training:
    """A training in one or several processes, with its output in files of ``folder``."""

    def __init__(
        self, folder: Path, name: str, *words: str, processes: int = 1, steps: int = STEPS
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes = []
        for rank in range(processes):
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            process = FORKS.Process(
                target=training_process.run_forked,
                args=(folder, rank, variables if processes > 1 else {}, name, steps, *words),
            )
            process.start()
            self._processes.append(process)

    @property
    def runs(self) -> bool:
        return any(process.is_alive() for process in self._processes)

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def finish(self) -> np.ndarray:
        """Wait until it has ended well; return its losses (see :func:`losses`)."""
        deadline = time.monotonic() + PATIENCE_S
        for process in self._processes:
            process.join(deadline - time.monotonic())
        ended = [process.exitcode for process in self._processes]
        self.kill()
        if any(code != 0 for code in ended):
            raise RuntimeError(f"exit codes {ended}: {self._read('err')[-2000:]}")
        return self.losses()

    def losses(self) -> np.ndarray:
        """Return losses (steps, 3) of action, alignment and validation."""
        lines = self._read("out").splitlines()
        return np.array([json.loads(line)[1:] for line in lines if line.startswith("[")])

    def weights(self) -> dict:
        return torch.load(self.folder / "weights.pt", weights_only=True)

    def _read(self, ending: str) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"*.{ending}")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return losses and final weights of a training; the same training is run only once."""

    @cache
    def train(name: str, *words: str, processes: int = 1) -> tuple[np.ndarray, dict]:
        run = Training(tmp_path_factory.mktemp(name), name, *words, processes=processes)
        return run.finish(), run.weights()

    return train


LORA = 'student_train_language="lora"'
VALIDATES = "validates=true"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nano", ('head="flow"',)),
        ("smolvlm", ("fsdp=true", LORA)),
        ("pi0", ("fsdp=true", LORA)),
    ],
    ids=["nano flow", "smolvlm sharded with adapters", "pi0 sharded with adapters"],
)
def test_two_processes_train_like_one(trained, name, words):
    """This includes validation between steps, where the average replaces sharded weights."""
    alone = [word for word in words if word != "fsdp=true"]
    one, one_weights = trained(name, *alone, VALIDATES)
    two, two_weights = trained(name, *words, VALIDATES, processes=2)
    np.testing.assert_allclose(two, one, rtol=2e-4)
    assert one_weights.keys() == two_weights.keys()
    for key, weight in one_weights.items():
        torch.testing.assert_close(two_weights[key], weight, rtol=5e-3, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smolvlm", ('student_train_vision="lora"', LORA)),
        ("pi0", ("fsdp=true", LORA)),  # has adapters that no loss reaches
    ],
    ids=["adapters", "pi0 sharded with adapters"],
)
def test_a_killed_run_resumes_with_identical_results(trained, tmp_path, name, words):
    processes = 2 if "fsdp=true" in words else 1
    words = (*words, VALIDATES)
    full, weights = trained(name, *words, processes=processes)
    killed = Training(tmp_path, name, *words, "seconds_per_step=1.0", processes=processes)
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "resume.pt").exists() and time.monotonic() < deadline and killed.runs:
        time.sleep(0.02)
    killed.kill()
    first = killed.losses()
    assert 3 <= len(first) < STEPS
    resumed = Training(tmp_path, name, *words, processes=processes)
    rest = resumed.finish()
    assert len(rest) == STEPS - 3  # the state was saved after step 3
    tolerance = {"rtol": 1e-5} if processes > 1 else {"rtol": 0}  # the order of gloo's sums differs
    np.testing.assert_allclose(np.concatenate([first[:3], rest]), full, **tolerance)
    for key, weight in resumed.weights().items():
        torch.testing.assert_close(
            weight,
            weights[key],
            rtol=1e-4 if processes > 1 else 0,
            atol=1e-6 if processes > 1 else 0,
        )


@pytest.mark.slow
def test_sharded_processes_give_the_checkpoint_of_one(tmp_path):
    """This includes its report, and the projector for continued training."""
    found = []
    for name, words, processes in (("one", (), 1), ("two", ("fsdp=true",), 2)):
        folder = tmp_path / name
        words = ("loop=true", "validate_every=2", *words)
        Training(folder, "smolvlm", *words, processes=processes).finish()
        out = folder / "out"
        assert len((out / "report/curves.csv").read_text().splitlines()) == 1 + STEPS // 2
        found.append(
            load_file(out / "model.safetensors") | load_file(out / "report/alignment.safetensors")
        )
    assert found[0].keys() == found[1].keys()
    for key, weight in found[0].items():
        torch.testing.assert_close(found[1][key], weight, rtol=5e-3, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"), [("pi0", ()), ("smolvlm", ("fsdp=true",))], ids=["pi0", "sharded"]
)
def test_training_in_bfloat16_is_close_to_float32(trained, name, words):
    exact, _ = trained(name, LORA, VALIDATES)
    rounded, weights = trained(
        name, LORA, VALIDATES, *words, 'precision="bf16"', processes=2 if words else 1
    )
    np.testing.assert_allclose(rounded[:, :2], exact[:, :2], rtol=0.05)
    assert (rounded[:, :2] != exact[:, :2]).any(0).all()
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {
        torch.float32
    }


def test_a_run_does_not_resume_with_other_episodes(tmp_path):
    run, other = (make_run("nano", tmp_path, STEPS, read_ahead=0) for _ in range(2))
    run.save_state(tmp_path / "resume.pt")
    other.data = replace(other.data, digest="others")
    with pytest.raises(TrainingError, match="the episodes in --data have changed since"):
        other.load_state(tmp_path / "resume.pt")


def test_batch_statistics_of_a_partial_batch_are_refused(tmp_path):
    with pytest.raises(
        TrainingError, match=r"--alignment.norm batch: its statistics would cover one of 2"
    ):
        make_run("nano", tmp_path, STEPS, accumulate=2, alignment=AlignmentConfig(norm="batch"))


@pytest.mark.parametrize("name", ["nano", "smolvlm", "pi0"])
def test_gradient_accumulation_gives_the_step_of_the_full_batch(tmp_path, name):
    head = {"head": "flow"} if name != "smolvlm" else {}
    full = make_run(name, tmp_path / "whole", STEPS, **head)
    parts = make_run(name, tmp_path / "parts", STEPS, accumulate=2, **head)
    for _ in range(3):
        for run in (full, parts):
            run.train_step()
        one, other = full.progress(), parts.progress()
        assert other.action_loss == pytest.approx(one.action_loss, rel=1e-3)
        assert other.alignment_loss == pytest.approx(one.alignment_loss, rel=1e-3)
    for run in (full, parts):
        run.close()


def test_prefetching_does_not_change_the_result(tmp_path):
    runs = [make_run("nano", tmp_path / str(ahead), STEPS, read_ahead=ahead) for ahead in (0, 3)]
    found = []
    for run in runs:
        for _ in range(4):
            run.train_step()
        run.save_state(tmp_path / "state.pt")
        found.append(run.progress().action_loss)
        run.close()
    assert found[0] == found[1]


def test_a_full_disk_is_reported_and_the_previous_state_remains(tmp_path):
    """A limit on the size of a file acts like a full disk."""
    run = make_run("nano", tmp_path, STEPS)
    run.train_step()
    run.save_state(tmp_path / "resume.pt")
    run.close()
    before = (tmp_path / "resume.pt").read_bytes()
    training = Training(tmp_path, "nano", "largest_file=100000")
    with pytest.raises(
        RuntimeError, match=r"(?s)state of the run cannot be written.*free disk space"
    ):
        training.finish()
    assert (tmp_path / "resume.pt").read_bytes() == before
    assert not (tmp_path / "resume.new").exists()
