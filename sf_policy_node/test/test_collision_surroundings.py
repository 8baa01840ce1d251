"""Tests of which pairs of links, obstacles and joints that are not commanded are checked."""

import numpy as np
import pytest

from sf_policy_node.motion.arm.collision import Box, CollisionModel

POST = Box("post", (0.17, 0.17, 0.1), (0.23, 0.23, 0.5))
TURN = np.linspace(0.0, 1.5, 30)[:, None] * np.array([[1.0, 0.0]])  # link1 towards +y


def _link(name, size, offset="0 0 0"):
    shape = f'<origin xyz="{offset}"/><geometry><box size="{size}"/></geometry>'
    return f'<link name="{name}"><collision>{shape}</collision></link>'


def _joint(name, kind, parent, child, offset="0 0 0", axis="0 0 1", more=""):
    limit = '<limit lower="-1.5" upper="1.5" velocity="1" effort="1"/>' if kind != "fixed" else ""
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{offset}"/><axis xyz="{axis}"/>{limit}{more}</joint>'
    )


def scara(*more: str, **options) -> CollisionModel:
    """Return the model of two links of 0.4 and 0.2 m that turn about vertical axes at 0.3 m."""
    parts = [
        _link("base_link", "0.1 0.1 0.3", "0 0 0.14"),
        _link("link1", "0.4 0.05 0.05", "0.2 0 0"),
        _link("link2", "0.2 0.05 0.03", "0.1 0 -0.06"),
        '<link name="tool0"/>',
        _joint("a", "revolute", "base_link", "link1", "0 0 0.33"),
        _joint("b", "revolute", "link1", "link2", "0.4 0 0"),
        _joint("t", "fixed", "link2", "tool0", "0.2 0 0"),
    ]
    limits = (np.full(2, -1.5), np.full(2, 1.5))
    frames = {"base_frame": "base_link", "tool_frame": "tool0", "home": np.zeros(2)}
    urdf = f'<robot name="scara">{"".join((*parts, *more))}</robot>'
    return CollisionModel(urdf, ["a", "b"], arm=["a", "b"], limits=limits, **frames | options)


def fixed_post(parent: str) -> str:
    return _link("post", "0.06 0.06 0.4") + _joint("p", "fixed", parent, "post", "0.2 0.2 0.3")


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ((), {"boxes": [POST]}),
        ((fixed_post("base_link"),), {}),
        (
            (
                _link("floor", "3 3 0.01", "0 0 -2"),
                _joint("lift", "prismatic", "floor", "base_link"),
                fixed_post("base_link"),
            ),
            {},
        ),
        (
            (
                _link("floor", "3 3 0.01", "0 0 -2"),
                _joint("lift", "prismatic", "floor", "base_link"),
            ),
            {"boxes": [POST]},
        ),
        (
            (
                _link("cell", "0.01 0.01 0.01", "0 0 -2"),
                _joint("c", "fixed", "cell", "base_link"),
                fixed_post("cell"),
            ),
            {},
        ),
    ],
    ids=["box", "fixed link", "fixed link on a lift", "box on a lift", "link of the cell"],
)
def test_an_obstacle_is_checked_against_the_first_moving_link(more, options):
    """Before, it counted as joined by the first joint, and link1 turned through it."""
    model = scara(*more, **options)
    found = model.first_collision(TURN)
    assert found is not None and {found.link_a, found.link_b} == {"link1", "post"}
    assert model.allowed["base_link", "link1"] == "joined by one joint"


def test_a_box_that_always_touches_the_first_link_is_left_out():
    pedestal = Box("pedestal", (-0.1, -0.1, 0.0), (0.1, 0.1, 0.32))
    model = scara(boxes=[pedestal])
    assert model.allowed["link1", "pedestal"] == "touch in every pose"
    assert model.first_collision(TURN) is None and not model.touching_at_home


MAST = _link("mast", "0.06 0.06 0.4") + _joint(
    "rail", "prismatic", "base_link", "mast", "0.2 0 0.3", "0 1 0"
)


def test_a_link_that_touches_only_while_its_own_joint_is_at_zero_is_checked():
    """Before, link1 and the mast touched in the home pose and were checked nowhere."""
    model = scara(MAST)
    assert ("link1", "mast") in model.touching_at_home and model.other_joints == ["rail"]
    model.set_other_joints({"rail": 0.2})
    found = model.first_collision(TURN)
    assert found is not None and {found.link_a, found.link_b} == {"link1", "mast"}
    model.set_other_joints({"rail": -1.0})
    assert model.first_collision(TURN) is None


def test_a_link_that_touches_wherever_its_own_joint_is_is_left_out():
    spindle = _link("spindle", "0.02 0.02 0.4") + _joint(
        "s", "continuous", "base_link", "spindle", "0 0 0.3"
    )
    disc = _link("disc", "0.02 0.02 0.4") + _joint(
        "d", "continuous", "base_link", "disc", "0 0 0.3", more='<mimic joint="s"/>'
    )
    model = scara(spindle, disc)
    assert model.allowed["link1", "spindle"] == "touch in every pose"
    assert model.allowed["link1", "disc"] == "touch in every pose"
    assert not model.touching_at_home and model.first_collision(TURN) is None
