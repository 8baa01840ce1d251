"""Tests of `stats` with figures that can be counted by hand."""

import json

import numpy as np
import pytest
from synthetic_episodes import START, STEP, joints_at, tiny_contract, write_episode

from sf_training.data.stats import describe, main

CONTRACT = tiny_contract()


def test_episodes_frames_instructions_and_columns_are_counted(tmp_path, capsys):
    for number in range(2):
        write_episode(tmp_path / "bags", CONTRACT, f"good_{number}", frames=5)
    write_episode(tmp_path / "bags", CONTRACT, "bad", outcome="failure")
    out = tmp_path / "out/stats.json"
    assert main(["--data", str(tmp_path / "bags"), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "3 episodes (2 success, 1 failure)" in output
    assert "10 frames and 20 labels of successes" in output
    found = json.loads(out.read_text())
    assert found["instructions"] == {"pick the red cube": 10, "pick the green cube": 10}
    assert found["episodes"]["operators"] == {"test": 2}
    assert found["episodes"]["seconds"] == pytest.approx(2 * 4 * STEP, abs=0.01)
    # labels: 0 1 2 3 4 for red, 10 more for green
    action = found["action"]["x"]
    assert (action["min"], action["max"], action["mean"]) == (0.0, 14.0, 7.0)
    first, last = joints_at(START)[0], joints_at(START + 4 * STEP)[0]
    assert found["state"]["joint1"]["min"] == pytest.approx(first, abs=1e-6)
    assert found["state"]["joint1"]["max"] == pytest.approx(last, abs=1e-6)
    assert found["state"]["joint3"]["dead"] and not found["state"]["joint1"]["dead"]
    assert found["settings"]["data"] == str(tmp_path / "bags")
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_glitch_changes_the_extremes_but_not_the_quantiles():
    values = np.concatenate([np.linspace(0, 1, 999), [50.0]])[:, None]
    entry = describe(["x"], values)["x"]
    assert entry["max"] == 50.0 and entry["q99"] < 1.0 and entry["dead"] is False


def test_bad_input_gives_one_sentence(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path)])
    assert str(ended.value).startswith("stats: ") and "holds no episode" in str(ended.value)
    write_episode(tmp_path / "bags", CONTRACT, "bad", outcome="failure")
    with pytest.raises(SystemExit, match="stats: none of 1 episodes has the outcome success"):
        main(["--data", str(tmp_path / "bags")])
