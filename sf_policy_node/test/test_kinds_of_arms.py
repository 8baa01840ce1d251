"""Tests of arms of every kind in URDF.

Cases are odd names, a rail, a wheel, seven joints, several fingers and passive joints.
"""

from pathlib import Path

import numpy as np
import pytest
import yaml
from motion_cases import CONTRACT_PATH, HOME, sim_arm
from other_joint_cases import with_mast

from sf_policy_node.contract import ContractError, load_contract, parse_contract
from sf_policy_node.motion.arm.collision import Box, CollisionModel
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_policy_node.motion.arm.limits import JointLimits, require_limits
from sf_policy_node.motion.executor import ChunkExecutor
from sf_policy_node.motion.types import Chunk
from sf_policy_node.perception.joint_states import JointStates
from sf_policy_node.perception.robot_state import robot_state

ROBOTS = Path(CONTRACT_PATH).parent


def follow(contract, data, position):
    """Return the motion of an executor with an arm stationary at ``place``."""
    executor = ChunkExecutor(contract, stopwatch=lambda: 1.0)
    for stamp in np.arange(0.7, 1.001, 0.01):
        executor.on_joint_state(stamp, position, np.zeros(len(position)))
    executor.activate(1.0)
    chunk = Chunk.of(
        contract,
        np.asarray(data, float),
        stamp=1.0,
        reference=position,
        policy_id="test",
        instruction="",
        epoch=1,
        sequence=1,
    )
    return executor.on_chunk(chunk, 1.0)


def renamed(old, new):
    """Return the simulated arm with another name for joint2, in URDF and contract."""
    urdf = sim_arm().urdf_xml.replace(f'joint name="{old}"', f'joint name="{new}"')
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["joints"][1]["name"] = new
    data["action"] |= {
        "space": "joint_position",
        "names": [joint["name"] for joint in data["joints"]] + ["gripper"],
    }
    return parse_contract(yaml.safe_dump(data), urdf)


@pytest.mark.parametrize("name", ["left/joint_2", "2", "panda-joint", "link2", "Gelenk ä"])
def test_a_joint_may_have_any_urdf_name(name):
    """``link2`` is also the name of a link."""
    contract = renamed("joint2", name)
    target = HOME + [0.1, -0.1, 0.1, 0.0, 0.0, 0.0, 0.0]
    data = np.tile(np.append(target[:6], 1.0), (8, 1))
    trajectory = follow(contract, data, HOME)
    assert trajectory.joint_names[1] == name
    assert np.allclose(trajectory.positions[-1], target, atol=2e-3)
    states = JointStates(contract)
    assert states.add(1.0, contract.command_joints, HOME) and not states.missing
    assert contract.columns.commands[1].name == name


def on_a_rail(axis_type):
    """Return the simulated arm on a rail along y, or on a continuous joint."""
    rail = (
        f'<link name="rail"/><joint name="rail" type="{axis_type}"><parent link="rail"/>'
        '<child link="base_link"/><axis xyz="0 1 0"/>'
        '<limit lower="-1" upper="1" velocity="1" effort="1"/></joint>'
    )
    urdf = sim_arm().urdf_xml.replace('<link name="base_link"/>', rail + '<link name="base_link"/>')
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    unit = "m" if axis_type == "prismatic" else "rad"
    joint = data["joints"][0] | {"name": "rail", "lower": -1.0, "upper": 1.0, "velocity": 0.5}
    data["joints"].insert(0, joint | {"unit": unit})
    data |= {"base_frame": "rail", "workspace": data["workspace"] | {"lower": [-1, -1.5, -1]}}
    data["workspace"]["upper"] = [1, 1.5, 1.5]
    return data, urdf


def test_a_prismatic_rail_is_an_axis_in_metres():
    data, urdf = on_a_rail("prismatic")
    contract = parse_contract(yaml.safe_dump(data), urdf)
    require_limits(contract)
    kinematics, position = Kinematics(contract), np.append(0.3, HOME[:6])
    before = Kinematics(sim_arm()).forward(HOME[:6]).position
    assert np.allclose(kinematics.forward(position).position - before, [0.0, 0.3, 0.0])
    assert contract.columns.commands.units[0] == "m"
    data["joints"][0]["unit"] = "rad"
    with pytest.raises(ContractError, match="joint rail is prismatic"):
        require_limits(parse_contract(yaml.safe_dump(data), urdf))


