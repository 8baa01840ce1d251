"""Measured efforts: an optional column from the bag to training arrays and LeRobot."""

import json

import lerobot_datasets as datasets
import numpy as np
import pytest
from foreign_recordings import (
    ALL,
    BEGIN,
    SECOND_NS,
    STATES,
    contract,
    entry,
    joints,
    loaded,
    pose_at,
    recording,
    write_bag,
)

from sf_training.data.stats import main as stats
from sf_training.lerobot.command import main as lerobot
from sf_training.lerobot.dataset_reader import DatasetReader
from sf_training.recording import messages

ROBOT = contract()
BROKEN_FROM, BROKEN_UNTIL = 0.35, 0.75  # s, longer than a joint state may be old


def effort_at(t):
    """Return the efforts (7,) of the joints, all different."""
    return np.arange(1.0, 8.0) + 10 * t


def with_efforts(effort, broken=lambda values: values):
    """One second; ``effort(t)`` of every joint state, changed by ``broken`` for a while."""

    def changed(each):
        if each.topic != STATES:
            return each
        values = effort(each.at)
        if BROKEN_FROM < each.at < BROKEN_UNTIL:
            values = broken(values)
        message = joints(BEGIN + round(each.at * SECOND_NS), ALL, pose_at(each.at))
        message.effort = np.asarray(values, float)
        return entry(STATES, messages.JOINT_STATE, each.at, message)

    return [changed(each) for each in recording(1.0)]


def one_is_nan(values):
    values[2] = np.nan
    return values


BROKEN = {
    "one is NaN": (one_is_nan, [2]),
    "too short": (lambda values: values[:3], range(7)),
    "too long": (lambda values: np.append(values, 99.0), range(7)),
    "absent": (lambda values: [], range(7)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_efforts_are_those_of_the_joint_or_unknown(tmp_path, how):
    break_them, columns = BROKEN[how]
    data = loaded([write_bag(tmp_path / "take", with_efforts(effort_at, break_them))], ROBOT)
    times = data.stamps - data.stamps[0]
    truth = np.array([effort_at(t) for t in times])
    lost = np.zeros(truth.shape, bool)
    old = ROBOT.budgets.joint_state_age_s
    lost[np.ix_((times > BROKEN_FROM + old) & (times < BROKEN_UNTIL), list(columns))] = True
    assert 0 < lost.any(axis=1).sum() < len(times)
    unknown = np.isnan(data.joint_efforts)
    assert unknown[lost].all() and not unknown[:, [c for c in range(7) if c not in columns]].any()
    # an effort is held as long as a position may be; it rises by 10 / s
    np.testing.assert_allclose(data.joint_efforts[~unknown], truth[~unknown], atol=10 * old + 1e-5)
    steady = (times < BROKEN_FROM) | (times > BROKEN_UNTIL + 0.02)
    np.testing.assert_allclose(data.joint_efforts[steady], truth[steady], atol=1e-5)


def test_a_bag_without_efforts_gives_the_same_training_data(tmp_path):
    plain = loaded([write_bag(tmp_path / "plain", recording(1.0))], ROBOT)
    nan = loaded([write_bag(tmp_path / "nan", with_efforts(lambda t: np.full(7, np.nan)))], ROBOT)
    given = loaded([write_bag(tmp_path / "given", with_efforts(effort_at))], ROBOT)
    assert np.isnan(plain.joint_efforts).all() and np.isnan(nan.joint_efforts).all()
    for other in (nan, given):
        np.testing.assert_array_equal(other.pair_target, plain.pair_target)
        np.testing.assert_array_equal(other.joint_positions, plain.joint_positions)
        assert not other.notes and not other.left_out


def test_lerobot_gets_the_same_efforts_and_counts_the_missing(tmp_path, capsys):
    bag = write_bag(tmp_path / "bags/take", with_efforts(effort_at, one_is_nan))
    write_bag(tmp_path / "none/take", recording(1.0))
    robot = tmp_path / "robot.yaml"
    robot.write_text(ROBOT.to_yaml())
    (tmp_path / ROBOT.urdf).write_text(ROBOT.urdf_xml)
    words = ["--contract", str(robot), "--out"]
    assert not lerobot(["export", str(bag), "--effort", *words, str(tmp_path / "set")])
    output = capsys.readouterr().out
    data = loaded([bag], ROBOT)
    found = DatasetReader(tmp_path / "set").episode(0).effort
    expected = data.joint_efforts[: len(found)]
    missing = np.isnan(expected)
    assert f"joint3 in {missing.sum()} of {len(found)} frames" in output and missing.any()
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-5)
    assert lerobot(["export", str(tmp_path / "none"), "--effort", *words, str(tmp_path / "x")]) == 2
    assert "holds no efforts; export without --effort" in capsys.readouterr().err


def test_stats_shows_efforts_with_their_unit(tmp_path, capsys):
    bag = write_bag(tmp_path / "bags/take", with_efforts(effort_at, one_is_nan))
    robot = tmp_path / "robot.yaml"
    robot.write_text(ROBOT.to_yaml())
    (tmp_path / ROBOT.urdf).write_text(ROBOT.urdf_xml)
    out = tmp_path / "stats.json"
    assert stats(["--data", str(bag), "--contract", str(robot), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "effort columns" in output and "N m" in output
    effort = json.loads(out.read_text())["effort"]
    assert effort["joint1"]["min"] == pytest.approx(1.0, abs=1e-4)
    assert effort["joint3"]["frames"] < effort["joint1"]["frames"] == 10


@pytest.mark.parametrize("columns", [7, 3])
def test_import_keeps_known_efforts_and_counts_the_others(tmp_path, capsys, columns):
    def efforts(_, frame):
        return {"observation.effort": [np.nan if frame == 2 else 1.0, *[2.0] * (columns - 1)]}

    data = datasets.write(tmp_path / "set", lengths=(6,), extra=efforts)
    info = data / "meta/info.json"
    described = json.loads(info.read_text())
    described["features"]["observation.effort"] = {"dtype": "float32", "shape": [columns]}
    info.write_text(json.dumps(described))
    robot = datasets.save_contract(tmp_path, datasets.one_camera_contract())
    names = dict(zip(datasets.one_camera_contract().command_joints, datasets.JOINTS, strict=True))
    words = ["--contract", str(robot), "--out", str(tmp_path / "bags"), "--joints"]
    words += [f"{ours}={theirs}" for ours, theirs in names.items()]
    assert not lerobot(["import", str(data), *words])
    said = " ".join(capsys.readouterr().out.split())
    found = loaded([tmp_path / "bags/set_000000"], None).joint_efforts
    if columns == 3:
        assert "observation.effort has 3 columns, the state 7" in said and np.isnan(found).all()
    else:
        assert "not finite in 1 of 6 frames (most often of joint1)" in said
        assert (found[:, 1:] == 2.0).all() and found[3, 0] == 1.0
