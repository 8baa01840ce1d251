"""Tests of open-loop evaluation: errors that can be computed by hand."""

import json

import numpy as np
import pytest
from constant_policy import constant_checkpoint, statistics, vision_language_model
from synthetic_episodes import STEP, image, tiny_contract, write_episode

from sf_policy_node.vla.policy import Policy
from sf_training.data.episode_reader import EpisodeReader
from sf_training.evaluation.chunk_errors import EpisodeErrors, episode_errors, interval, overall
from sf_training.evaluation.open_loop import choose
from sf_training.evaluation.recorded_episode import (
    RecordedEpisode,
    keep_moving,
    open_episodes,
    stay,
)
from sf_training.simulation.evaluate import main

CONTRACT = tiny_contract()
# Expert labels of a synthetic episode: `frame` for red, `frame + 10` for green, in all columns #
# and steps.
LABELS = np.array([[frame, frame + 10] for frame in range(5)])


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    for number in range(4):
        write_episode(folder, CONTRACT, f"episode_{number}")
    write_episode(folder, CONTRACT, "failed", outcome="failure")
    return folder


@pytest.fixture(scope="module")
def answers_two(tmp_path_factory, bags):
    settings = {"settings": {"data": str(bags), "validation_share": 0.25}}
    return constant_checkpoint(tmp_path_factory.mktemp("policies") / "two", CONTRACT, 2.0, settings)


def load(bags, policy, name="episode_0") -> RecordedEpisode:
    return RecordedEpisode.load(EpisodeReader(bags / name), policy)


def test_errors_are_the_mean_distance_to_the_labels(bags, answers_two):
    policy = Policy.load(answers_two, device="cpu")
    found, chunks = episode_errors(policy, load(bags, policy), batch=3)
    assert chunks.shape == (10, CONTRACT.action.horizon, len(CONTRACT.action.names))
    np.testing.assert_allclose(found.errors["policy"], np.abs(LABELS - 2).mean(), atol=1e-5)
    motion = found.errors["stay"][:, :3]  # displacements of holding position are zero
    np.testing.assert_allclose(motion, LABELS.mean(), atol=1e-5)
    # 2 is nearer to every red label (0 to 4) than to the green one of its frame, and never to the
    # green one.
    assert (found.correct, found.choices) == (5, 10)


def test_constant_velocity_predicts_steady_motion_and_holding_does_not(tmp_path, answers_two):
    """The synthetic operator moves every joint at constant speed.

    The command is 0.05 s ahead of the arm.
    """
    policy = Policy.load(answers_two, device="cpu")
    write_episode(tmp_path, CONTRACT, frames=30, labels="operator")
    episode = load(tmp_path, policy, "episode")
    steady = (episode.frame > 0) & (
        episode.stamps[episode.frame] < episode.stamps[-1] - CONTRACT.action.horizon * STEP
    )
    going, staying = (
        np.abs(make(CONTRACT, episode) - episode.targets)[steady, :, :3].mean((0, 2))
        for make in (keep_moving, stay)
    )
    assert (going < 0.5 * staying).all() and going[-1] < 0.15 * staying[-1]
    assert (
        np.abs(keep_moving(CONTRACT, episode) - stay(CONTRACT, episode))[0].max() < 1e-9
    )  # the velocity is unknown before the first frame


def test_a_model_is_evaluated_with_its_tokenizer_and_image_size(tmp_path):
    write_episode(tmp_path, CONTRACT)
    policy = Policy(
        vision_language_model(CONTRACT), CONTRACT, statistics(CONTRACT, text=0), device="cpu"
    )
    episode = load(tmp_path, policy, "episode")
    height, width = policy.config.image_size
    assert policy.config.fit != "crop" and episode.images.shape[-2:] == (height, width)
    found, chunks = episode_errors(policy, episode, batch=4)
    with_pixels = dict(
        zip(CONTRACT.camera_names, [image(3, camera) for camera in range(2)], strict=True)
    )
    one = int(np.flatnonzero(episode.frame == 3)[0])
    np.testing.assert_allclose(
        policy.predict(with_pixels, episode.joints[3], episode.texts[one]), chunks[one], atol=1e-4
    )
    assert np.isfinite(found.errors["policy"]).all()


