"""Tests of `cache`: it computes the teacher's features once, where `train` reads them."""

import shutil

import pytest
from safetensors.torch import save_file
from seeded_weights import vggt_weights
from synthetic_episodes import tiny_contract, write_episode

from sf_training.recording.labels import add_label
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.training.cache_features import main
from sf_training.training.train import main as train


@pytest.fixture
def case(tmp_path):
    for number in range(2):
        write_episode(tmp_path / "bags", tiny_contract(), f"episode_{number}")
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    (tmp_path / "LICENSE").write_text("Somebody's licence\n")
    return tmp_path


def teacher(case, *more: str) -> list[str]:
    options = [
        "--data",
        case / "bags",
        "--teacher",
        "vggt",
        "--teacher-weights",
        case,
        "--teacher-size",
        56,
        "--teacher-channels",
        16,
    ]
    return [*map(str, options), *more]


def test_features_are_stored_where_training_reads_them(case, capsys):
    assert main(teacher(case)) == 0
    output = capsys.readouterr().out
    folder = next((case / "bags/.cache").glob("features-*"))
    assert (
        f"{folder}: " in output.replace("\n", "")
        and "10 frames of 2 cameras, 6x6 patches, 16 channels" in output
    )
    assert "licence of its weights: Somebody's licence" in output
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.features")}
    assert len(before) == 2

    assert main(teacher(case)) == 0  # everything is cached
    run = [
        "--out",
        str(case / "nano"),
        "--steps",
        "2",
        "--width",
        "32",
        "--layers",
        "2",
        "--validation-share",
        "0.5",
    ]
    assert train(teacher(case, *run)) == 0
    assert [path.name for path in (case / "bags/.cache").glob("features-*")] == [folder.name]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.features")} == before
    assert (case / "nano/model.safetensors").exists()


@pytest.fixture
def ran(monkeypatch):
    """Record the number of frames in each call of the teacher."""
    found = []
    features = VggtTeacher.features
    monkeypatch.setattr(
        VggtTeacher,
        "features",
        lambda self, images, present=None: (
            found.append(len(images)) or features(self, images, present)
        ),
    )
    return found


@pytest.mark.parametrize("channels", [[], ["--teacher-channels", "0"]])
def test_one_more_episode_costs_only_its_own_frames(case, ran, channels, capsys):
    """A new name of a folder and a new instruction cost nothing."""

    def frames_computed() -> int:
        ran.clear()
        assert main(teacher(case, *channels)) == 0
        return sum(ran)

    assert frames_computed() == (10 if channels else 2 * 10)  # once for the channels
    write_episode(case / "bags", tiny_contract(), "a_third", frames=3)
    assert frames_computed() == 3
    assert "13 frames of 2 cameras" in capsys.readouterr().out
    (case / "bags/episode_1").rename(case / "bags/0_first")
    add_label(case / "bags/0_first", instruction="lift the cube")
    assert frames_computed() == 0
    (folder,) = (case / "bags/.cache").glob("features-*")
    file = max(folder.glob("*.features"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    assert frames_computed() == 5
    shutil.rmtree(case / "bags/0_first")
    assert frames_computed() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--teacher", "pointmap"],
            "--teacher pointmap: is computed when training starts and not saved; take vggt",
        ),
        (["--teacher", "none"], "--teacher none: is computed when training starts and not saved"),
        (["--teacher", "vggt", "--teacher-weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (
            ["--teacher", "vggt", "--teacher-weights", "w", "--cache-format", "none"],
            "--cache-format none: saves nothing; take float16",
        ),
    ],
)
def test_features_that_cannot_be_cached_give_one_sentence(case, options, message):
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(case / "bags"), *options])
    output = str(ended.value)
    assert output.startswith("cache: ") and message in output and len(output.splitlines()) == 1


def test_without_a_cache_the_teacher_runs_in_every_step(case, ran):
    run = ["--out", case / "nano", "--steps", 3, "--width", 32, "--layers", 2]
    run += ["--validation-share", 0.5, "--cache-format", "none", "--teacher-channels", 0]
    assert train(teacher(case, *map(str, run))) == 0
    assert len(ran) == 3 and not list((case / "bags/.cache").glob("features-*"))
