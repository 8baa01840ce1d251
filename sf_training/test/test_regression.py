"""Tests of `regress`: exit codes, the rule for worse, and unusable baselines."""

import json
from dataclasses import replace

import numpy as np
import pytest
from constant_policy import constant_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import tiny_contract, write_episode

from sf_training.evaluation.chunk_errors import EpisodeErrors
from sf_training.evaluation.regression import main
from sf_training.evaluation.verdict import Tolerances, compare

CONTRACT = tiny_contract()
SHAPE = (CONTRACT.action.horizon, len(CONTRACT.action.names))
TOLERANCES = Tolerances(0.05, 0.5, {"m": 0.0005, "rad": 0.005, "opening": 0.01})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write two bags, and checkpoints that predict 7 (near the labels 0 to 14), 7.01 and 30."""
    folder = tmp_path_factory.mktemp("regress")
    for number in range(2):
        write_episode(folder / "bags", CONTRACT, f"episode_{number}", frames=3 + number)
    for name, value in (("good", 6.0), ("same", 6.0001), ("bad", 30.0)):
        constant_checkpoint(folder / name, CONTRACT, value)
    return folder


def run(files, *arguments: object, out: str = "result.json") -> int:
    return main(
        [
            "--bags",
            str(files / "bags"),
            "--out",
            str(files / out),
            "--device",
            "cpu",
            *map(str, arguments),
        ]
    )


def test_no_regression_against_itself_or_a_slightly_better_checkpoint(files, capsys):
    assert run(files, "--checkpoint", files / "good", "--baseline", files / "good") == 0
    assert "no regression" in capsys.readouterr().out
    assert run(files, "--checkpoint", files / "same", "--baseline", files / "good") == 0


def test_a_worse_checkpoint_exits_with_1_and_names_columns_and_episodes(files, capsys):
    assert run(files, "--checkpoint", files / "bad", "--baseline", files / "good") == 1
    output = capsys.readouterr().out
    assert "regression: column x: error " in output and "tolerance 5%" in output
    assert "regression: episode episode_1 ('pick the red cube')" in output
    found = json.loads((files / "result.json").read_text())
    # labels of the two episodes: 0 1 2 and 0 1 2 3, each once more plus 10
    labels = np.array([0, 1, 2, 0, 1, 2, 3])
    labels = np.concatenate([labels, labels + 10])
    assert found["columns"]["x"]["before"] == pytest.approx(np.abs(labels - 6).mean(), abs=1e-4)
    assert found["columns"]["x"]["now"] == pytest.approx((30 - labels).mean(), abs=1e-4)
    assert len(found["regressions"]) == 4 + 2
    assert (files / "result.png").stat().st_size > 10_000
    assert (
        run(
            files,
            "--checkpoint",
            files / "bad",
            "--baseline",
            files / "good",
            "--tolerance",
            "9",
            "--episode-tolerance",
            "9",
        )
        == 0
    )


def test_a_saved_result_replaces_its_checkpoint_as_the_baseline(files, capsys):
    assert run(files, "--checkpoint", files / "good", out="good.json") == 0
    assert run(files, "--checkpoint", files / "bad", "--baseline", files / "good.json") == 1
    assert run(files, "--checkpoint", files / "same", "--baseline", files / "good.json") == 0
    # a result may overwrite the baseline that it was compared with
    assert (
        run(
            files,
            "--checkpoint",
            files / "same",
            "--baseline",
            files / "good.json",
            out="good.json",
        )
        == 0
    )


def test_without_a_baseline_a_checkpoint_must_be_better_than_no_model(files, capsys):
    assert run(files, "--checkpoint", files / "good") == 0
    assert run(files, "--checkpoint", files / "bad") == 1
    assert "without any model" in capsys.readouterr().out


def test_unusable_baselines_exit_with_2_and_one_sentence(files, capsys):
    good = files / "good"
    assert run(files, "--checkpoint", good, out="whole.json") == 0
    full = json.loads((files / "whole.json").read_text())

    def broken(text: str) -> str:
        (files / "broken.json").write_text(text)
        capsys.readouterr()
        assert run(files, "--checkpoint", good, "--baseline", files / "broken.json") == 2
        output = capsys.readouterr().err
        assert output.startswith("regress: ") and len(output.splitlines()) == 1
        return output

    assert "is damaged" in broken("{")
    assert "is not a result of regress" in broken("{}")
    assert "is not a result of regress" in broken("[]")
    assert "this version reads 1" in broken(json.dumps(full | {"format": 7}))
    others = [each | {"checksum": "x"} for each in full["episodes"]]
    assert "has no episode in common" in broken(json.dumps(full | {"episodes": others}))
    others = [each | {"digest": "x"} for each in full["episodes"]]
    assert "other labels (the rules that make them have changed)" in broken(
        json.dumps(full | {"episodes": others})
    )
    assert run(files, "--checkpoint", good, "--baseline", files / "nowhere.json") == 2
    assert "give a checkpoint directory or a JSON" in capsys.readouterr().err
    other = constant_checkpoint(files / "other", tiny_contract(action={"step_s": 0.2}), 1.0)
    assert run(files, "--checkpoint", good, "--baseline", other) == 2
    assert "trained for another contract (action.step_s" in capsys.readouterr().err
    assert run(files, "--checkpoint", files / "no_such") == 2
    with pytest.raises(SystemExit) as ended:
        run(files, "--checkpoint", good, "--tolerance", "-1")
    assert ended.value.code == 2


def episode(name: str, value: float, labels: int = 10) -> EpisodeErrors:
    tables = {key: np.full(SHAPE, value) for key in ("policy", "stay", "keep moving")}
    return EpisodeErrors(name, name, "pick", "success", 5, labels, "d", tables)


@settings(deadline=None, max_examples=40)
@given(
    before=st.lists(st.floats(0, 1), min_size=1, max_size=6), growth=st.floats(0, 3), data=st.data()
)
def test_episodes_are_worse_exactly_by_the_documented_rule(before, growth, data):
    now = [value * (1 + data.draw(st.floats(0, growth))) for value in before]
    found = compare(
        CONTRACT,
        [episode(str(n), value) for n, value in enumerate(now)],
        [episode(str(n), value) for n, value in enumerate(before)],
        TOLERANCES,
    )
    for change, one, two in zip(found.episodes, now, before, strict=True):
        assert ("m" in change.worse) == (one - two > max(0.5 * two, 0.0005)) or np.isclose(
            one - two, max(0.5 * two, 0.0005)
        )
    mean_now, mean_before = np.mean(now), np.mean(before)
    assert found.columns[0].worse == (
        mean_now - mean_before > max(0.05 * mean_before, 0.0005)
    ) or np.isclose(mean_now - mean_before, max(0.05 * mean_before, 0.0005))
    assert bool(found.regressions) == (
        any(each.worse for each in found.columns) or any(each.worse for each in found.episodes)
    )


def test_episodes_without_a_counterpart_are_counted_and_excluded():
    found = compare(
        CONTRACT,
        [episode("a", 0.1), episode("b", 9.0)],
        [episode("a", 0.1), episode("c", 0.0)],
        TOLERANCES,
    )
    assert (
        found.left_out == 1
        and not found.regressions
        and [each.name for each in found.episodes] == ["a"]
    )


def test_a_change_that_may_be_chance_is_reported_as_such():
    before = [episode(str(n), 0.1) for n in range(6)]
    now = [
        replace(each, errors=episode("", 0.1 + (0.3 if n == 0 else -0.02)).errors)
        for n, each in enumerate(before)
    ]
    sentences = compare(CONTRACT, now, before, TOLERANCES).regressions
    assert "this may be chance: evaluate on more episodes" in sentences[0]
