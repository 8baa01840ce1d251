"""Tests of contract and URDF: differences are refused in one sentence at configuration."""

import pytest
import yaml
from motion_cases import CONTRACT_PATH, HOME, sim_arm

from sf_policy_node.contract import ContractError, load_contract, parse_contract
from sf_policy_node.motion.arm.kinematics import Kinematics
from sf_policy_node.motion.arm.limits import require_limits

URDF = sim_arm().urdf_xml


def configure(urdf=URDF, edit=lambda values: None):
    """Run the checks of every executor on a contract and its URDF."""
    values = yaml.safe_load(CONTRACT_PATH.read_text())
    edit(values)
    contract = parse_contract(yaml.safe_dump(values, sort_keys=False), urdf, "robot.yaml")
    require_limits(contract)
    return contract, Kinematics(contract)


def sentence(urdf=URDF, edit=lambda values: None):
    with pytest.raises(ContractError) as caught:
        configure(urdf, edit)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_joint(index, **values):
    return lambda contract: contract["joints"][index].update(values)


def joint_xml(
    name,
    kind="revolute",
    parent="hand",
    child="more",
    inside="<limit lower='-1' upper='1' velocity='1' effort='1'/>",
):
    return (
        f"<link name='{child}'/><joint name='{name}' type='{kind}'><parent link='{parent}'/><child"
        f" link='{child}'/>{inside}</joint>"
    )


def with_more(*elements):
    return URDF.replace("</robot>", "".join(elements) + "</robot>")


# ---- limits and units ----


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            set_joint(1, lower=-1.9),
            ("joints.joint2: lower and upper -1.9 and 2.2", "-1.8 and 2.2 rad of the URDF"),
        ),
        (set_joint(5, velocity=3.2), ("joints.joint6.velocity: 3.2 rad/s is above 3 rad/s",)),
        (set_joint(2, lower=-11.46, upper=154.7), ("-0.2 and 2.7", "looks like degrees")),
        (set_joint(4, velocity=143.24), ("2.5 rad/s", "looks like degrees")),
        (
            set_joint(0, step=22.9),
            ("joints.joint1.step: 22.9 rad is above 1.2 rad", "looks like degrees"),
        ),
        (set_joint(3, tracking_error=14.3), ("joints.joint4.tracking_error",)),
        (
            set_joint(2, acceleration=859.0),
            ("joints.joint3.acceleration: 859 rad/s^2 is above 100", "looks like degrees"),
        ),
        (
            lambda changed: changed["workspace"].update(
                lower=[120.0, -300.0, 6.0], upper=[500.0, 300.0, 400.0]
            ),
            ("500 m", "millimetres"),
        ),
        (
            lambda changed: changed["gripper"].update(open=0.05),
            ("gripper: open and closed 0 and 0.05 m", "0 and 0.035 m"),
        ),
        (
            lambda changed: changed["gripper"].update(unit="rad"),
            ("gripper.unit: rad", "prismatic", "unit: m"),
        ),
        (
            set_joint(3, unit="m"),
            ("joints.joint4.unit: m", "revolute", "unit: rad"),
        ),
        (
            lambda changed: changed["gripper"].update(joint="thumb"),
            ("gripper.joint", "'thumb'", "in_urdf: false"),
        ),
    ],
)
def test_limits_outside_the_urdf_are_refused_with_both_numbers(edit, words):
    message = sentence(edit=edit)
    assert all(word in message for word in words), message


def test_narrower_limits_rounding_and_a_gripper_outside_the_urdf_are_accepted():
    configure(edit=set_joint(0, lower=-1.0, upper=2.8005, velocity=0.5))
    configure(edit=lambda changed: changed["gripper"].update(joint="suction", in_urdf=False))
    configure(
        URDF.replace('upper="2.8" velocity="2.0"', 'upper="2.8" velocity="0"'),
        set_joint(0, velocity=9.0),
    )


def test_degrees_are_detected_where_the_urdf_has_no_limit():
    endless = URDF.replace(
        'name="joint6" type="revolute"', 'name="joint6" type="continuous"'
    ).replace('<limit lower="-3.0" upper="3.0" velocity="3.0" effort="40"/>', "")
    assert endless.count("<limit") == URDF.count("<limit") - 1
    assert "look like degrees" in sentence(endless, set_joint(5, lower=-360, upper=360))
    assert "look like degrees" in sentence(endless, set_joint(5, velocity=180.0))


