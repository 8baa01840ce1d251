"""Tests of `lint`: findings with a cure for faulty episodes, silence for good ones."""

import json
import re

import numpy as np
import pytest
from rich.console import Console
from synthetic_episodes import HEIGHT, REST, START, WIDTH, open_writer, tiny_contract, write_joints

from sf_training.lint.command import Settings, lint, main
from sf_training.lint.thresholds import Verdict
from sf_training.recording import messages
from sf_training.recording.topics import absolute

RNG = np.random.default_rng(0)
TEXTURE = RNG.integers(60, 200, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def contract():
    """Return a contract whose cameras have the rate of the tiny episodes."""
    base = tiny_contract().model_dump(mode="json")
    return tiny_contract(
        cameras=[camera | {"rate_hz": 10.0} for camera in base["cameras"]],
        budgets={"camera_skew_s": 0.03},
    )


def textured_image(frame, blur=False, level=None):
    """Return an image with texture that differs from frame to frame."""
    if level is not None:
        return np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    return (
        np.full((HEIGHT, WIDTH, 3), TEXTURE.mean(), np.uint8)
        if blur
        else np.roll(TEXTURE, 3 * frame, axis=1)
    )


def episode(
    folder,
    contract,
    name,
    *,
    seconds=2.0,
    instruction="pick the red cube",
    outcome="success",
    seed=None,
    **changes,
):
    """Write an episode without faults except ``changes``.

    These are functions that return the data of a frame or joint sample.
    """
    seed = sum(name.encode()) if seed is None else seed
    sway = np.random.default_rng(seed).uniform(0.15, 0.3, 7) * np.array([1, 1, 1, 1, 1, 1, -0.1])
    frame_stamp = changes.get("frame_stamp", lambda camera, frame: START + frame * 0.1)
    joints = changes.get("joints", lambda at: REST + sway * np.sin(1.5 * at))
    image = changes.get("image", textured_image)
    with open_writer(folder, contract, name, instruction=instruction) as writer:
        for frame in range(round(seconds * 10)):
            for index, camera in enumerate(contract.cameras):
                stamp = frame_stamp(index, frame)
                if stamp is not None:
                    pixels = np.roll(image(frame), index, axis=0)
                    received = changes.get("received", frame_stamp)(index, frame)
                    received = messages.nanoseconds(received + changes.get("delay", 0.0))
                    writer.write(
                        absolute(camera.topic),
                        messages.image(stamp, camera.frame, pixels),
                        received,
                    )
        for sample in range(round(seconds * 50)):
            at = sample * 0.02
            write_joints(writer, contract, contract.topics.joint_states, START + at, joints(at))
            write_joints(
                writer,
                contract,
                contract.topics.teleop_command,
                START + at,
                changes.get("commands", joints)(at + 0.05),
            )
        return writer.finish(outcome, drops=changes.get("drops"), **changes.get("said", {}))


def run(tmp_path, *options):
    """Return a function that runs lint.

    It returns the exit code, the worst findings as {(check, subject): (level, text, cure)}, and the
    HTML.
    """
    out = tmp_path / "lint/report.html"
    code = main([str(tmp_path / "episodes"), "--out", str(out), "--workers", "1", *options])
    found = json.loads(out.with_suffix(".json").read_text())["findings"]
    worst = {
        (one["check"], one["subject"]): (one["level"], one["text"], one["cure"])
        for one in reversed(found)
    }
    return code, worst, out.read_text()


def test_good_episodes_pass(tmp_path, contract, capsys):
    for name in ("a", "b", "c"):
        episode(tmp_path / "episodes", contract, name)
    code, findings, html = run(tmp_path)
    assert code == 0 and findings == {}
    assert "verdict: PASS" in capsys.readouterr().out
    # One self-contained file with an image of each camera of each episode.
    assert html.count("data:image/jpeg") == 3 * 2 * 4 and html.count("<figure>") >= 7
    assert not re.search(r"(src|href)=.?http", html)


def along(*directions):
    """Return joints that move in a line from rest [rad/s, m/s]."""
    return lambda at: REST + np.pad(directions, (0, 7 - len(directions))) * at


def at_times(*, scene):
    """Return a change of the scene camera's times; None drops the image."""
    return lambda camera, frame: scene(frame) if camera == 0 else START + frame * 0.1


def every_second(frame):
    """Drop every second image."""
    return None if frame % 2 else START + frame * 0.1


def late(frame):
    """Shift images to between two images of the other camera."""
    return START + frame * 0.1 + 0.06


ALL = (0.3, 0.3, 0.3, 0.3, 0.3, 0.3, -0.01)
# Name: check, subject, level, part of the sentence, change of an episode.
CASES = {
    "black": (
        "black",
        "scene camera",
        "FAIL",
        "100% of 16 frames are black",
        {"image": lambda frame: textured_image(frame, level=2)},
    ),
    "white": (
        "overexposed",
        "scene camera",
        "WARN",
        "overexposed",
        {"image": lambda n: textured_image(n, level=None if n else 255)},
    ),
    "frozen": (
        "frozen",
        "scene camera",
        "FAIL",
        "equal the previous one although the arm moved",
        {"image": lambda _: textured_image(0)},
    ),
    "blurred": (
        "blurred",
        "scene camera",
        "WARN",
        "median sharpness of this camera",
        {"image": lambda n: textured_image(n, blur=True)},
    ),
    "slow": (
        "rate",
        "scene camera",
        "FAIL",
        "5.0 Hz, the policy steps at 10 Hz",
        {"frame_stamp": lambda _, n: every_second(n)},
    ),
    "gap": (
        *("gap", "scene camera", "WARN", "no message for 0.60 s at 0.70 s, its period is 100 ms"),
        {"frame_stamp": at_times(scene=lambda n: None if 8 <= n < 13 else START + n * 0.1)},
    ),
    "skew": (
        "skew",
        "cameras",
        "FAIL",
        "100% of images are further apart than 0.03 s",
        {"frame_stamp": at_times(scene=lambda n: START + n * 0.1 + 0.06)},
    ),
    "repeated": (
        *("stamps", "scene camera", "WARN", "1 stamps repeat and 0 go back, of 20"),
        {"frame_stamp": at_times(scene=lambda n: START + min(n, 18) * 0.1)},
    ),
    "backwards": (
        *("stamps", "scene camera", "WARN", "0 stamps repeat and 1 go back"),
        {
            "frame_stamp": at_times(scene=lambda n: START + {4: 5, 5: 4}.get(n, n) * 0.1),
            "received": lambda camera, n: START + 0.1 * n,
        },
    ),
    "lost": (
        "lost",
        "/joint_states",
        "FAIL",
        "7 messages lost while recording",
        {"drops": {"/joint_states": 7}},
    ),
    "idle": (
        "idle",
        "",
        "WARN",
        "nothing moves in",
        {"joints": lambda at: along(*ALL)(max(0.0, at - 1.0))},
    ),
    "jump": (
        "jump",
        "joints",
        "FAIL",
        "joint2 at 1.0",
        {"joints": lambda at: along(*ALL)(at) + np.eye(7)[1] * 0.6 * (1.0 < at < 1.03)},
    ),
    "dead": (
        "dead joint",
        "joint3",
        "FAIL",
        "was commanded over",
        {"joints": along(0.3, 0.3, 0, 0.3), "commands": along(*ALL)},
    ),
    "limits": (
        "limits",
        "joint3",
        "WARN",
        "the contract allows -0.2 to 2.7",
        {"joints": along(0.3, 0, 0.9, 0, 0, 0, 0)},
    ),
    "gripper": (
        "gripper",
        "range",
        "WARN",
        "should lie in 0 to 1",
        {"joints": along(0.3, 0, 0, 0, 0, 0, -0.03)},
    ),
    "late": (
        "age",
        "wrist camera",
        "WARN",
        "more than 0.40 s after their stamp, the live policy refuses after 0.25 s",
        {"delay": 0.4},
    ),
    "early": (
        "clock",
        "scene camera",
        "WARN",
        "stamps are up to 0.20 s in the future",
        {"delay": -0.2},
    ),
    "said": (
        "recorder",
        "",
        "FAIL",
        "the recorder's verdict is FAIL: camera off; disk",
        {"said": {"verdict": "FAIL", "reasons": ["camera off", "disk"]}},
    ),
    "untitled": ("instruction", "", "FAIL", "has no instruction", {"instruction": " "}),
    "nan": (
        "joints",
        "",
        "FAIL",
        "1 joint states hold NaN",
        {"joints": lambda at: along(*ALL)(at) + (np.nan if at == 1.0 else 0)},
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory, contract):
    """Write three episodes without faults."""
    folder = tmp_path_factory.mktemp("good")
    return [episode(folder, contract, name) for name in ("a", "b", "c")]


@pytest.mark.parametrize("case", CASES)
def test_lint_reports_the_fault(tmp_path, contract, good, case):
    check, subject, level, text, changes = CASES[case]
    bad = episode(tmp_path, contract, case, **changes)
    result = lint(Settings((*good, bad), workers=1), Console(quiet=True))
    found = {(one.check, one.subject): one for one in reversed(result.findings)}
    assert (check, subject) in found, found
    output = found[check, subject]
    assert output.level.name == level and text in output.text and len(output.cure) > 10
    assert output.episodes == (case,) and result.verdicts[case] >= output.level
    assert [result.verdicts[name] for name in ("a", "b", "c")] == [Verdict.PASS] * 3


def test_duplicates_and_imbalance_are_reported(tmp_path, contract):
    folder = tmp_path / "episodes"
    for number in range(11):
        episode(folder, contract, f"red_{number}", seed=number)
    episode(folder, contract, "blue", instruction="pick the blue cube", seed=50)
    episode(folder, contract, "again", seed=3)
    episode(folder, contract, "shouted", instruction="Pick the red cube!", seed=51)
    code, findings, _ = run(tmp_path)
    assert code == 1 and "the same as again" in findings["duplicate", ""][1]
    assert (
        'has 1 of 14 episodes, "pick the red cube" has 12' in findings["balance", "instructions"][1]
    )
    assert "differ only in case, spaces or punctuation" in findings["spelling", "instructions"][1]


def test_outliers_of_the_dataset_are_reported(tmp_path, contract):
    folder = tmp_path / "episodes"
    for number in range(9):
        episode(folder, contract, f"usual_{number}", seed=number)
    episode(folder, contract, "long", seconds=9.0, seed=20)
    episode(folder, contract, "far", seed=21, joints=along(1.2, 0.2, 0.2, 0.2, 0.2, 0.2, -0.01))
    _, findings, _ = run(tmp_path)
    assert "lasts 8.9 s, the median is 1.9 s" in findings["duration", ""][1]
    assert "reaches 2.3" in findings["outlier", "joint1"][1]


def test_discarded_episodes_are_not_checked(tmp_path, contract):
    folder = tmp_path / "episodes"
    for name in ("a", "b"):
        episode(folder, contract, name)
    episode(
        folder,
        contract,
        "bad",
        outcome="discarded",
        image=lambda frame: textured_image(frame, level=0),
    )
    code, findings, html = run(tmp_path)
    assert code == 0 and findings == {} and "ep-bad" in html


def test_a_damaged_bag_is_one_finding_among_others(tmp_path, contract):
    folder = tmp_path / "episodes"
    for name in ("a", "b"):
        episode(folder, contract, name)
    broken = episode(folder, contract, "broken")
    file = broken / "broken_0.mcap"
    file.write_bytes(file.read_bytes()[:-5000])
    code, findings, html = run(tmp_path)
    level, text, _ = findings["unreadable", ""]
    assert code == 1 and level == "FAIL" and "broken_0.mcap" in text
    assert (
        "1 of 3 episodes should not be trained on" in html
        and 'href="#ep-broken"' in html
        and 'id="ep-broken"' in html
    )


def test_bad_input_gives_one_sentence(tmp_path, contract, capsys):
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "r.html")]) == 2
    assert "holds no episode" in capsys.readouterr().err
    episode(tmp_path / "episodes", contract, "a")
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "episodes"), "--out", str(tmp_path / "file/report.html")]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_limits_are_flags_and_strict_counts_warnings(tmp_path, contract):
    for name in ("a", "b"):
        episode(tmp_path / "episodes", contract, name)
    episode(tmp_path / "episodes", contract, "idle", joints=CASES["idle"][4]["joints"])
    assert run(tmp_path, "--strict")[0] == 1
    assert run(tmp_path, "--limits.idle-fail", "0.4")[0] == 1
    assert run(tmp_path, "--limits.idle-warn", "0.9", "--limits.idle-fail", "0.9")[1] == {}


