"""Tests of labels of finished episodes: the newest applies, undo, unchanged recording."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_training.recording.labels import (
    OUTCOMES,
    LabelError,
    Labels,
    add_label,
    label_history,
    read_labels,
    undo_label,
)


@pytest.fixture
def bag(tmp_path):
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    return tmp_path


def test_an_episode_without_labels_has_none(bag):
    assert read_labels(bag) is None


def test_fields_that_a_label_omits_are_unchanged(bag):
    add_label(bag, outcome="failure", note="dropped the cube")
    add_label(bag, instruction="pick the green cube")
    label = read_labels(bag)
    assert (label.outcome, label.instruction, label.note) == (
        "failure",
        "pick the green cube",
        "dropped the cube",
    )


def test_undo_reverts_labels_one_by_one_to_the_recording(bag):
    add_label(bag, outcome="failure")
    add_label(bag, outcome="success", note="it held after all")
    assert undo_label(bag).outcome == "failure"
    assert read_labels(bag).note == ""
    assert undo_label(bag) is None
    assert read_labels(bag) is None
    with pytest.raises(LabelError, match="no label to undo"):
        undo_label(bag)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"outcome": "succes"}, "must be one of success, failure, discarded, got 'succes'"),
        ({"instruction": "   "}, "instruction is empty"),
        ({"instruction": "x" * 501}, "shorten it"),
        ({}, "is empty"),
    ],
)
def test_an_invalid_label_is_refused_and_changes_nothing(bag, label, message):
    with pytest.raises(LabelError, match=message):
        add_label(bag, **label)
    assert label_history(bag) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"history": [{"outcome": "great"}]}',
        '{"history": [{"colour": 1}]}',
        '{"history": 3}',
    ],
)
def test_a_broken_file_is_reported(bag, text):
    (bag / "labels.json").write_text(text)
    with pytest.raises(LabelError, match=r"labels.json: .*delete it"):
        read_labels(bag)


def test_only_finished_episodes_are_labelled(tmp_path):
    with pytest.raises(LabelError, match="not a finished episode"):
        add_label(tmp_path / "nothing", outcome="success")


def test_concurrent_labels_are_all_stored(bag):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: add_label(bag, note=f"note {index}"), range(24)))
    assert {label.note for label in label_history(bag)} == {f"note {index}" for index in range(24)}
    assert sorted(path.name for path in bag.iterdir()) == ["labels.json", "metadata.yaml"]


words = st.text(min_size=1, max_size=40).filter(lambda text: text.strip())


@given(
    st.lists(
        st.tuples(st.none() | st.sampled_from(OUTCOMES), st.none() | words, words),
        min_size=1,
        max_size=6,
    )
)
def test_any_label_is_read_back(tmp_path_factory, labels):
    bag = tmp_path_factory.mktemp("bag")
    (bag / "metadata.yaml").write_text("")
    expected = Labels()
    for outcome, instruction, note in labels:
        add_label(bag, outcome=outcome, instruction=instruction, note=note)
        expected = Labels(outcome or expected.outcome, instruction or expected.instruction, note)
    label = read_labels(bag)
    assert (label.outcome, label.instruction, label.note) == (
        expected.outcome,
        expected.instruction,
        expected.note,
    )
    assert len(json.loads((bag / "labels.json").read_text())["history"]) == len(labels)