def test_limits_inside_those_of_the_urdf_are_never_another_unit():
    """0.57 is 57 times 0.01, but a range may begin anywhere inside that of the URDF."""
    low = URDF.replace('lower="-1.8"', 'lower="0.01"')
    assert low != URDF
    configure(low, set_joint(1, lower=0.57))
    fast = URDF.replace('upper="2.8" velocity="2.0"', 'upper="2.8" velocity="45"')
    configure(fast, set_joint(0, velocity=40.0, acceleration=200.0))
    unlimited = URDF.replace('upper="2.8" velocity="2.0"', 'upper="2.8" velocity="0"')
    configure(unlimited, set_joint(0, velocity=45.0, acceleration=200.0))
    assert "look like degrees" in sentence(
        unlimited, set_joint(0, velocity=57.3, acceleration=200.0)
    )


def test_a_continuous_joint_has_the_contracts_limits():
    endless = URDF.replace('name="joint1" type="revolute"', 'name="joint1" type="continuous"')
    _, kinematics = configure(endless, set_joint(0, lower=-7.0, upper=7.0))
    assert kinematics.forward([6.5, *HOME[1:6]]).position == pytest.approx(
        configure()[1].forward([6.5 - 6.283185307, *HOME[1:6]]).position
    )


# ---- the chain from base to tool ----


def test_the_tool_must_be_moved_by_the_joints():
    other = with_more(joint_xml("wrist", parent="base_link", child="other_hand"))
    assert "tool_frame: 'other_hand' is moved by none" in sentence(
        other, lambda changed: changed.update(tool_frame="other_hand")
    )
    assert "tool_frame: 'link4' is not moved by joint5, joint6" in sentence(
        edit=lambda changed: changed.update(tool_frame="link4")
    )
    assert "base_frame: 'link2' moves with joint2" in sentence(
        edit=lambda changed: changed.update(base_frame="link2")
    )


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("<limit lower='-1' upper='1' velocity='1' effort='1'/>", "is not in the contract"),
        (
            "<limit lower='-1' upper='1' velocity='1' effort='1'/><mimic joint='joint2'/>",
            "follows joint2",
        ),
        (
            "<limit lower='-1' upper='1' velocity='1' effort='1'/><mimic joint='gripper'/>",
            "belongs to the gripper",
        ),
    ],
)
def test_an_unmeasured_joint_before_the_tool_is_refused(inside, words):
    message = sentence(
        with_more(joint_xml("roll", inside=inside)),
        lambda changed: changed.update(tool_frame="more"),
    )
    assert "roll" in message and words in message


def test_a_tool_on_a_finger_is_refused():
    assert "belongs to the gripper" in sentence(
        edit=lambda changed: changed.update(tool_frame="left_finger")
    )


def test_an_arm_joint_must_be_commandable():
    mimic = URDF.replace(
        '<axis xyz="1 0 0"/>', '<axis xyz="1 0 0"/><mimic joint="joint4" multiplier="-1"/>'
    )
    assert "joints.4.name: joint5 follows joint4" in sentence(mimic)
    fixed = URDF.replace('name="joint3" type="revolute"', 'name="joint3" type="fixed"')
    assert "joints.2.name: joint3 is of type fixed" in sentence(fixed)


def test_a_link_and_a_joint_may_share_a_name():
    shared = URDF.replace('"hand"', '"joint3"').replace('"base_link"', '"joint2"')
    _, kinematics = configure(shared, lambda changed: changed.update(base_frame="joint2"))
    assert kinematics.forward(HOME[:6]).position == pytest.approx(
        configure()[1].forward(HOME[:6]).position
    )


# ---- the file ----


@pytest.mark.parametrize(
    ("urdf", "words"),
    [
        (URDF.replace('<axis xyz="0 1 0"/>', '<axis xyz="0 0.0 0"/>', 1), "joint joint2: axis"),
        (URDF.replace('xyz="0 0 0.28"', 'xyz="0 0 nan"'), "joint joint3: origin"),
        (URDF.replace('xyz="0 0 0.28"', 'xyz="0 0 ${length}"'), "xacro"),
        (
            "<robot xmlns:x='http://wiki.ros.org/xacro' name='a'><x:macro name='m'/></robot>",
            "xacro:macro",
        ),
        ("<robot name='a'><xacro:arm/></robot>", "xacro"),
        ("<sdf version='1.9'/>", "first element is <sdf>"),
        ("solid cube", "cannot be parsed as XML"),
        (URDF.replace('name="joint2" type', 'name="joint1" type'), "joint joint1 is defined twice"),
    ],
)
def test_a_faulty_urdf_is_reported_with_its_position(urdf, words):
    assert words in sentence(urdf)


def test_an_expanded_urdf_may_still_declare_the_namespace_of_xacro():
    configure(
        URDF.replace(
            '<robot name="sim_arm">',
            '<robot name="sim_arm" xmlns:xacro="http://www.ros.org/wiki/xacro">',
        )
    )


