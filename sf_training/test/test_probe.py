"""Tests of the depth probe: what its heads can predict, its figures, and the command."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import tiny_contract, write_episode

from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.backbones.tiny import FAMILIES, tiny_hf, tiny_pi0
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation
from sf_training.spatial_forcing.depth_cells import DepthError, DepthTask, depth_cells
from sf_training.spatial_forcing.depth_head import DptHead, LinearHead, StateHead
from sf_training.spatial_forcing.frozen_tokens import frozen_tokens, random_twin, rgb_tokens
from sf_training.spatial_forcing.probe import main
from sf_training.spatial_forcing.probe_report import (
    MEAN_IMAGE,
    RANDOM,
    RGB,
    STATE,
    row_names,
    trained_how,
)

CONTRACT = tiny_contract()
SIZES = {"cameras": 2, "state_size": len(state_names(CONTRACT)), "action_size": 4, "horizon": 8}
GRID, CELLS = (2, 3), (4, 6)  # each token encodes 2x2 cells


def test_cells_are_means_of_valid_pixels():
    depth = np.ones((1, 4, 4), np.float32)
    depth[0, :2, :2] = [[1.0, 3.0], [np.nan, 9.0]]  # two of four are valid: half is enough
    depth[0, 2:, 2:] = [[0.0, 2.0], [np.nan, 9.0]]  # one is valid
    found = depth_cells(depth, (2, 2), 0.5, 5.0)
    np.testing.assert_allclose(found[0], [[2.0, 1.0], [1.0, np.nan]])


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_pixel_lies_in_one_cell_whatever_the_sizes(height, width, rows, columns, seed):
    depth = np.random.default_rng(seed).uniform(0.5, 2.0, (height, width)).astype(np.float32)
    found = depth_cells(depth, (rows, columns), 0.0, 10.0)
    y, x = (np.arange(side) * cells // side for side, cells in ((height, rows), (width, columns)))
    expected = [
        [depth[np.ix_(y == row, x == column)].mean() for column in range(columns)]
        for row in range(rows)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def scenes(frames: int, seed: int, look: str = "own"):
    """Return tokens (F, 2, 2, 3, 5), depth cells linear in them, states, episodes of five frames.

    ``look``: whether a cell depends on its own token, or on the token to the right of it.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(frames, 2, *GRID, 5)).astype(np.float32)
    weights = np.random.default_rng(9).normal(size=(2, 5, 4)) * 0.1
    source = tokens if look == "own" else np.roll(tokens, -1, axis=3)
    by_token = np.einsum("fvrcd,vdk->fvrck", source, weights).reshape(frames, 2, *GRID, 2, 2)
    ramp = np.linspace(0.5, 1.0, CELLS[1])
    depth = by_token.transpose(0, 1, 2, 4, 3, 5).reshape(frames, 2, *CELLS) + 1.5 + ramp
    return tokens, depth.astype(np.float32), rng.normal(size=(frames, 4)), np.arange(frames) // 5


def explained(
    task: DepthTask, predicted: np.ndarray, depth: np.ndarray, episodes: np.ndarray
) -> float:
    floor = DepthError.of(np.broadcast_to(task.mean, depth.shape), depth, episodes)
    return float(DepthError.of(task.depth(predicted), depth, episodes).explained(floor).mean())


def fit(kind: str, look: str = "own", hide: bool = False) -> dict[str, float]:
    """Return the share of the squared error that a head explains on new frames.

    It is computed from informative tokens and from noise.
    """
    tokens, depth, states, episodes = scenes(200, 0, look)
    if hide:
        depth[np.random.default_rng(3).random(depth.shape) < 0.2] = np.nan
    task = DepthTask.of(depth, GRID)
    residuals, choosing = task.residuals(depth).astype(np.float32), episodes % 10 == 0
    new_tokens, new_depth, new_states, new_episodes = scenes(100, 1, look)
    found = {}
    sources = {"tokens": (tokens, new_tokens)}
    if kind == "linear":
        sources["noise"] = tuple(scenes(count, 7 + count)[0] for count in (200, 100))
    for name, (seen, new) in sources.items():
        head = (
            LinearHead(task, seen, residuals, choosing)
            if kind == "linear"
            else DptHead(task, seen, residuals, steps=150, seed=0)
        )
        found[name] = explained(task, head.predict(new), new_depth, new_episodes)
    state = StateHead(states, residuals, choosing).predict(new_states)
    return found | {"state": explained(task, state, new_depth, new_episodes)}


def test_a_linear_head_predicts_linear_depth_and_nothing_from_noise():
    found = fit("linear")
    assert found["tokens"] > 0.99  # less than 1 by the error of the mean image of 200 frames
    assert abs(found["noise"]) < 0.05 and abs(found["state"]) < 0.05


