"""Which joints lie between base and tool: every one that moves must be an arm joint of the
contract, and measured.
"""

from __future__ import annotations

from xml.etree import ElementTree

from sf_policy_node.contract import Contract, ContractError, Joint
from sf_policy_node.urdf import MOVING, RobotDescription, UrdfError, UrdfJoint


def check_chain(contract: Contract) -> None:
    """Refuse a contract whose joints do not move the tool, or not alone.

    A joint that nobody measures would be taken as 0: workspace and tool speed would watch another
    place.

    Raises:
        ContractError: with the key or the joint, and the cure.
    """
    description = contract.description()
    for index, joint in enumerate(contract.joints):
        _check_joint(contract, description, index, joint.name)
    for key, frame in (("base_frame", contract.base_frame), ("tool_frame", contract.tool_frame)):
        if description.link_of(frame) is None:
            raise ContractError(
                f"{key}: {contract.urdf} has no link {frame!r}; name one of its links"
            )
    try:
        up, down = description.path(contract.base_frame, contract.tool_frame)
    except UrdfError as error:
        raise ContractError(f"base_frame, tool_frame: {error}; name two links of one arm") from None
    if above := [
        each
        for each in description.ancestors(contract.base_frame)
        if each.name in contract.arm_joints
    ]:
        raise ContractError(
            f"base_frame: {contract.base_frame!r} moves with {above[0].name}; name a link before it"
        )
    moving = [each for each in (*up, *down) if each.kind != "fixed"]
    names = {each.name for each in moving}
    still = [name for name in contract.arm_joints if name not in names]
    if len(still) == len(contract.joints):
        raise ContractError(
            f"tool_frame: {contract.tool_frame!r} is moved by none of the joints"
            f" ({', '.join(still)}); name the link at the end of this arm, or workspace and tool"
            " speed watch nothing"
        )
    for each in moving:
        if each.name not in contract.arm_joints:
            raise ContractError(_stray(contract, each))
    if still:
        raise ContractError(
            f"tool_frame: {contract.tool_frame!r} is not moved by {', '.join(still)}; "
            "name a link behind all joints, or leave these joints out"
        )


def for_pinocchio(contract: Contract) -> tuple[str, dict[str, str]]:
    """The URDF as pinocchio takes it, and the names there of joints that had to be renamed.

    The arm's continuous joints become revolute ones, which have one coordinate; a joint that shares
    its name with a link, as a URDF may, gets another one.
    """
    description = contract.description()
    arm = {joint.name: joint for joint in contract.joints}
    renamed = {name: f"joint {name}" for name in description.joints if name in description.links}
    endless = [name for name in arm if description.joints[name].kind == "continuous"]
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


def _check_joint(contract: Contract, description: RobotDescription, index: int, name: str) -> None:
    joint = description.joints.get(name)
    if joint is None:
        has = (
            ", ".join(each.name for each in description.joints.values() if each.kind != "fixed")
            or "none that moves"
        )
        raise ContractError(
            f"joints.{index}.name: {contract.urdf} has no joint {name!r}; it has {has}"
        )
    if joint.kind not in MOVING:
        raise ContractError(
            f"joints.{index}.name: {name} is of type {joint.kind or '(none)'} in {contract.urdf}; "
            "an arm joint must be revolute, continuous or prismatic"
        )
    if joint.mimics is not None:
        raise ContractError(
            f"joints.{index}.name: {name} follows {joint.mimics} in {contract.urdf} (mimic), so it"
            " cannot be commanded; leave it out"
        )


def _stray(contract: Contract, joint: UrdfJoint) -> str:
    """Why a joint between base and tool that the contract does not count among the arm's cannot be
    there.
    """
    where = (
        f"{contract.urdf}: joint {joint.name} lies between {contract.base_frame} and"
        f" {contract.tool_frame}"
    )
    if contract.gripper is not None and contract.gripper.joint in (joint.name, joint.mimics):
        return f"tool_frame: {where} and belongs to the gripper; name a link before the fingers"
    if joint.mimics is not None:
        return (
            f"tool_frame: {where} and follows {joint.mimics} (mimic), which is not supported; make"
            " it fixed in the URDF"
        )
    return (
        f"joints: {where} but is not in the contract, so its position would be unknown; "
        "add it to joints, or make it fixed in the URDF at the angle at which it is locked"
    )
