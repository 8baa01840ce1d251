"""Tests of the trainer in separate processes: several, sharded, killed, full disk."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from training_process import make_run

from sf_policy_node.ros_testing import PATIENCE_S
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.training.settings import TrainingError

SCRIPT = Path(__file__).with_name("training_process.py")
STEPS = 6


def command(
    folder: Path, name: str, *words: str, processes: int = 1, steps: int = STEPS
) -> list[str]:
    start = (
        [sys.executable]
        if processes == 1
        else [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    )
    start += [] if processes == 1 else [f"--nproc_per_node={processes}"]
    return [*start, str(SCRIPT), str(folder), name, str(steps), *words]


def train(folder: Path, name: str, *words: str, processes: int = 1) -> tuple[np.ndarray, dict]:
    """Return losses (steps, 3) of action, alignment and validation, and the final weights."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command(folder, name, *words, processes=processes),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return losses(done.stdout), torch.load(folder / "weights.pt", weights_only=True)


def losses(text: str) -> np.ndarray:
    return np.array([json.loads(line)[1:] for line in text.splitlines() if line.startswith("[")])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nano", ('head="flow"',)),
        ("smolvlm", ("fsdp=true", 'student_train_language="lora"')),
        ("pi0", ("fsdp=true",)),
    ],
    ids=["nano flow", "smolvlm sharded with adapters", "pi0 sharded"],
)
def test_two_processes_train_like_one(tmp_path, name, words):
    """This includes validation between steps, where the average replaces sharded weights."""
    alone = [word for word in words if word != "fsdp=true"]
    one, one_weights = train(tmp_path / "one", name, *alone, "validates=true")
    two, two_weights = train(tmp_path / "two", name, *words, "validates=true", processes=2)
    np.testing.assert_allclose(two, one, rtol=2e-4)
    assert one_weights.keys() == two_weights.keys()
    for key, weight in one_weights.items():
        torch.testing.assert_close(two_weights[key], weight, rtol=5e-3, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smolvlm", ('student_train_vision="lora"', 'student_train_language="lora"')),
        (
            "pi0",
            ("fsdp=true", 'student_train_language="lora"'),
        ),  # has adapters that no loss reaches
    ],
    ids=["adapters", "pi0 sharded with adapters"],
)
def test_a_killed_run_resumes_with_identical_results(tmp_path, name, words):
    processes = 2 if "fsdp=true" in words else 1
    full, weights = train(tmp_path / "whole", name, *words, processes=processes)
    folder = tmp_path / "killed"
    folder.mkdir()
    slowly = command(folder, name, *words, "seconds_per_step=1.0", processes=processes)
    process = subprocess.Popen(slowly, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while (
        not (folder / "resume.pt").exists()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    for each in [
        *psutil.Process(process.pid).children(recursive=True),
        process,
    ]:  # torchrun's workers have their own sessions
        each.kill()
    process.wait()
    first = losses(process.stdout.read())
    assert 3 <= len(first) < STEPS
    done = subprocess.run(
        command(folder, name, *words, processes=processes),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rest = losses(done.stdout)
    assert len(rest) == STEPS - 3  # the state was saved after step 3
    tolerance = {"rtol": 1e-5} if processes > 1 else {"rtol": 0}  # the order of gloo's sums differs
    np.testing.assert_allclose(np.concatenate([first[:3], rest]), full, **tolerance)
    for key, weight in torch.load(folder / "weights.pt", weights_only=True).items():
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
        (tmp_path / name).mkdir()
        start = command(
            tmp_path / name,
            "smolvlm",
            "loop=true",
            "validate_every=2",
            *words,
            processes=processes,
        )
        done = subprocess.run(start, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr[-2000:]
        out = tmp_path / name / "out"
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
def test_training_in_bfloat16_is_close_to_float32(tmp_path, name, words):
    exact, _ = train(tmp_path / "exact", name)
    rounded, weights = train(
        tmp_path / "rounded", name, *words, 'precision="bf16"', processes=2 if words else 1
    )
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
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
    code = (
        "import resource, sys; sys.argv = sys.argv[1:]; resource.setrlimit(resource.RLIMIT_FSIZE,"
        " (100_000, 100_000)); from training_process import main; from pathlib import Path;"
        " main(Path(sys.argv[0]), 'nano', 6)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=SCRIPT.parent
    )
    assert done.returncode != 0
    assert (
        "the state of the run cannot be written" in done.stderr and "free disk space" in done.stderr
    )
    assert (tmp_path / "resume.pt").read_bytes() == before
    assert not (tmp_path / "resume.new").exists()
