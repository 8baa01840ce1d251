"""Tests of tool poses and twists as commands: labels equal those of joint commands."""

import numpy as np
import pytest
from foreign_recordings import (
    FLOATS,
    GRIPPER,
    LEADER,
    contract,
    entry,
    loaded,
    make,
    merged,
    pose,
    pose_at,
    recording,
    stamp_of,
    twist,
    without,
    write_bag,
)

from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_training.data.bag_files import BagError
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.export_bags import stretches
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages
from sf_training.view.episode import load as view_episode

ROBOT = contract(topics={GRIPPER: "/teleop/joint_command"})
AHEAD_S = 0.04  # s, from a command to its state; see ``recording``
KINEMATICS = Kinematics(ROBOT)


@pytest.fixture(scope="module")
def joint_labels(tmp_path_factory):
    """Return labels of the same motion commanded by joints."""
    return loaded([write_bag(tmp_path_factory.mktemp("joints") / "take", recording(1.0))], ROBOT)


def commanded(message_type, message):
    """Return the recording with tool commands.

    ``message`` makes them from stamp and time [s].
    """
    good = recording(1.0)
    tool = [
        entry(LEADER, message_type, each.at, message(stamp_of(each), each.at))
        for each in good
        if each.topic == LEADER
    ]
    gripper = [
        entry(GRIPPER, FLOATS, each.at, make(FLOATS, float(pose_at(each.at + AHEAD_S)[6])))
        for each in tool
    ]
    return merged(without(good, LEADER), tool, gripper)


def pose_ahead(stamp, t, frame="base_link", move=(0.0, 0.0, 0.0)):
    tool = KINEMATICS.forward(pose_at(t + AHEAD_S)[:6])
    tool.position[:] += move
    return pose(stamp, tool, frame)


def speed(t, factor=1.0):
    """Return velocity and angular velocity of the tool (3,), (3,), in the base frame."""
    rates = (pose_at(t + 1.0) - pose_at(t))[:6]
    both = factor * KINEMATICS.jacobian(pose_at(t + AHEAD_S / 2)[:6]) @ rates
    return both[:3], both[3:]


def twist_in_tool(stamp, t):
    turn = KINEMATICS.forward(pose_at(t)[:6]).rotation.T
    return twist(stamp, *(turn @ part for part in speed(t)), frame=ROBOT.tool_frame)


TOOL_COMMANDS = {
    "poses": (messages.POSE, pose_ahead),
    "poses without a frame": (messages.POSE, lambda stamp, t: pose_ahead(stamp, t, frame="")),
    "twists": (messages.TWIST, lambda stamp, t: twist(stamp, *speed(t))),
    "twists in the tool's frame": (messages.TWIST, twist_in_tool),
}


@pytest.mark.parametrize("kind", TOOL_COMMANDS)
def test_labels_equal_those_of_joint_commands(tmp_path, joint_labels, kind):
    bag = write_bag(tmp_path / "take", commanded(*TOOL_COMMANDS[kind]))
    data = loaded([bag], ROBOT)
    np.testing.assert_array_equal(data.pair_frame, joint_labels.pair_frame)
    # pose_at moves joint 1 by 8 mrad in 40 ms: an offset of one command is visible
    arm, gripper = np.split(data.pair_target - joint_labels.pair_target, [6], axis=-1)
    assert np.abs(arm).max() < 1.5e-3
    assert np.abs(gripper).max() < 7e-3  # its numbers have no stamp: the receipt time applies
    assert not data.notes
    measure = measure_episode(bag, Thresholds(), 2, ROBOT)
    assert not measure.faults and not measure.broken and measure.commands
    assert view_episode(EpisodeReader(bag, ROBOT)).commanded is not None
    (stretch,) = stretches(EpisodeReader(bag, ROBOT), 10, "commanded", 2, 0.5)
    assert np.ptp(stretch.action[:, 0]) > 0.1


def test_tool_actions_are_the_recorded_poses(tmp_path):
    tool = {"space": "ee_pose", "names": ["x", "y", "z", "rx", "ry", "rz", "gripper"], "horizon": 2}
    changed = ROBOT.model_dump(mode="json")
    changed["action"] |= tool | {"tool_orientation": None}
    robot = type(ROBOT).model_validate(changed)
    robot._urdf_xml = ROBOT.urdf_xml
    data = loaded([write_bag(tmp_path / "take", commanded(messages.POSE, pose_ahead))], robot)
    for target, frame in zip(data.pair_target, data.pair_frame, strict=True):
        sent = float(data.stamps[frame] - data.stamps[0]) + robot.action.step_s
        sent = min(np.floor(sent / AHEAD_S + 1e-6) * AHEAD_S, 0.96)
        there = KINEMATICS.forward(pose_at(sent + AHEAD_S)[:6])
        np.testing.assert_allclose(target[0, :3], there.position, atol=1e-3)


REFUSED = {
    "unitless twists": (
        messages.TWIST,
        lambda stamp, t: twist(stamp, *speed(t, 20.0)),
        r"the twists command .* but the tool travelled .*speed_units",
    ),
    "an unknown frame": (
        messages.POSE,
        lambda stamp, t: pose_ahead(stamp, t, "camera"),
        r"tool commands are in frame 'camera', which is not fixed to 'base_link'; publish them in",
    ),
    "out of reach": (
        messages.POSE,
        lambda stamp, t: pose_ahead(stamp, t, move=(2.0, 0.0, 0.0)),
        r"25 of 25 poses are out of the arm's reach, the first at 0.00 s by .* tool_frame",
    ),
    "another arm's": (
        messages.POSE,
        lambda stamp, t: pose(stamp, KINEMATICS.forward(np.array([2.5, 0.4, 1.4, 1.3, 0, 0]))),
        r"commands of joint1 are .* from its position",
    ),
    "not a number": (
        messages.TWIST,
        lambda stamp, t: twist(stamp, [np.nan, 0, 0], [0, 0, 0]),
        r"at 0.00 s, a twist is \[\[nan, 0.0, 0.0\], .*\] \(25 of 25 messages\); corr",
    ),
    "not a number for a while": (
        messages.POSE,
        lambda stamp, t: pose_ahead(stamp, t, move=(np.nan if 0.4 < t < 0.5 else 0.0, 0.0, 0.0)),
        r"at 0.44 s, a pose is \[nan, .*\] with a quaternion .* 1 \(2 of 25 messages\); corr",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_tool_commands_are_refused_in_one_sentence(tmp_path, name):
    message_type, message, sentence = REFUSED[name]
    bag = write_bag(tmp_path / "take", commanded(message_type, message))
    with pytest.raises(BagError, match=f"take: .*{LEADER}: {sentence}"):
        loaded([bag], ROBOT)
    assert measure_episode(bag, Thresholds(), 2, ROBOT).faults
