"""Tests of collision checks of motions, with pinocchio's distances as the oracle."""

import coal
import numpy as np
import pinocchio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_cases import CONTRACT_PATH, HOME, sim_arm
from random_robots import LIMIT, names, random_robot

from sf_policy_node.contract import CollisionCheck, ContractError, load_contract
from sf_policy_node.motion.arm.collision import Box, CollisionModel
from sf_policy_node.ros_testing import log_records

BOX = Box("shelf", (0.1, -0.2, 0.1), (0.3, 0.2, 0.15))
TABLE = Box("table", (-0.2, -0.5, -0.05), (0.8, 0.5, -0.005))


def model_of(urdf: str, joints: int = 6, **options) -> CollisionModel:
    limit = np.append(np.full(joints, LIMIT), LIMIT / 10)
    arm = names(joints)[:-1]
    frames = {"base_frame": "base_link", "tool_frame": "tool0"}
    return CollisionModel(urdf, names(joints), arm=arm, limits=(-limit, limit), **frames, **options)


class Oracle:
    """Compute distances of the pairs of ``model`` with pinocchio from the same URDF."""

    def __init__(self, urdf: str, model: CollisionModel, boxes=()) -> None:
        self._model = pinocchio.buildModelFromXML(urdf, mimic=True)
        kind = pinocchio.GeometryType.COLLISION
        self._geometry = pinocchio.buildGeomFromUrdfString(
            self._model, urdf, kind, package_dirs=[""]
        )
        for box in boxes:
            lower, upper = np.array(box.lower), np.array(box.upper)
            placement = pinocchio.SE3(np.eye(3), 0.5 * (lower + upper))
            shape = coal.Box(*(upper - lower))
            self._geometry.addGeometryObject(
                pinocchio.GeometryObject(f"{box.name}_0", 0, 0, placement, shape)
            )
        for first, second in model.checked:
            a, b = (self._geometry.getGeometryId(f"{link}_0") for link in (first, second))
            self._geometry.addCollisionPair(pinocchio.CollisionPair(a, b))
        self._data = self._model.createData()
        self._state = self._geometry.createData()

    def distance(self, position: np.ndarray, arm_names: list[str]) -> float:
        q = pinocchio.neutral(self._model)
        for name, value in zip(arm_names, position, strict=True):
            joint = self._model.joints[self._model.getJointId(name)]
            q[joint.idx_q : joint.idx_q + joint.nq] = (
                value if joint.nq == 1 else [np.cos(value), np.sin(value)]
            )
        pinocchio.computeDistances(self._model, self._data, self._geometry, self._state, q)
        return min(result.min_distance for result in self._state.distanceResults)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_nearest_distance_equals_pinocchio(seed):
    urdf = random_robot(seed)
    model = model_of(urdf, boxes=[BOX])
    oracle = Oracle(urdf, model, [BOX])
    random = np.random.default_rng(seed)
    for position in random.uniform(-LIMIT, LIMIT, (8, 7)) * np.array([*[1.0] * 6, 0.1]):
        expected, found = oracle.distance(position, names()), model.nearest(position)[0]
        if max(expected, found.distance) > 0.0:  # penetration depth is not compared
            assert found.distance == pytest.approx(expected, abs=2e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_motion_is_cut_at_pinocchios_first_collision(seed):
    urdf = random_robot(seed)
    model = model_of(urdf, boxes=[BOX])
    oracle = Oracle(urdf, model, [BOX])
    random = np.random.default_rng(seed)
    ends = random.uniform(-LIMIT, LIMIT, (2, 7)) * np.array([*[1.0] * 6, 0.1])
    motion = ends[0] + np.linspace(0.0, 1.0, 400)[:, None] * (ends[1] - ends[0])
    distances = np.array([oracle.distance(position, names()) for position in motion])
    touching = np.flatnonzero(distances <= model.margin - 1e-5)  # tolerance of coal's iteration
    found = model.first_collision(motion)
    if found is None:
        assert (distances > model.margin - 1e-5).all()
    else:
        # A sample in between, which the oracle does not check, belongs to the one after it.
        first = touching[0] if len(touching) else np.inf
        assert found.index <= first
        assert distances[max(found.index - 1, 0) : found.index + 1].min() <= model.margin + 0.02


def test_allowed_pairs_have_a_reason():
    model = CollisionModel.of(sim_arm())
    assert model.allowed["link1", "link2"] == "joined by one joint"
    assert not any(pair in model.allowed for pair in model.checked)
    assert ("base_link", "hand") in model.checked


def test_links_of_a_gripper_may_touch():
    model = model_of(random_robot(3))
    assert model.allowed["left_finger", "right_finger"] == "parts of one gripper"


def test_coarse_samples_do_not_tunnel_through_a_body():
    model = CollisionModel.of(sim_arm(), boxes=[Box("post", (0.24, 0.15, -0.1), (0.27, 0.18, 0.6))])
    ends = np.array([HOME, HOME])
    ends[1, 0] = 1.2  # passes through the post, which no end touches
    assert all(each.distance > 0.02 for each in model.nearest(ends))
    found = model.first_collision(ends)
    assert found is not None
    assert found.index == 1
    assert "post" in (found.link_a, found.link_b)


def test_a_motion_that_starts_in_collision_may_only_move_apart():
    model = CollisionModel.of(sim_arm(), boxes=[TABLE])
    down = HOME.copy()
    while model.first_collision(down) is None:
        down[1] += 0.01
    deeper, back = down.copy(), HOME.copy()
    deeper[1] += 0.05
    path = np.linspace(0.0, 1.0, 30)[1:, None]
    assert model.first_collision(down + path * (back - down), start=down) is None
    found = model.first_collision(down + path * (deeper - down), start=down)
    assert found is not None
    assert found.index == 0
    assert "table" in (found.link_a, found.link_b)
    out_and_in = np.vstack([down + path * (back - down), back + path * (down - back)])
    assert model.first_collision(out_and_in, start=down).index > len(path)


def test_measured_joints_without_commands_are_checked():
    arm = sim_arm()
    commanded = [name for name in arm.arm_joints if name != "joint3"]
    limits = (np.full(5, -3.0), np.full(5, 3.0))
    frames = {"base_frame": "base_link", "tool_frame": "tool0"}
    model = CollisionModel(
        arm.urdf_xml, commanded, arm=commanded, limits=limits, boxes=[TABLE], **frames
    )
    low = HOME[[0, 1, 3, 4, 5]] + np.array([0.0, 0.7, 0.0, 0.0, 0.0])
    assert model.first_collision(low) is None  # with joint3 at 0 the arm is extended
    model.set_other_joints({"joint3": HOME[2], "unknown": 1.0})
    found = model.first_collision(low)
    assert "table" in (found.link_a, found.link_b)


def test_a_missing_mesh_becomes_a_capsule():
    urdf = sim_arm().urdf_xml.replace(
        '<link name="link2"/>',
        '<link name="link2"><collision><geometry><mesh filename="package://nowhere/a.stl"/>'
        "</geometry></collision></link>",
    )
    arm = sim_arm()
    limits = (np.full(7, -3.0), np.full(7, 3.0))
    frames = {"base_frame": "base_link", "tool_frame": "tool0"}
    with log_records("sf_policy_node.motion.arm.link_geometry") as records:
        model = CollisionModel(
            urdf, arm.command_joints, arm=arm.arm_joints, limits=limits, **frames
        )
    assert "package://nowhere/a.stl" in records[0].getMessage()
    assert any(shape.link == "link2" and shape.assumed for shape in model.shapes)


def test_a_mesh_is_checked_as_its_convex_hull(tmp_path):
    corners = np.array([[x, y, z] for x in (0, 0.1) for y in (0, 0.2) for z in (0, 0.3)])
    faces = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)]
    faces += [(2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces]
    (tmp_path / "block.obj").write_text("\n".join(lines))
    mesh = (
        '<collision><origin xyz="0.5 0 0"/><geometry><mesh'
        ' filename="block.obj"/></geometry></collision>'
    )
    urdf = (
        f'<robot name="r"><link name="base_link">{mesh}</link><link'
        ' name="arm"><collision><geometry><sphere'
        ' radius="0.05"/></geometry></collision></link><link name="hand"/><link'
        ' name="tool0"/><joint name="a" type="prismatic"><parent link="base_link"/><child'
        ' link="hand"/><axis xyz="1 0 0"/><limit lower="-1" upper="1" velocity="1"'
        ' effort="1"/></joint><joint name="b" type="prismatic"><parent link="hand"/><child'
        ' link="arm"/><axis xyz="0 1 0"/><limit lower="-1" upper="1" velocity="1"'
        ' effort="1"/></joint><joint name="t" type="fixed"><parent link="arm"/><child'
        ' link="tool0"/></joint></robot>'
    )
    limits = (-np.ones(2), np.ones(2))
    frames = {"base_frame": "base_link", "tool_frame": "tool0"}
    model = CollisionModel(
        urdf, ["a", "b"], arm=["a", "b"], limits=limits, folders=[tmp_path], **frames
    )
    [near] = model.nearest(np.array([[0.2, 0.1]]))
    assert near.distance == pytest.approx(0.5 - 0.2 - 0.05)
    assert model.first_collision(np.array([[0.2, 0.1], [0.46, 0.1]])).index == 1


def test_an_unknown_link_in_allowed_is_named():
    with pytest.raises(ContractError, match=r"wrist_7.*name some of"):
        CollisionModel.of(sim_arm(), allowed=[("wrist_7", "hand")])


def test_boxes_allowed_pairs_and_home_come_from_the_contract():
    table = {"name": "table", "lower": list(TABLE.lower), "upper": list(TABLE.upper)}
    section = CollisionCheck(boxes=[table], allowed=[["link2", "table"]], margin=0.02)
    contract = sim_arm().model_copy(update={"collision": section, "home": HOME[:6].tolist()})
    model = CollisionModel.of(contract)
    assert model.allowed["link2", "table"] == "allowed by the contract"
    assert ("hand", "table") in model.checked
    assert model.margin == 0.02


def test_a_gripper_missing_from_the_urdf_moves_no_link():
    arm = sim_arm()
    gripper = arm.gripper.model_copy(update={"joint": "elsewhere", "in_urdf": False})
    model = CollisionModel.of(arm.model_copy(update={"gripper": gripper}))
    assert model.first_collision(HOME) is None


@pytest.mark.parametrize("name", ["my meshes/a.obj", "my%20meshes/a.obj"])
def test_meshes_are_found_beside_the_contract(tmp_path, name):
    urdf = sim_arm().urdf_xml.replace(
        '<link name="link2"/>',
        '<link name="link2"><collision><geometry><mesh'
        f' filename="{name}"/></geometry></collision></link>',
    )
    (tmp_path / "my meshes").mkdir()
    (tmp_path / "my meshes" / "a.obj").write_text(
        "v 0 0 0\nv 0.1 0 0\nv 0 0.1 0\nv 0 0 0.1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4"
    )
    (tmp_path / "sim_arm.urdf").write_text(urdf)
    (tmp_path / "arm.yaml").write_text(CONTRACT_PATH.read_text())
    model = CollisionModel.of(load_contract(tmp_path / "arm.yaml"))
    [shape] = [shape for shape in model.shapes if shape.link == "link2"]
    assert not shape.assumed