def test_a_rail_moves_the_tool_that_workspace_and_tool_speed_bound():
    data, urdf = on_a_rail("prismatic")
    kinematics = Kinematics(parse_contract(yaml.safe_dump(data), urdf))
    positions = np.column_stack([[-0.4, 0.0, 0.3], np.tile(HOME[:6], (3, 1))])
    velocities = np.zeros_like(positions)
    velocities[:, 0] = 0.5
    tool, speed = kinematics.tool_motion(positions, velocities)
    np.testing.assert_allclose(
        tool, [kinematics.forward(joints).position for joints in positions], atol=1e-9
    )
    np.testing.assert_allclose(speed, np.tile([0.0, 0.5, 0.0], (3, 1)), atol=1e-9)


def test_a_continuous_joint_is_bounded_by_the_contract():
    data, urdf = on_a_rail("continuous")
    data["joints"][0] |= {"lower": -9.0, "upper": 9.0}
    contract = parse_contract(yaml.safe_dump(data), urdf)
    require_limits(contract)
    kinematics = Kinematics(contract)
    turned = kinematics.forward(np.append(2.0 * np.pi, HOME[:6])).position
    assert np.allclose(turned, kinematics.forward(np.append(0.0, HOME[:6])).position)
    assert JointLimits.of(contract).upper[0] == 9.0


# ---- seven joints ----


READY = np.array(
    [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]
)  # FR3, as specified by its manufacturer


def seven_joints():
    return load_contract(ROBOTS / "fr3.yaml").model_copy(update={"home": READY.tolist()})


def test_seven_joints_keep_their_posture_when_the_tool_moves_in_circles():
    home = READY

    def rounds(term):
        kinematics, joints = Kinematics(seven_joints()), home.copy()
        start = kinematics.forward(home)
        if not term:
            kinematics._rest = np.zeros(0)
        for angle in np.linspace(0.0, 12.0 * np.pi, 240)[1:]:
            away = 0.08 * np.array([np.sin(angle), np.cos(angle) - 1.0, 0.5 * np.sin(angle)])
            target = ToolPose(start.position + away, start.rotation)
            solution = kinematics.inverse(target, joints)
            assert solution.reached
            joints = solution.positions
        return np.abs(joints - home).max()

    assert rounds(term=True) < 0.02, "the elbow is where it was"
    assert rounds(term=False) > 2.0 * rounds(term=True), "without the term it drifts"


def test_a_seventh_joint_does_not_move_while_the_tool_is_stationary():
    kinematics = Kinematics(seven_joints())
    elsewhere = READY + np.array([0.3, 0.0, -0.3, 0.0, 0.2, 0.0, 0.0])
    still = kinematics.inverse(kinematics.forward(elsewhere), elsewhere)
    assert np.array_equal(still.positions, elsewhere)


# ---- grippers ----


def two_fingers():
    """Return the simulated arm with a second finger that is not a mimic joint."""
    urdf = sim_arm().urdf_xml.replace('<mimic joint="gripper"/>', "")
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    finger = {"joint": "right_finger_joint", "open": 0.035, "closed": 0.0}
    data["gripper"] |= {"fingers": [finger], "binary": False}
    return parse_contract(yaml.safe_dump(data), urdf)


def test_one_column_moves_two_fingers():
    contract = two_fingers()
    require_limits(contract)
    position = np.append(HOME, 0.035)
    data = np.zeros((8, 4))
    data[:, 3] = 0.5
    trajectory = follow(contract, data, position)
    assert trajectory.joint_names[6:] == ("gripper", "right_finger_joint")
    assert np.allclose(trajectory.positions[-1][6:], 0.0175, atol=1e-3)
    tools = [
        Kinematics(contract).forward(joints[:6]).position
        for joints in (HOME, trajectory.positions[-1])
    ]
    assert np.allclose(*tools, atol=1e-3)
    state = robot_state(contract, Kinematics(contract), np.append(HOME[:6], [0.035, 0.0]))
    assert state[6] == pytest.approx(0.5), "half open: one finger is open, one closed"


def test_a_finger_missing_from_the_urdf_is_named():
    data = yaml.safe_load(CONTRACT_PATH.read_text())
    data["gripper"]["fingers"] = [{"joint": "third", "open": 0.03, "closed": 0.0}]
    with pytest.raises(ContractError, match=r"gripper.joint: .* has no joint 'third'"):
        require_limits(parse_contract(yaml.safe_dump(data), sim_arm().urdf_xml))


