"""Checks the kinematic chain from base to tool: every moving joint in it must be an arm joint of
the contract, so that it is measured.
"""

from __future__ import annotations

from xml.etree import ElementTree

from sf_policy_node.contract import Contract, ContractError, Joint
from sf_policy_node.urdf import MOVING, RobotDescription, UrdfError, UrdfJoint


def check_chain(contract: Contract, name: str) -> None:
    """Check that the joints of an arm, and no other joints, move its tool.

    A joint that is not in the contract is not measured and would count as 0. Workspace and tool
    speed would then be checked at a wrong tool position.

    Raises:
        ContractError: with the key or the joint, and the cure.
    """
    description, arm = contract.description(), contract.arms[name]
    for index, joint in enumerate(arm.joints):
        key = contract.key_of(name, f"joints.{index}.name")
        _check_joint(contract, description, key, joint.name)
    base_key, tool_key = contract.key_of(name, "base_frame"), contract.key_of(name, "tool_frame")
    frames = (
        ("base_frame", contract.base_frame),
        (base_key, arm.base_frame),
        (tool_key, arm.tool_frame),
    )
    for key, frame in frames:
        if description.link_of(frame) is None:
            raise ContractError(
                f"{key}: {contract.urdf} has no link {frame!r}; name one of its links"
            )
    try:
        up, down = description.path(contract.base_frame, arm.tool_frame)
        between = [*description.path(contract.base_frame, arm.base_frame)]
    except UrdfError as error:
        raise ContractError(f"base_frame, {tool_key}: {error}; name two links of one arm") from None
    if above := [
        each
        for each in description.ancestors(contract.base_frame)
        if each.name in contract.arm_joints
    ]:
        raise ContractError(
            f"base_frame: {contract.base_frame!r} moves with {above[0].name}; name a link before it"
        )
    if moved := [each for part in between for each in part if each.kind != "fixed"]:
        raise ContractError(
            f"{base_key}: {arm.base_frame!r} moves in {contract.base_frame!r} with"
            f" {moved[0].name}; name a link before it"
        )
    moving = [each for each in (*up, *down) if each.kind != "fixed"]
    names = {each.name for each in moving}
    still = [joint for joint in arm.joint_names if joint not in names]
    if len(still) == len(arm.joints):
        raise ContractError(
            f"{tool_key}: {arm.tool_frame!r} is moved by none of the joints"
            f" ({', '.join(still)}), so workspace and tool speed cannot be checked; name the link"
            " at the end of this arm"
        )
    for each in moving:
        if each.name not in arm.joint_names:
            raise ContractError(_stray(contract, name, each))
    if still:
        raise ContractError(
            f"{tool_key}: {arm.tool_frame!r} is not moved by {', '.join(still)}; "
            "name a link after all joints, or remove these joints"
        )


def for_pinocchio(contract: Contract) -> tuple[str, dict[str, str]]:
    """Return the URDF in a form that pinocchio reads, and the new names of renamed joints.

    Continuous arm joints become revolute: pinocchio gives a continuous joint two coordinates. A
    joint that has the name of a link, which URDF allows, is renamed.
    """
    description = contract.description()
    arm = {joint.name: joint for each in contract.arms.values() for joint in each.joints}
    renamed = {name: f"joint {name}" for name in description.joints if name in description.links}
    endless = [
        name
        for name in arm
        if name in description.joints and description.joints[name].kind == "continuous"
    ]
    if not endless and not renamed:
        return contract.urdf_xml, {}
    root = ElementTree.fromstring(contract.urdf_xml)
    for element in root.findall("joint"):
        name = element.get("name", "")
        if name in endless:
            _bound(element, arm[name])
        for each, key in ((element, "name"), (element.find("mimic"), "joint")):
            if each is not None and each.get(key) in renamed:
                each.set(key, renamed[each.get(key)])
    return ElementTree.tostring(root, encoding="unicode"), renamed


def _bound(element: ElementTree.Element, joint: Joint) -> None:
    """Make a URDF joint revolute, with the limits of the contract."""
    element.set("type", "revolute")
    limit = element.find("limit")
    limit = ElementTree.SubElement(element, "limit") if limit is None else limit
    for key, value in (
        ("lower", joint.lower),
        ("upper", joint.upper),
        ("velocity", joint.velocity),
    ):
        limit.set(key, repr(value))
    limit.set("effort", limit.get("effort", "0"))


def _check_joint(contract: Contract, description: RobotDescription, key: str, name: str) -> None:
    joint = description.joints.get(name)
    if joint is None:
        has = (
            ", ".join(each.name for each in description.joints.values() if each.kind != "fixed")
            or "none that moves"
        )
        raise ContractError(f"{key}: {contract.urdf} has no joint {name!r}; it has {has}")
    if joint.kind not in MOVING:
        raise ContractError(
            f"{key}: {name} is of type {joint.kind or '(none)'} in {contract.urdf}; "
            "an arm joint must be revolute, continuous or prismatic"
        )
    if joint.mimics is not None:
        raise ContractError(
            f"{key}: {name} follows {joint.mimics} in {contract.urdf} (mimic), so it"
            " cannot be commanded; remove it"
        )


def _stray(contract: Contract, name: str, joint: UrdfJoint) -> str:
    """Return the message about a joint between base and tool that is no joint of the arm."""
    arm, tool_key = contract.arms[name], contract.key_of(name, "tool_frame")
    where = (
        f"{contract.urdf}: joint {joint.name} is between {contract.base_frame} and {arm.tool_frame}"
    )
    if {joint.name, joint.mimics} & set(arm.gripper_joints):
        return f"{tool_key}: {where} and belongs to the gripper; name a link before the fingers"
    if joint.mimics is not None:
        return (
            f"{tool_key}: {where} and follows {joint.mimics} (mimic), which is not supported; make"
            " it fixed in the URDF"
        )
    return (
        f"{contract.key_of(name, 'joints')}: {where} but is not in the contract, so its position"
        " would be unknown; add it to joints, or make it fixed in the URDF at the angle at which it"
        " is locked"
    )
