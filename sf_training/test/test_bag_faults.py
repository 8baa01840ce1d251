"""Tests of faults in a bag: they are reported, and the other data are still used.

Faults concern clocks, units, numbers, images and outcomes.
"""

import foreign_recordings
import numpy as np
import pytest
from foreign_recordings import (
    ALL,
    BEGIN,
    HAND,
    JOINT_SPACE,
    LEADER,
    SECOND_NS,
    STATES,
    TOP,
    changed,
    contract,
    damaged_jpeg,
    entry,
    joints,
    jpeg,
    make,
    merged,
    numbers,
    recording,
    shot,
    stamp_of,
    without,
    write_bag,
)
from synthetic_episodes import (
    HEIGHT,
    WIDTH,
    joints_at,
    open_writer,
    tiny_contract,
    write_cameras,
    write_episode,
    write_joints,
)

from sf_training.data.bag_files import BagError, find_episodes
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.opening import open_bags
from sf_training.evaluation.recorded_episode import open_episodes
from sf_training.lerobot.export_bags import stretches
from sf_training.lint.thresholds import Verdict
from sf_training.recording import messages
from sf_training.recording.labels import add_label
from sf_training.view.command import main as view

ROBOT = contract()


def load(folder, entries, robot=ROBOT, **options):
    return foreign_recordings.load(folder, entries, robot, **options)


def findings(folder, entries, robot=ROBOT):
    return foreign_recordings.findings(folder, entries, robot)


# ---- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zero stamps", "no stamps"])
def test_commands_without_stamps_are_mapped_to_a_simulated_clock(tmp_path, kind):
    def simulated(topic, t):
        return 0 if topic == LEADER else round((77 + t) * SECOND_NS)

    entries = recording(stamp=simulated)
    if kind == "no stamps":
        bare = [
            entry(LEADER, messages.NUMBERS, each.at, numbers(each.content.position))
            for each in entries
            if each.topic == LEADER
        ]
        entries = merged(without(entries, LEADER), bare)
    data = load(tmp_path / "sim", entries)
    wall = load(tmp_path / "wall", recording())
    np.testing.assert_allclose(data.pair_target, wall.pair_target, atol=1e-3)
    assert data.stamps[0] == pytest.approx(77.0) and not data.notes


@pytest.mark.parametrize(
    ("topic", "ahead"), [(STATES, 3.0), (HAND, -4.0), (LEADER, 1.5), (TOP, 4000.0)]
)
def test_differing_clocks_are_named_with_bag_and_stream(tmp_path, topic, ahead):
    def late(name, t):
        return BEGIN + round((t + (ahead if name == topic else 0.0)) * SECOND_NS)

    entries = recording(4.5, stamp=late)
    with pytest.raises(
        BagError, match=rf"take: .*{topic}.* on two clocks|take: .* and {topic} are on two clocks"
    ):
        load(tmp_path, entries)
    assert "on two clocks" in findings(tmp_path, entries)[Verdict.FAIL, "refused by training"]


def test_a_clock_a_little_ahead_is_noted(tmp_path):
    def ahead(name, t):
        return BEGIN + round((t + (0.12 if name == STATES else 0.0)) * SECOND_NS)

    data = load(tmp_path, recording(stamp=ahead))
    assert f"take: {STATES}: messages are 0.12 s in the future" in data.notes[0]
    with pytest.raises(BagError, match=r"0\.12 s in the future"):
        load_dataset([tmp_path / "take"], ROBOT, size=8, workers=1, progress=False, strict=True)


# ---- units and numbers --------------------------------------------------------------------------


def in_degrees(entries, *topics):
    for topic in topics:
        entries = changed(
            entries,
            topic,
            lambda each: joints(
                stamp_of(each), ALL, each.content.position * [*[180 / np.pi] * 6, 1]
            ),
        )
    return entries


@pytest.mark.parametrize("topic", [STATES, LEADER])
def test_degrees_are_detected_and_can_be_declared(tmp_path, topic):
    entries = in_degrees(recording(), topic)
    with pytest.raises(
        BagError,
        match=(
            rf"{topic}: joint3 reaches 80.2\d?, the contract allows .*degrees.* add to .*{{{topic}:"
            r" degrees}"
        ),
    ):
        load(tmp_path / "guessed", entries)
    data = load(tmp_path / "told", entries, contract(units={topic: "degrees"}))
    expected = load(tmp_path / "radians", recording())
    np.testing.assert_allclose(data.joint_positions, expected.joint_positions, atol=1e-5)
    np.testing.assert_allclose(data.pair_target, expected.pair_target, atol=1e-5)