def test_a_linear_head_handles_missing_depth():
    found = fit("linear", hide=True)
    assert found["tokens"] > 0.9
    assert abs(found["noise"]) < 0.05


def test_only_the_dpt_head_uses_neighbours():
    assert abs(fit("linear", "neighbour")["tokens"]) < 0.1
    assert fit("dpt", "neighbour")["tokens"] > 0.3


def test_a_state_head_predicts_depth_that_follows_the_arm():
    _, depth, states, episodes = scenes(200, 0)
    depth = (1.0 + 0.1 * states[:, :1, None, None] + 0 * depth).astype(np.float32)
    task = DepthTask.of(depth, GRID)
    head = StateHead(
        states[:150], task.residuals(depth)[:150].astype(np.float32), episodes[:150] % 10 == 0
    )
    assert explained(task, head.predict(states[150:]), depth[150:], episodes[150:]) > 0.999


def test_the_mean_image_explains_nothing_and_the_truth_everything():
    _, depth, _, episodes = scenes(40, 0)
    task = DepthTask.of(depth, GRID)
    assert explained(task, np.zeros_like(depth), depth, episodes) == pytest.approx(0.0, abs=1e-9)
    assert explained(task, task.residuals(depth), depth, episodes) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(
        np.nanmean(np.square(task.residuals(depth)), axis=(0, 2, 3)), 1.0, rtol=1e-4
    )
    one = depth[:, 0]
    np.testing.assert_array_equal(task.by_image(task.by_token(one)), one)


def test_errors_are_over_measured_cells():
    truth = np.array(
        [[[[1.0, np.nan]]], [[[2.0, 4.0]]], [[[1.0, 1.0]]]]
    )  # three frames, one camera, two cells
    predicted = np.array([[[[1.5, 7.0]]], [[[2.0, 3.0]]], [[[1.0, 1.0]]]])
    error = DepthError.of(predicted, truth, np.array([0, 0, 4]))
    assert error.rmse()[0] == pytest.approx(np.sqrt((0.25 + 0 + 1 + 0 + 0) / 5))
    assert error.abs_rel()[0] == pytest.approx((0.5 + 0.25) / 5)
    assert error.rmse(np.array([1]))[0] == 0.0
    assert error.rmse(np.array([0, 0]))[0] == pytest.approx(np.sqrt(1.25 / 3))


def inputs(model, frames: int = 3):
    generator = torch.Generator().manual_seed(0)
    size = model.config.image_size
    size = (size, size) if isinstance(size, int) else size
    images = torch.randint(
        0, 256, (frames, 2, 3, *size), dtype=torch.uint8, generator=generator
    ).numpy()
    states = torch.randn(frames, SIZES["state_size"], generator=generator)
    texts = (
        model.words.encode(["go"] * frames)
        if model.words
        else torch.randn(frames, 384, generator=generator)
    )
    return images, states, texts


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_tokens_equal_those_of_the_alignment(layer):
    torch.manual_seed(0)
    model = Nano(NanoConfig(**SIZES, image_size=32, width=32, layers=3)).eval()
    images, states, texts = inputs(model)
    found = frozen_tokens(model, layer, images, states, texts)
    assert found.shape == (3, 2, 2, 2, 32)
    with torch.no_grad():
        _, tapped = model.encode(torch.from_numpy(images), states, texts, tap=layer)
    np.testing.assert_allclose(found.reshape(3, 8, 32), tapped.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["nano", "smolvlm", "pi0"])
def test_random_weights_depend_on_the_seed_and_do_not_change_the_model(kind):
    torch.manual_seed(0)
    if kind == "nano":
        model = Nano(NanoConfig(**SIZES, image_size=32, width=32, layers=3))
    else:
        model = tiny_pi0(columns=12, **SIZES) if kind == "pi0" else tiny_hf(kind, **SIZES)
    images, states, texts = inputs(model)
    before = torch.get_rng_state()
    own, first, again, other = (
        frozen_tokens(each.eval(), 2, images, states, texts)
        for each in (model, random_twin(model, 5), random_twin(model, 5), random_twin(model, 6))
    )
    assert torch.equal(torch.get_rng_state(), before)
    layout = model.visual_layout()
    assert own.shape == (3, 2, *layout.grid, layout.width)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, own)


@pytest.mark.parametrize("name", [*FAMILIES, "pi0"])
def test_random_weights_of_every_backbone_encode_the_image(name):
    """Some backbones have parts initialized with zeros, which would make all images look alike."""
    torch.manual_seed(0)
    twin = random_twin(
        tiny_pi0(columns=12, **SIZES) if name == "pi0" else tiny_hf(name, **SIZES), 5
    )
    images, states, texts = inputs(twin)
    layout = twin.visual_layout()
    first, other, _ = frozen_tokens(
        twin, len(layout.blocks), images, states[:1].expand(3, -1), texts
    )
    assert np.abs(first - other).max() > 1e-3 * np.abs(first).max()


