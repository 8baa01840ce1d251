"""Tests of stopping a motion before a collision; the message names both links."""

import numpy as np
from motion_cases import HOME, kinematics, sim_arm

from sf_policy_node.contract import CollisionBox, CollisionCheck
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.workspace import Workspace
from sf_policy_node.motion.safety.verification import Motion, find_violation

LIMITS = JointLimits.of(sim_arm())
SHELF = CollisionBox(name="shelf", lower=[0.1, 0.12, 0.0], upper=[0.6, 0.16, 0.5])


def beside_a_shelf(**section):
    return sim_arm().model_copy(update={"collision": CollisionCheck(boxes=[SHELF], **section)})


def swing(to: float, count: int = 60) -> Motion:
    """Return a smooth rotation of joint 1 from HOME to ``to`` [rad], with the tool in its box."""
    share = np.linspace(0.0, 1.0, count)
    blend, slope = 3 * share**2 - 2 * share**3, 6 * share - 6 * share**2
    displacement = np.zeros(7)
    displacement[0] = to
    seconds = 2.0
    return Motion(
        seconds / (count - 1),
        HOME + blend[:, None] * displacement,
        slope[:, None] * displacement / seconds,
    )


def test_a_motion_into_a_box_is_refused_and_both_bodies_are_named():
    workspace = Workspace.of(beside_a_shelf(), kinematics())
    violation = find_violation(swing(0.6), LIMITS, workspace)
    assert "shelf" in violation
    assert "would" in violation
    assert find_violation(swing(0.05), LIMITS, workspace) == ""


def test_a_motion_is_cut_before_the_collision():
    workspace = Workspace.of(beside_a_shelf(), kinematics())
    motion = swing(0.6)
    survey = workspace.survey(motion.positions, motion.velocities)
    cut = motion.positions[: survey.first_violation + 1]
    assert len(cut) > 5
    assert workspace.first_violation(cut[0], cut[1:]) is None
    assert "shelf" in survey.reason


def test_the_first_violation_on_the_path_is_reported():
    contract = beside_a_shelf()
    box = contract.workspace.model_copy(update={"upper": [0.5, 0.02, 0.4]})
    workspace = Workspace.of(contract.model_copy(update={"workspace": box}), kinematics())
    survey = workspace.survey(swing(0.6).positions, swing(0.6).velocities)
    assert survey.reason == "the tool would leave the workspace box"
    alone = Workspace(sim_arm(), kinematics()).survey(swing(0.6).positions, swing(0.6).velocities)
    assert survey.first_violation < (alone.first_violation or len(swing(0.6).positions))


def test_only_the_contract_turns_the_check_off():
    assert (
        find_violation(swing(0.6), LIMITS, Workspace.of(beside_a_shelf(check=False), kinematics()))
        == ""
    )


def test_an_arm_in_collision_may_move_away():
    workspace = Workspace.of(beside_a_shelf(), kinematics())
    motion = swing(0.6)
    touching = motion.positions[
        workspace.survey(motion.positions, motion.velocities).first_violation + 1
    ]
    back = np.linspace(0.0, 1.0, 30)[:, None] * (HOME - touching) + touching
    assert workspace.first_violation(back[0], back[1:]) is None
    further = back[0] + np.linspace(0.0, 0.2, 30)[:, None] * (back[0] - HOME)
    assert workspace.first_violation(further[0], further[1:]) == 0