def test_a_mimic_finger_is_not_commanded_but_moves_in_the_collision_check():
    model, positions = CollisionModel.of(sim_arm()), []
    for opening in (0.0, 0.035):
        position = np.append(HOME[:6], opening)
        angles = dict(zip(model._tree.names, model._tree.angles(position[None])[0], strict=True))
        positions.append(angles["right_finger_joint"])
    assert sim_arm().command_joints.count("right_finger_joint") == 0
    assert positions == pytest.approx([0.0, 0.035])


# ---- joints that are measured and not commanded ----


def test_a_measured_uncommanded_joint_does_not_belong_to_the_arm():
    """A mast with another controller reports its position in the same messages."""
    states = JointStates(sim_arm())
    names = ["mast", *sim_arm().command_joints, "wheel"]
    assert states.add(1.0, names, [0.7, *HOME, 3.0])
    assert np.allclose(states.newest()[1], HOME) and not states.problem(1.01)


def test_an_uncommanded_joint_between_base_and_tool_is_refused():
    data, urdf = on_a_rail("prismatic")
    data["joints"].pop(0)
    with pytest.raises(ContractError, match="joint rail is between rail and tool0 but is not in"):
        Kinematics(parse_contract(yaml.safe_dump(data), urdf))


def test_the_collision_check_follows_an_uncommanded_joint():
    """An uncommanded post on a rail is first beside the arm, then in its way."""
    model = CollisionModel.of(with_mast())
    assert model.first_collision(HOME) is None
    model.set_other_joints({"mast": -0.6})
    hit = model.first_collision(HOME)
    assert hit is not None and "post" in (hit.link_a, hit.link_b)


def on_a_lift():
    """Return the simulated arm on a lift that the contract does not command."""
    lift = (
        '<link name="floor"/><joint name="lift" type="prismatic"><parent link="floor"/>'
        '<child link="base_link"/><origin xyz="0 0 0.5"/><axis xyz="0 0 1"/>'
        '<limit lower="0" upper="1" velocity="1" effort="1"/></joint></robot>'
    )
    return parse_contract(CONTRACT_PATH.read_text(), sim_arm().urdf_xml.replace("</robot>", lift))


def test_the_boxes_of_an_arm_on_a_lift_move_with_its_base_frame():
    """Before, the boxes of a base frame with a joint below it were elsewhere."""
    table = Box("table", (-0.2, -0.5, -0.05), (0.8, 0.5, -0.003))
    model = CollisionModel.of(on_a_lift(), boxes=[table], capsule_radius=0.03)
    alone = CollisionModel.of(sim_arm(), boxes=[table], capsule_radius=0.03)
    down = HOME + np.linspace(0.0, 1.0, 30)[:, None] * np.eye(7)[1]
    for height in (0.0, 0.4):
        model.set_other_joints({"lift": height})
        found, expected = model.first_collision(down), alone.first_collision(down)
        assert found.index == expected.index and "table" in (found.link_a, found.link_b)
    tools = [Kinematics(each).forward(HOME[:6]).position for each in (on_a_lift(), sim_arm())]
    assert np.allclose(*tools), "the tool does not depend on the lift"


def test_a_mimic_joint_of_an_uncommanded_joint_follows_it():
    twice = (
        '<link name="carriage"/><joint name="mast" type="prismatic"><parent link="base_link"/>'
        '<child link="carriage"/><axis xyz="0 0 1"/><limit lower="0" upper="1" velocity="1"'
        ' effort="1"/></joint><link name="top"/><joint name="top_joint" type="prismatic">'
        '<parent link="carriage"/><child link="top"/><axis xyz="0 0 1"/><limit lower="-2" upper="2"'
        ' velocity="1" effort="1"/><mimic joint="mast" multiplier="2" offset="0.1"/></joint>'
        "</robot>"
    )
    urdf = sim_arm().urdf_xml.replace("</robot>", twice)
    tree = CollisionModel.of(parse_contract(CONTRACT_PATH.read_text(), urdf))._tree
    tree.set_others({"mast": 0.3, "top_joint": 5.0})
    angles = dict(zip(tree.names, tree.angles(HOME[None])[0], strict=True))
    assert angles["mast"] == 0.3 and angles["top_joint"] == pytest.approx(0.7)
    assert list(tree.others) == ["mast"]
