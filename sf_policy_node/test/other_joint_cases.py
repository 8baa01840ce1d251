"""A contract of the simulated arm whose URDF has a post on a rail that is not commanded."""

from functools import cache

from motion_cases import CONTRACT_PATH, sim_arm

from sf_policy_node.contract import Contract, parse_contract

POST = (
    '<link name="post"><collision><geometry><box size="0.04 0.04 0.6"/></geometry></collision>'
    '</link><joint name="mast" type="prismatic"><parent link="base_link"/><child link="post"/>'
    '<origin xyz="0.3 0.6 0.3"/><axis xyz="0 1 0"/>'
    '<limit lower="-1" upper="1" velocity="1" effort="1"/></joint></robot>'
)


def urdf_with_mast() -> str:
    """Return the URDF: with joint ``mast`` at -0.6 m the post is in front of the arm."""
    return sim_arm().urdf_xml.replace("</robot>", POST)


@cache
def with_mast() -> Contract:
    return parse_contract(CONTRACT_PATH.read_text(), urdf_with_mast())
