"""One arm of a robot as a robot of its own, for what is computed arm by arm."""

from __future__ import annotations

from sf_policy_node.contract import Contract


def one_arm(contract: Contract, name: str) -> Contract:
    """Return the contract of one arm: its joints, gripper, workspace and its columns of a chunk.

    The other arms stay in the URDF, as joints that nobody commands. A robot with one arm is
    returned as it is.
    """
    if len(contract.arms) == 1:
        return contract
    columns = contract.columns.action.indices(arm=name)
    names = [contract.action.names[index].removeprefix(f"{name}/") for index in columns]
    action = contract.action.model_copy(update={"names": names})
    return contract.model_copy(update={"arms": {name: contract.arms[name]}, "action": action})
