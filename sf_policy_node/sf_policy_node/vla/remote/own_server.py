"""Metadata that this package's server sends at the handshake, and their check by a node.

The contract defines keys and units, so such a server needs no mapping file.
"""

from __future__ import annotations

from typing import Any

from sf_policy_node.contract import ColumnKind, Contract, ContractError, parse_contract
from sf_policy_node.motion.types import Join
from sf_policy_node.vla.remote.mapping import JOINT, Column, Mapping, MappingError

SERVER = "sf_policy_node"
PROTOCOL = 1


def own_metadata(contract: Contract, policy_id: str, join: Join) -> dict[str, Any]:
    """Return the metadata of this package's server.

    Plain values, which openpi's client reads too.
    """
    return {
        "server": SERVER,
        "protocol": PROTOCOL,
        "policy_id": policy_id,
        "join": int(join),
        "contract_hash": contract.hash,
        "contract": contract.to_yaml(),
        "urdf": contract.urdf_xml,
    }


def is_own(metadata: dict[str, Any]) -> bool:
    """Return whether metadata are those of this package's server."""
    return metadata.get("server") == SERVER


def check_own(metadata: dict[str, Any], contract: Contract, address: str) -> None:
    """Refuse a server whose policy was trained for another contract.

    Raises:
        MappingError: the contract differs, or the server has another version of the protocol.
    """
    if metadata.get("protocol") != PROTOCOL:
        there = metadata.get("protocol")
        raise MappingError(
            f"{address}: the server speaks protocol {there}, this node {PROTOCOL}; install the same"
            " version on both"
        )
    if metadata.get("contract_hash") == contract.hash:
        return
    try:
        theirs = parse_contract(
            str(metadata.get("contract")),
            str(metadata.get("urdf")),
            f"{address}: contract",
            stored=True,
        )
        if contract.fits(theirs):
            return
        difference = "; ".join(contract.difference(theirs)[:8])
    except ContractError as error:
        difference = str(error)
    raise MappingError(
        f"{address}: serves a policy that was trained for another contract ({difference})"
    )


def own_mapping(contract: Contract) -> Mapping:
    """Return the mapping of this package's server.

    Keys: ``images.CAMERA`` as the camera has them; ``state`` (J,) in the order of
    ``contract.command_joints`` [rad, m]; ``prompt``; ``actions`` as the contract has them.
    """
    # With the prefix: a joint may have the name of an opening.
    state = [Column(name=f"{JOINT}{name}") for name in contract.command_joints]
    return Mapping(
        images={camera: f"images.{camera}" for camera in contract.camera_names},
        state={"state": state},
        space=contract.action.space,
        step_s=contract.action.step_s,
        columns=[
            Column(name=column.name, open=1.0, closed=0.0)
            if column.kind is ColumnKind.GRIPPER
            else Column(name=column.name)
            for column in contract.columns.action
        ],
    )