def test_pixels_of_a_patch_stay_together():
    images = np.zeros((1, 1, 3, 8, 12), np.uint8)
    images[0, 0, :, 4:, 4:8] = 255
    tokens = rgb_tokens(images, (2, 3))
    assert tokens.shape == (1, 1, 2, 3, 48)
    assert (tokens[0, 0, 1, 1] == 1).all() and (tokens.sum((0, 1, 4)) == 48).sum() == 1
    assert rgb_tokens(np.zeros((1, 1, 3, 64, 64), np.uint8), (2, 2)).shape == (
        1,
        1,
        2,
        2,
        768,
    )  # large patches are downsampled


@pytest.mark.parametrize(
    ("training", "name"),
    [
        ({"settings": {"teacher": "none"}}, "no SF"),
        ({"settings": {"teacher": "pointmap"}}, "SF (pointmap)"),
        ({"settings": {"teacher": "mean"}}, "control mean"),
        ({"settings": {"teacher": "vggt", "control": "rgb"}}, "control rgb of vggt"),
        ({}, "folder"),
    ],
)
def test_checkpoints_are_named_by_how_they_were_trained(training, name):
    assert trained_how(training, "folder") == name


def test_only_runs_that_differ_in_the_seed_share_a_row():
    def run(**settings):
        return {"settings": {"teacher": "pointmap", "alignment": {"layer": 2}, **settings}}

    training = [
        run(seed=0, out="a"),
        run(seed=1, out="b"),
        run(seed=0, out="c", alignment={"layer": 3}),
        run(seed=0, out="d", teacher="none"),
        {},
    ]
    assert row_names(training, list("abcde")) == [
        "SF (pointmap), alignment.layer 2",
        "SF (pointmap), alignment.layer 2",
        "SF (pointmap), alignment.layer 3",
        "no SF",
        "e",
    ]
    assert row_names(training[:2], list("ab")) == ["SF (pointmap)"] * 2


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Write eight episodes whose depth and brightness increase together, frame by frame."""
    folder = tmp_path_factory.mktemp("bags")
    for number in range(8):
        write_episode(folder, CONTRACT, f"episode_{number}", frames=6)
    return folder


def checkpoint(folder, teacher: str, seed: int, layer: int = 2, share: float = 0.3, **sizes):
    torch.manual_seed(seed)
    model = Nano(NanoConfig(**SIZES, **{"image_size": 32, "width": 32, "layers": 3} | sizes))
    rng = np.random.default_rng(0)
    normalisation = Normalisation.from_data(
        rng.normal(size=(9, SIZES["state_size"])),
        rng.normal(size=(9, 8, 4)).astype(np.float32),
        rng.normal(size=(9, 384)),
        CONTRACT.columns.action.grippers,
    )
    training = {
        "settings": {
            "teacher": teacher,
            "seed": seed,
            "alignment": {"layer": layer},
            "validation_share": share,
        }
    }
    save_checkpoint(folder / f"{teacher}_{seed}", model, CONTRACT, normalisation, training)
    return str(folder / f"{teacher}_{seed}")


def test_the_command_writes_a_table_with_controls(bags, tmp_path, capsys):
    paths = [
        checkpoint(tmp_path, teacher, seed) for teacher in ("none", "pointmap") for seed in (0, 1)
    ]
    words = [
        "--data",
        str(bags),
        "--checkpoints",
        *paths,
        "--out",
        str(tmp_path / "out"),
        "--farthest",
        "20",
        "--cells",
        "2",
    ]
    assert (
        main([*words, "--heads", "linear", "dpt", "--dpt-steps", "3", "--seeds", "0", "1", "2"])
        == 0
    )
    found = json.loads((tmp_path / "out/probe.json").read_text())
    assert (found["layer"], found["train"]["episodes"], found["held_out"]["episodes"]) == (2, 6, 2)
    for head in ("linear", "dpt"):
        rows = found["heads"][head]
        assert [
            len(rows[name]["members"])
            for name in (MEAN_IMAGE, STATE, RGB, RANDOM, "no SF", "SF (pointmap)")
        ] == [1, 1, 1, 3, 2, 2]
        assert rows[MEAN_IMAGE]["explained"] == {"scene": 0.0, "wrist": 0.0}
        assert rows[STATE]["explained"]["scene"] > 0.99  # the arm moves as the depth does
        assert rows["SF (pointmap)"]["explained_more_than_no_sf_interval_95"].keys() == {
            "scene",
            "wrist",
        }
        assert (tmp_path / f"out/probe_{head}.png").stat().st_size > 10_000
    assert found["heads"]["linear"][RGB]["explained"]["scene"] > 0.99
    # Depth is 1 to 6 m, equal in all cells; the error of the mean image is its standard deviation.
    assert found["heads"]["linear"][MEAN_IMAGE]["rmse_m"]["scene"] == pytest.approx(
        np.std([1, 2, 3, 4, 5, 6]), abs=1e-3
    )
    table = (tmp_path / "out/probe.md").read_text()
    assert "| random weights | 3 |" in table and "2 held-out ones" in table
    assert "SF (pointmap)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layer", "9"], "--layer: the model has 3 blocks, so 0 to 3, got 9"),
        (
            ["--farthest", "0.5"],
            "--nearest, --farthest: no depth in the data lies between 0.02 and 0.5 m",
        ),
        (["--data", "nowhere"], "nowhere"),
        (["--checkpoints", "nowhere"], "nowhere: no such checkpoint directory"),
        (["--validation-share", "1.5"], "--validation-share: must lie between 0 and 1, got 1.5"),
    ],
)
def test_bad_input_gives_one_sentence(bags, tmp_path, capsys, more, message):
    path = checkpoint(tmp_path, "none", 0)
    assert (
        main(["--data", str(bags), "--checkpoints", path, "--out", str(tmp_path / "out"), *more])
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("probe: ") and message in error and error.count("\n") == 1


def test_checkpoints_that_cannot_be_compared_are_refused(bags, tmp_path, capsys):
    one, other = checkpoint(tmp_path, "none", 0), checkpoint(tmp_path, "pointmap", 0, width=48)
    assert main(["--data", str(bags), "--checkpoints", one, other]) == 2
    assert "is not built or trained like" in capsys.readouterr().err


def test_no_checkpoint_is_evaluated_on_its_training_episodes(bags, tmp_path):
    paths = [
        checkpoint(tmp_path, "none", 0, share=0.4),
        checkpoint(tmp_path, "pointmap", 1, share=0.2),
    ]
    assert (
        main(
            [
                "--data",
                str(bags),
                "--checkpoints",
                *paths,
                "--out",
                str(tmp_path / "out"),
                "--farthest",
                "20",
            ]
        )
        == 0
    )
    found = json.loads((tmp_path / "out/probe.json").read_text())
    one = [
        "--data",
        str(bags),
        "--checkpoints",
        paths[1],
        "--out",
        str(tmp_path / "one"),
        "--farthest",
        "20",
    ]
    assert main(one) == 0
    assert found["held_out"] == json.loads((tmp_path / "one/probe.json").read_text())["held_out"]


def test_checkpoints_aligned_at_different_layers_need_an_option(bags, tmp_path, capsys):
    paths = [checkpoint(tmp_path, "pointmap", 0), checkpoint(tmp_path, "pointmap", 1, layer=3)]
    assert main(["--data", str(bags), "--checkpoints", *paths, "--out", str(tmp_path / "out")]) == 2
    assert (
        "--layer: the checkpoints were aligned at different layers (2, 3); name one"
        in capsys.readouterr().err
    )


def test_episodes_without_depth_are_refused(tmp_path, capsys):
    for name in "ab":
        write_episode(tmp_path / "bags", CONTRACT, name, frames=2, depth=False)
    assert (
        main(["--data", str(tmp_path / "bags"), "--checkpoints", checkpoint(tmp_path, "none", 0)])
        == 2
    )
    assert (
        "the episodes hold no depth, which the probe needs as truth; record depth"
        in capsys.readouterr().err
    )


def test_a_single_file_is_data_and_its_faults_are_reported(bags, tmp_path, capsys):
    file = shutil.copy(next((bags / "episode_0").glob("*.mcap")), tmp_path / "take.mcap")
    words = ["--checkpoints", checkpoint(tmp_path, "none", 0), "--out", str(tmp_path / "out")]
    assert main(["--data", str(file), *words]) == 2
    assert "take.mcap: 1 episode; the probe needs some for fitting" in capsys.readouterr().err
    for name in ("a", "b"):
        write_episode(tmp_path / "two", CONTRACT, name, frames=2)
    broken = next((tmp_path / "two/b").glob("*.mcap"))
    broken.write_bytes(broken.read_bytes()[:2000])
    assert main(["--data", str(tmp_path / "two"), *words]) == 2
    assert "left out: " in capsys.readouterr().out
    assert main(["--data", str(tmp_path / "two"), *words, "--strict"]) == 2
    assert "is truncated or damaged" in capsys.readouterr().err