def test_files_in_other_encodings_are_read_or_refused(tmp_path):
    folder = tmp_path / "robot"
    folder.mkdir()
    text, path = CONTRACT_PATH.read_text(), folder / "arm.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (folder / "sim_arm.urdf").write_bytes(
        URDF.replace('"1.0"?>', '"1.0" encoding="iso-8859-1"?><!-- Höhe -->', 1).encode("latin-1")
    )
    assert load_contract(path).hash == sim_arm().hash
    (folder / "sim_arm.urdf").write_bytes(
        URDF.replace("<link", "<!-- Höhe -->\n<link", 1).encode("latin-1")
    )
    with pytest.raises(
        ContractError, match=r"urdf: .*sim_arm\.urdf: line 4 is not utf-8 text \(byte 0xf6\)"
    ):
        load_contract(path)
    path.write_bytes(text.replace("robot:", "# Höhe\nrobot:", 1).encode("cp1252"))
    with pytest.raises(ContractError, match=r"arm\.yaml: line 4 is not utf-8"):
        load_contract(path)


# ---- the hash ----

SAME_MOTION = {
    "comment": URDF.replace("<link", "<!-- made by xacro --><link", 1),
    "limits": URDF.replace('upper="2.2"', 'upper="2.1"'),
    "numbers": URDF.replace('xyz="0 0 0.10"', 'xyz="0 0 1e-1"'),
    "axis length": URDF.replace('<axis xyz="0 0 1"/>', '<axis xyz="0 0 2"/>', 1),
    "link names": URDF.replace('"link3"', '"forearm"'),
    "one more fixed link": URDF.replace(
        '<parent link="hand"/><child link="tool0"/><origin xyz="0 0 0.10"/>\n  </joint>',
        '<parent link="hand"/><child link="flange"/><origin xyz="0 0 0.04"/></joint><link'
        ' name="flange"/><joint name="cover" type="fixed"><parent link="flange"/><child'
        ' link="tool0"/><origin xyz="0 0 0.06"/></joint>',
    ),
}
OTHER_MOTION = {
    "longer link": (URDF.replace("0 0 0.28", "0 0 0.29"), "urdf.joint3.xyz"),
    "turned axis": (
        URDF.replace('<axis xyz="1 0 0"/>', '<axis xyz="-1 0 0"/>'),
        "urdf.joint5.axis",
    ),
    "turned tool": (
        URDF.replace(
            '<origin xyz="0 0 0.10"/>\n  </joint>', '<origin xyz="0 0 0.10" rpy="0 0 1"/></joint>'
        ),
        "urdf.tool.rotation",
    ),
}


@pytest.mark.parametrize("case", SAME_MOTION)
def test_the_hash_does_not_depend_on_the_text_of_the_urdf(case):
    other = parse_contract(CONTRACT_PATH.read_text(), SAME_MOTION[case])
    assert other.urdf_xml != URDF
    assert other.hash == sim_arm().hash and sim_arm().difference(other) == []


TURNED = '<origin xyz="0 0 0.10" rpy="{}"/>\n  </joint>'


def with_turned_tool(rpy):
    urdf = URDF.replace('<origin xyz="0 0 0.10"/>\n  </joint>', TURNED.format(rpy))
    assert urdf != URDF
    return parse_contract(CONTRACT_PATH.read_text(), urdf)


@pytest.mark.parametrize(
    ("digits", "others"),
    [
        ("0 1.5708 0", "0 1.57079633 0"),
        ("3.14159 0 0", "-3.14159265 0 0"),
        ("0.7854 0 -1.5708", "0.78539816339 0 -1.57079632679"),
        ("0 1.571 0", "0 1.5707963 0"),
    ],
)
def test_the_digits_of_a_urdf_do_not_make_another_robot(digits, others):
    here, there = with_turned_tool(digits), with_turned_tool(others)
    assert here.hash != there.hash
    assert here.fits(there) and here.difference(there) == []
    other = with_turned_tool("0.01 1.5708 0")
    assert not here.fits(other) and here.difference(other)


def test_rounded_lengths_and_steps_fit_and_another_order_of_joints_does_not():
    urdf = URDF.replace("0 0 0.28", "0 0 0.280003")
    values = yaml.safe_load(CONTRACT_PATH.read_text())
    values["action"]["step_s"] = 0.1000000003
    here = parse_contract(yaml.safe_dump(values), urdf)
    assert here.hash != sim_arm().hash and here.fits(sim_arm())
    values["joints"].reverse()
    other = parse_contract(yaml.safe_dump(values), urdf)
    assert not other.fits(here)
    assert other.difference(here)[0].startswith("joints: order joint6, joint5")


@pytest.mark.parametrize("case", OTHER_MOTION)
def test_the_hash_depends_on_how_the_tool_moves(case):
    urdf, key = OTHER_MOTION[case]
    other = parse_contract(CONTRACT_PATH.read_text(), urdf)
    assert other.hash != sim_arm().hash
    assert [line.split(":")[0] for line in sim_arm().difference(other)] == [key]