def test_the_command_writes_figures_a_plot_and_its_settings(bags, answers_two, tmp_path, capsys):
    out = tmp_path / "eval/summary.json"
    out.parent.mkdir()
    out.write_text('{"successes": 3}')
    assert (
        main(
            [
                "--checkpoint",
                str(answers_two),
                "--bags",
                str(bags),
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert "the 1 of 4 episodes that training kept for validation" in output
    assert (
        "of 10 labels that share their image with another instruction, 5 chunks are closest to"
        " their own label" in output
    )
    summary = json.loads(out.read_text())
    assert summary["successes"] == 3  # of another evaluation
    loop = summary["open_loop"]
    assert loop["columns"]["x"]["policy"] == pytest.approx(np.abs(LABELS - 2).mean())
    assert loop["columns"]["x"]["unit"] == "m" and loop["columns"]["x"]["interval_95"] is None
    assert (loop["n"], loop["frames"], loop["labels"]) == (1, 5, 10)
    assert loop["settings"]["batch"] == 32
    assert len(loop["by_row"]["policy"]) == len(loop["seconds_ahead"]) == CONTRACT.action.horizon
    assert (tmp_path / "eval/open_loop.png").stat().st_size > 10_000


def test_held_out_episodes_equal_those_of_training(bags, answers_two, tmp_path):
    readers = open_episodes(bags, CONTRACT, ("success",))
    chosen, sentence = choose(answers_two, bags, readers, "auto")
    assert len(chosen) == 1 and "kept for validation" in sentence
    everything, sentence = choose(answers_two, bags, readers, "all")
    assert len(everything) == 4 and "errors are too small" in sentence
    elsewhere, sentence = choose(answers_two, tmp_path, readers, "auto")
    assert len(elsewhere) == 4 and f"trained on {bags}" in sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bags", "{empty}"], "holds no episode"),
        (
            ["--bags", "{bags}", "--outcomes", "perfect"],
            (
                "none of 5 episodes has the outcome perfect (found: 4 success, 1 failure); record"
                " some, or choose other outcomes (--outcomes)"
            ),
        ),
        (["--bags", "{bags}", "--checkpoint", "{empty}/none"], "no such checkpoint directory"),
        (["--bags", "{other}"], "was recorded with another contract"),
        (
            ["--bags", "{bags}", "--checkpoint", "{silent}", "--part", "held-out"],
            "names no validation_share",
        ),
    ],
)
def test_bad_input_gives_one_sentence(bags, answers_two, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    write_episode(tmp_path / "other", tiny_contract(robot="other_arm"))
    positions = {"bags": bags, "empty": tmp_path / "empty", "other": tmp_path / "other"}
    positions["silent"] = constant_checkpoint(tmp_path / "silent", CONTRACT, 0.0)
    if "--checkpoint" not in arguments:
        arguments = ["--checkpoint", str(answers_two), *arguments]
    with pytest.raises(SystemExit) as ended:
        main([word.format(**positions) for word in arguments])
    assert str(ended.value).startswith("evaluate: ") and message in str(ended.value)
    assert len(str(ended.value).splitlines()) == 1


def errors(value: float, labels: int = 1, checksum: str = "a") -> EpisodeErrors:
    return EpisodeErrors(
        "e", checksum, "pick", "success", 1, labels, "d", {"policy": np.full((2, 1), value)}
    )


def test_episodes_are_weighted_by_labels_and_an_interval_needs_two():
    episodes = [errors(1.0, labels=3), errors(5.0, labels=1)]
    np.testing.assert_allclose(overall(episodes, "policy"), 2.0)
    low, high = interval(episodes, [each.errors["policy"] for each in episodes])
    assert (low == 1.0).all() and (high == 5.0).all()
    assert interval(episodes[:1], [np.zeros(1)]) is None


def test_saved_errors_are_read_back_and_damage_is_detected():
    one = errors(0.25)
    again = EpisodeErrors.from_dict(json.loads(json.dumps(one.to_dict())))
    np.testing.assert_array_equal(again.errors["policy"], one.errors["policy"])
    assert again.checksum == one.checksum
    old = one.to_dict() | {"right": 3}
    del old["correct"]
    assert EpisodeErrors.from_dict(old).correct == 3
    with pytest.raises(ValueError, match="table of numbers"):
        EpisodeErrors.from_dict(one.to_dict() | {"errors": {"policy": [1.0, float("nan")]}})


def test_closed_loop_settings_are_checked(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--checkpoint", "a", "--workers", "0"])
    assert ended.value.code == 2 and "--workers: must be at least 1" in capsys.readouterr().err
