"""Tests of a teacher's features as an image, and of the table of teachers."""

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file
from seeded_weights import vggt_weights
from synthetic_episodes import tiny_contract, write_episode

from sf_training.spatial_forcing.teacher_view import main, principal_colours


def test_one_feature_is_one_colour_in_all_views():
    features = np.zeros((2, 3, 4, 8), np.float32)
    features[:, :, 2:, 1] = 5.0  # two kinds of patch, equal in both views
    features[:, 0, :, 3] = 1.0
    colours, kept = principal_colours(features)
    assert colours.shape == (2, 3, 4, 3) and kept == pytest.approx(1.0)
    np.testing.assert_allclose(colours[0], colours[1])
    assert np.abs(colours[0, 1, 0] - colours[0, 1, 3]).max() > 0.9
    np.testing.assert_allclose(colours[0, 1, 0], colours[0, 2, 1], atol=1e-6)


def test_the_command_writes_images_above_features(tmp_path, capsys):
    write_episode(tmp_path / "bags", tiny_contract(), "episode_0")
    save_file(vggt_weights(), tmp_path / "model.safetensors")
    (tmp_path / "LICENSE").write_text("Somebody's licence\n")
    out = tmp_path / "view.png"
    words = ["--teacher", "vggt", "--teacher-weights", tmp_path, "--teacher-size", 56]
    words += ["--data", tmp_path / "bags", "--out", out, "--frame", 2]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert "Somebody's licence" in shown and "2 views of 3x4 patches" in shown
    assert cv2.imread(str(out)).shape == (2 * 3 * 24, 2 * 3 * 32, 3)
    with pytest.raises(SystemExit, match="has no frame 999; lower --frame"):
        main([str(word) for word in (*words, "--frame", 999)])


def test_the_list_names_licences(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "Apache-2.0" in shown and "non-commercial" in shown
    with pytest.raises(SystemExit, match="--teacher-weights and --data: give both"):
        main(["--teacher", "hf"])