def test_an_unusual_end_pose_or_jerk_is_reported(tmp_path, contract):
    def to(end, shake=0.0):
        """Return motion from rest to ``end`` of joint 2 in two seconds, with a shake of joint 1."""
        target = np.array([0.3, end, 0.3, 0.2, 0.2, 0.2, -0.01])
        return lambda at: (
            REST
            + target * (1 - np.cos(np.pi * min(at, 2.0) / 2)) / 2
            + np.array([shake * np.sin(40 * at), 0, 0, 0, 0, 0, 0])
        )

    rng = np.random.default_rng(3)
    for number in range(9):
        episode(
            tmp_path / "episodes", contract, f"good_{number}", joints=to(0.3 + 0.01 * rng.normal())
        )
    episode(tmp_path / "episodes", contract, "elsewhere", joints=to(0.75))
    episode(tmp_path / "episodes", contract, "failed", joints=to(0.75), outcome="failure")
    episode(tmp_path / "episodes", contract, "shaking", joints=to(0.31, shake=0.01))
    run(tmp_path)
    found = json.loads((tmp_path / "lint/report.json").read_text())["findings"]
    named = {
        (one["check"], one["subject"]): one["episodes"]
        for one in found
        if one["check"] in ("jerk", "end pose")
    }
    assert named == {("end pose", "joint2"): ["elsewhere"], ("jerk", ""): ["shaking"]}, found


def test_jerk_does_not_depend_on_the_sampling():
    from sf_training.lint.smoothness import relative_jerk

    for hz in (50, 200):
        times = np.arange(0, 4, 1 / hz)
        path = np.sin(3 * times)[:, None] * [1.0, 2.0]
        known = np.sqrt(
            np.mean(
                np.concatenate([(27 * np.cos(3 * times)) ** 2, (54 * np.cos(3 * times) / 2) ** 2])
            )
        )
        found = relative_jerk((times * 1e9).astype(np.int64), path, np.array([1.0, 2.0]))
        assert found == pytest.approx(known, rel=0.1)
    assert np.isnan(relative_jerk(np.array([0, 10**7]), np.zeros((2, 1)), np.ones(1)))
