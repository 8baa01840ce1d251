"""Extract the contract of one arm from that of a robot with several."""

from __future__ import annotations

from sf_policy_node.contract import Contract


def one_arm(contract: Contract, name: str) -> Contract:
    """Return the contract of one arm: its joints, gripper, workspace and its columns of a chunk.

    The other arms remain in the URDF as uncommanded joints. The contract of a robot with one arm is
    returned unchanged.
    """
    if len(contract.arms) == 1:
        return contract
    columns = contract.columns.action.indices(arm=name)
    names = [contract.action.names[index].removeprefix(f"{name}/") for index in columns]
    action = contract.action.model_copy(update={"names": names})
    return contract.model_copy(update={"arms": {name: contract.arms[name]}, "action": action})
