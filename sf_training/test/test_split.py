"""Tests of the validation split by the content of episodes, independent of names and others."""

import hashlib
import json

import numpy as np
import pytest
from constant_policy import constant_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from synthetic_episodes import tiny_contract, write_episode

from sf_training.data.episode_reader import BagError, find_episodes
from sf_training.data.split import share_of, split_by_order, split_episodes, trained_folders
from sf_training.evaluation.open_loop import choose
from sf_training.evaluation.recorded_episode import open_episodes
from sf_training.training.settings import TrainingError
from sf_training.training.train import main as train
from sf_training.training.train import parse_train
from sf_training.training.train import train as run

IDENTITIES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]
NAMES = st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=60, unique=True)
SHARES = st.floats(0.0, 0.99)


def held_out(identities, share=0.1) -> set[str]:
    return {identities[index] for index in split_episodes(identities, share)[1]}


@given(identities=NAMES, share=SHARES)
def test_every_episode_is_in_one_part_and_both_have_episodes(identities, share):
    fitted, validation = split_episodes(identities, share)
    assert sorted([*fitted, *validation]) == list(range(len(identities)))
    assert len(fitted) and (len(validation) > 0) == (share > 0 and len(identities) > 1)


@given(identities=NAMES, more=NAMES, share=SHARES, order=st.randoms())
def test_other_episodes_and_orders_do_not_move_assigned_episodes(identities, more, share, order):
    before = held_out(identities, share)
    shuffled = list(dict.fromkeys([*identities, *more]))
    order.shuffle(shuffled)
    moved = before ^ (held_out(shuffled, share) & set(identities))
    # Only the single episode of a part that would be empty may move.
    assert len(moved) <= (len(before) <= 1 or len(before) == len(identities) - 1)


@given(identities=NAMES, small=SHARES, large=SHARES)
def test_a_smaller_share_is_a_subset_of_a_larger_one(identities, small, large):
    small, large = sorted((small, large))
    assert held_out(identities, small) <= held_out(identities, large)
    everything = np.arange(len(identities))
    few, many = (share_of(everything, identities, max(each, 0.01)) for each in (small, large))
    assert set(few) <= set(many) and len(few) == max(1, round(max(small, 0.01) * len(everything)))
    assert share_of(everything, identities, 1.0).tolist() == everything.tolist()


def test_the_share_is_right_on_average_and_copies_are_in_one_part():
    assert len(held_out(IDENTITIES, 0.2)) == pytest.approx(200, abs=40)  # 3 deviations
    both = split_episodes([*IDENTITIES, *IDENTITIES], 0.2)[1]
    assert (both[: len(both) // 2] + 1000 == both[len(both) // 2 :]).all()
    other = split_episodes(IDENTITIES, 0.2, purpose="selection")[1]
    assert len(set(both) & set(other)) == pytest.approx(40, abs=20)
    with pytest.raises(ValueError, match="at least 1 episode"):
        split_episodes([])


def test_the_split_of_older_checkpoints_is_reproduced():
    assert [part.tolist() for part in split_by_order(5, 0.4)] == [[0, 1, 3], [2, 4]]
    assert [len(part) for part in split_by_order(1, 0.5)] == [1, 0]
    assert trained_folders({"data": "a"}) == ["a"] and trained_folders({}) == []


@pytest.fixture
def bags(tmp_path):
    folder = tmp_path / "bags"
    for number in range(6):
        write_episode(folder, tiny_contract(), f"episode_{number}", frames=3)
    return folder


def trained(bags, out, *more) -> list[str]:
    """Train for a step; return the held-out episodes in the checkpoint."""
    options = ["--data", bags, "--out", out, "--steps", 1, "--width", 32, "--layers", 2]
    options += ["--teacher", "none", "--validation-share", 0.5, *more]
    assert train([str(each) for each in options]) == 0
    return json.loads((out / "config.json").read_text())["training"]["held_out_episodes"]


def test_renamed_and_added_episodes_keep_the_split_of_evaluation(bags, tmp_path):
    before = trained(bags, tmp_path / "one")
    assert 0 < len(before) < 6
    first = find_episodes(bags)[0]
    first.rename(bags / "zzz_last")
    write_episode(bags, tiny_contract(), "aaa_new", frames=3)
    after = trained(bags, tmp_path / "two")
    # A part that would be empty had one episode, which may move.
    assert len(set(before) - set(after)) <= (len(before) in (1, 5))
    assert len(set(after) - set(before)) <= 1 + (len(before) in (1, 5))

    moved = bags.rename(tmp_path / "elsewhere")
    readers = open_episodes(moved, tiny_contract(), ("success",))
    chosen, sentence = choose(tmp_path / "one", moved, readers, "auto")
    assert {reader.checksum for reader in chosen} == set(before)
    assert f"the {len(before)} of 7 episodes that training kept for validation" in sentence
    everything, sentence = choose(tmp_path / "one", moved, readers, "all")
    assert len(everything) == 7 and "errors are too small" in sentence


def test_only_held_out_episodes_count_as_held_out(bags, tmp_path):
    """Episodes of the folder that training did not have do not count."""
    facts = {"settings": {"data": [str(bags)], "validation_share": 0.5}, "held_out_episodes": ["x"]}
    checkpoint = constant_checkpoint(tmp_path / "policy", tiny_contract(), 0.0, facts)
    readers = open_episodes(bags, tiny_contract(), ("success",))
    with pytest.raises(BagError, match="none of these 6 episodes was held out from training; take"):
        choose(checkpoint, bags, readers, "auto")


def test_a_run_of_another_split_is_not_resumed(bags, tmp_path, monkeypatch):
    """An older version of this code had another split of the same episodes."""
    options = ["--data", bags, "--out", tmp_path / "out", "--steps", 4, "--width", 32]
    options += ["--layers", 2, "--teacher", "none", "--save-every", 2, "--validation-share", 0.5]
    settings = parse_train([str(each) for each in options])
    with monkeypatch.context() as patched:
        patched.setattr(
            "sf_training.training.train.split_episodes",
            lambda identities, share: (np.arange(5), np.arange(5, 6)),
        )
        patched.setattr(
            "sf_training.training.loop.training_loop.TrainingLoop._save", lambda *_: 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            run(settings)
    monkeypatch.setattr(
        "sf_training.training.train.split_episodes",
        lambda identities, share: (np.arange(1, 6), np.arange(1)),
    )
    with pytest.raises(TrainingError, match="the episodes in --data have changed since"):
        run(settings)