def test_a_gripper_in_another_unit_is_detected_and_can_be_declared(tmp_path):
    entries = changed(
        recording(0.6),
        STATES,
        lambda each: joints(stamp_of(each), ALL, each.content.position * [*[1] * 6, 1000]),
    )
    with pytest.raises(
        BagError,
        match=(
            rf"{STATES}: gripper reaches 30, the contract allows 0.* to 0.035 m: this looks like"
            r" millimetres"
        ),
    ):
        load(tmp_path / "guessed", entries)
    closed, opened = (1000 * end for end in (ROBOT.gripper.closed, ROBOT.gripper.open))
    data = load(tmp_path / "told", entries, contract(gripper={STATES: [closed, opened]}))
    np.testing.assert_allclose(
        data.joint_positions, load(tmp_path / "plain", recording(0.6)).joint_positions, atol=1e-6
    )


@pytest.mark.parametrize(
    ("topic", "value"), [(LEADER, np.nan), (STATES, np.inf), (LEADER, -np.inf)]
)
def test_non_finite_numbers_are_named_and_other_bags_used(tmp_path, topic, value):
    def corrupted(each):
        position = each.content.position.copy()
        position[4] = value if 0.5 <= each.at < 0.9 else position[4]
        return joints(stamp_of(each), each.content.name, position)

    bad = changed(recording(), topic, corrupted)
    data = load(tmp_path, {"good": recording(), "bad": bad})
    assert [each.name for each in data.episodes] == ["good"]
    (left,) = data.left_out
    assert (
        f"{tmp_path / 'bad'}: {topic}: joint5 is {value}" in left.reason and "at 0.5" in left.reason
    )
    assert "joint5" in findings(tmp_path, bad)[Verdict.FAIL, "refused by training"]


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "head", "empty"])
def test_an_undecodable_image_drops_only_its_frame(tmp_path, how):
    entries = changed(
        recording(),
        HAND,
        lambda each: damaged_jpeg(stamp_of(each), how) if each.at == 0.7 else each.content,
    )
    data = load(tmp_path, entries)
    assert len(data.images) == 19 and np.asarray(data.images).shape[0] == 19
    assert (
        "/wrist_camera/image_raw at 0.70 s: an image cannot be decoded" in data.notes[0]
        and "1 of 20 observations" in data.notes[0]
    )
    assert "1 of 20 images cannot be decoded, the first at 0.70 s" in str(
        findings(tmp_path, entries)
    )
    bag, notes = find_episodes(tmp_path)[0], []
    stretches(EpisodeReader(bag, ROBOT), 10, "commanded", 2, 0.5, notes=notes)
    assert "at 0.70 s: an image cannot be decoded" in notes[0], "lerobot export says it, too"
    (tmp_path / "robot.yaml").write_text(ROBOT.to_yaml())
    (tmp_path / ROBOT.urdf).write_text(ROBOT.urdf_xml)
    words = [str(bag), "--contract", str(tmp_path / "robot.yaml"), "--out"]
    assert view([*words, str(tmp_path / "page.html")]) == 0, "view shows the other images"


def test_a_truncated_raw_image_drops_only_its_frame(tmp_path):
    def cut(each):
        if each.at != 1.1:
            return each.content
        return make(
            messages.IMAGE,
            each.content.header,
            HEIGHT,
            WIDTH,
            "bgr8",
            0,
            3 * WIDTH,
            each.content.data[:500],
        )

    data = load(tmp_path, changed(recording(), TOP, cut))
    assert len(data.images) == 19 and "/scene_camera/image_raw at 1.10 s" in data.notes[0]


def test_a_changing_image_size_is_reported_before_training(tmp_path):
    entries = changed(
        recording(),
        HAND,
        lambda each: jpeg(stamp_of(each), shot(3, 2)) if each.at >= 1.45 else each.content,
    )
    data = load(tmp_path, entries)
    assert (
        len(data.images) == 15
        and f"at 1.50 s: image is {2 * WIDTH}x{2 * HEIGHT}, the contract says {WIDTH}x{HEIGHT}"
        in data.notes[0]
    )
    assert (
        "5 of 20 images are 64x48, the first at 1.50 s"
        in findings(tmp_path, entries)[Verdict.FAIL, "image size"]
    )
    resized = changed(recording(0.5), HAND, lambda each: jpeg(stamp_of(each), shot(3, 2)))
    with pytest.raises(
        BagError,
        match=r"whole/take: /wrist_camera/image_raw: image is 64x48, the contract says 32x24",
    ):
        load(tmp_path / "whole", resized)


