"""`cache`: the teacher's features are computed once, in the place where `train` looks for them."""

import shutil

import pytest
from safetensors.torch import save_file
from seeded_weights import vggt_weights
from synthetic_episodes import tiny_contract, write_episode

from sf_training.recording.labels import add_label
from sf_training.spatial_forcing.vggt_teacher import VggtTeacher
from sf_training.training.cache_features import main
from sf_training.training.loop.run import _TIMED_STEPS
from sf_training.training.train import main as train


@pytest.fixture
def place(tmp_path):
    for number in range(2):
        write_episode(tmp_path / "bags", tiny_contract(), f"episode_{number}")
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    (tmp_path / "LICENSE").write_text("Somebody's licence\n")
    return tmp_path


def teacher(place, *more: str) -> list[str]:
    options = [
        "--data",
        place / "bags",
        "--teacher",
        "vggt",
        "--teacher-weights",
        place,
        "--teacher-size",
        56,
        "--teacher-channels",
        16,
    ]
    return [*map(str, options), *more]


def test_features_are_kept_where_training_finds_them(place, capsys):
    assert main(teacher(place)) == 0
    said = capsys.readouterr().out
    folder = next((place / "bags/.cache").glob("features-*"))
    assert (
        f"{folder}: " in said.replace("\n", "")
        and "10 frames of 2 cameras, 6x6 patches, 16 channels" in said
    )
    assert "licence of its weights: Somebody's licence" in said
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.features")}
    assert len(before) == 2

    assert main(teacher(place)) == 0  # there is nothing left to do
    run = [
        "--out",
        str(place / "nano"),
        "--steps",
        "2",
        "--width",
        "32",
        "--layers",
        "2",
        "--validation-share",
        "0.5",
    ]
    assert train(teacher(place, *run)) == 0
    assert [path.name for path in (place / "bags/.cache").glob("features-*")] == [folder.name]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.features")} == before
    assert (place / "nano/model.safetensors").exists()


@pytest.fixture
def ran(monkeypatch):
    """Number of frames in each call of the teacher."""
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
def test_one_more_episode_costs_its_own_frames_alone(place, ran, channels, capsys):
    """Nor does a new name of a folder or a new instruction cost anything."""

    def frames_computed() -> int:
        ran.clear()
        assert main(teacher(place, *channels)) == 0
        return sum(ran)

    assert frames_computed() == (10 if channels else 2 * 10)  # once to find the channels
    write_episode(place / "bags", tiny_contract(), "a_third", frames=3)
    assert frames_computed() == 3
    assert "13 frames of 2 cameras" in capsys.readouterr().out
    (place / "bags/episode_1").rename(place / "bags/0_first")
    add_label(place / "bags/0_first", instruction="lift the cube")
    assert frames_computed() == 0
    (folder,) = (place / "bags/.cache").glob("features-*")
    file = max(folder.glob("*.features"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    assert frames_computed() == 5
    shutil.rmtree(place / "bags/0_first")
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
def test_what_cannot_be_kept_is_one_sentence(place, options, message):
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(place / "bags"), *options])
    said = str(ended.value)
    assert said.startswith("cache: ") and message in said and len(said.splitlines()) == 1


def test_without_a_cache_the_time_of_the_teacher_is_measured(place, ran):
    """The same batch is measured several times; each time counts what a training step pays."""
    run = [
        "--out",
        str(place / "nano"),
        "--steps",
        "1",
        "--width",
        "32",
        "--layers",
        "2",
        "--validation-share",
        "0.5",
    ]
    assert train(teacher(place, "--cache-format", "none", "--teacher-channels", "0", *run)) == 0
    assert len(ran) >= _TIMED_STEPS + 1