def depth_of(kind: str, stamp: int):
    """Return a CompressedImage of 0.8 m with an invalid left half."""
    metres = np.full((HEIGHT, WIDTH), 0.8)
    if (
        kind == "inverse"
    ):  # compressedDepth of 32FC1: coefficients of the inverse depth before the PNG
        quantised = np.full((HEIGHT, WIDTH), round(100.0 / 0.8 + 2.0), np.uint16)
    else:
        quantised = (metres * 1000).astype(np.uint16)
    quantised[:, : WIDTH // 2] = 0
    formats = {
        "png": "16UC1; png compressed",
        "transport": "16UC1; compressedDepth png",
        "inverse": "32FC1; compressedDepth png",
    }
    content = jpeg(stamp, quantised, ".png", formats[kind])
    if kind != "png":
        head = np.frombuffer(
            np.int32(0).tobytes() + np.array([100.0, 2.0], np.float32).tobytes(), np.uint8
        )
        content.data = np.concatenate([head, content.data])
    return content


@pytest.mark.parametrize("kind", ["png", "transport", "inverse"])
def test_compressed_depth_is_read_in_metres(tmp_path, kind):
    depth = [
        entry(
            "/rig/depth",
            messages.COMPRESSED_IMAGE,
            k / 10,
            depth_of(kind, BEGIN + k * SECOND_NS // 10),
        )
        for k in range(5)
    ]
    robot = contract(topics={"/rig/depth": "/scene_camera/depth/image_raw"})
    seen = load(tmp_path, merged(recording(0.5), depth), robot).depth[2, 0]
    assert np.isnan(seen[:, :3]).all()
    np.testing.assert_allclose(seen[:, 5:], 0.8, atol=2e-3)


# ---- outcomes and verdicts ----------------------------------------------------------------------


def test_a_failed_or_discarded_episode_is_counted_without_reading_it(tmp_path):
    """Such an episode may be broken."""
    good = write_bag(tmp_path / "good", recording(0.6))
    for name, outcome in (("a", "discarded"), ("b", "failure")):
        path = write_bag(tmp_path / name, recording(0.3), custom={"outcome": outcome})
        next(path.glob("*.mcap")).write_bytes(b"broken")
    opened = open_bags([tmp_path / "a", tmp_path / "b", good], ROBOT)
    assert [reader.name for reader in opened.readers] == ["good"] and not opened.left_out
    assert opened.outcomes == {"discarded": 1, "failure": 1, "success": 1}
    add_label(tmp_path / "b", outcome="success")
    opened = open_bags([tmp_path / "b", good], ROBOT)
    assert "is not an MCAP file" in opened.left_out[0].reason
    with pytest.raises(BagError, match="is not an MCAP file"):
        open_bags([tmp_path / "b", good], ROBOT, strict=True)


def test_the_recorders_verdict_reaches_training(tmp_path):
    """FAIL is excluded by default, with a message; an option includes it."""
    robot, bags = tiny_contract(), []
    for verdict in ("PASS", "WARN", "FAIL", ""):
        with open_writer(tmp_path, robot, f"was_{verdict.lower()}") as writer:
            write_cameras(writer, robot, 0, 1.0)
            write_joints(writer, robot, "joint_states", 1.0, joints_at(1.0))
            bags.append(writer.finish("success", verdict=verdict, reasons=["a camera was slow"]))
    opened = open_bags(bags, robot)
    assert [reader.name for reader in opened.readers] == ["was_pass", "was_warn", "was_"]
    assert "the recorder's verdict is FAIL (a camera was slow)" in opened.left_out[0].reason
    assert len(open_bags(bags, None, verdicts=("PASS", "WARN", "FAIL")).readers) == 4


def test_long_reasons_of_the_recorder_end_with_a_whole_word(tmp_path):
    robot = tiny_contract()
    words = [f"stream_{number} was slow" for number in range(60)]
    with open_writer(tmp_path, robot, "bad") as writer:
        write_cameras(writer, robot, 0, 1.0)
        write_joints(writer, robot, "joint_states", 1.0, joints_at(1.0))
        bag = writer.finish("success", verdict="FAIL", reasons=words)
    with pytest.raises(BagError) as refusal:
        open_bags([bag], robot)
    shown = str(refusal.value).partition("is FAIL (")[2].partition(" ...);")[0]
    assert 200 < len(shown) <= 300
    assert set(shown.split()) <= set(", ".join(words).split())


def test_evaluation_counts_the_episodes_that_training_counted(tmp_path):
    """Held-out episodes are identified by number, so excluded episodes must not be counted."""
    robot = tiny_contract(action=JOINT_SPACE)
    for name in ("a", "b", "c", "d"):
        write_episode(
            tmp_path / "bags", robot, name, frames=4, labels="none" if name == "b" else "operator"
        )
    data = load_dataset(find_episodes(tmp_path / "bags"), robot, size=8, workers=1, progress=False)
    readers = open_episodes(tmp_path / "bags", robot, ("success",))
    assert (
        [reader.name for reader in readers]
        == [episode.name for episode in data.episodes]
        == ["a", "c", "d"]
    )


@pytest.mark.parametrize(
    "action",
    [
        {"horizon": 3},
        {"horizon": 12, "step_s": 0.05},
        {"space": "joint_delta"},
        {"space": "ee_delta", "names": ["x", "y", "z", "rx", "ry", "rz", "gripper"]},
    ],
)
def test_own_recordings_get_labels_in_the_contracts_action_space(tmp_path, action):
    bag = write_episode(tmp_path, tiny_contract(action=JOINT_SPACE), frames=6, labels="operator")
    robot = tiny_contract(action=JOINT_SPACE | action)
    data = load_dataset([bag], robot, size=8, workers=1, progress=False)
    assert (
        data.pair_target.shape[1:] == (robot.action.horizon, len(robot.action.names))
        and data.contract.hash == robot.hash
    )
