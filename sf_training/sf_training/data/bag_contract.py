"""Which contract a bag is read with: its own, or the one that is given for bags of other
recorders.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from sf_policy_node.contract import Contract, ContractError, parse_contract
from sf_training.data.bag_files import BagError
from sf_training.recording.writer.episode_writer import CONTRACT_ATTACHMENT


def own_contract(
    file: Path, attachments: Mapping[str, bytes], contract: Contract | None
) -> Contract:
    """Return the contract in a bag of this suite; of one that is given the action space counts.

    Steps, rows and the space of labels are chosen when they are made; everything else must be the
    same.

    Raises:
        BagError: it cannot be read, or it is another robot's.
    """
    urdf = next((data for name, data in attachments.items() if name != CONTRACT_ATTACHMENT), b"")
    try:
        own = _parsed(attachments[CONTRACT_ATTACHMENT].decode(), urdf.decode())
    except (ContractError, UnicodeDecodeError) as error:
        first = str(error).split(f"; {CONTRACT_ATTACHMENT}")[0]
        raise BagError(
            f"{file}: {first}; the bag is of another version of this suite, record it again"
        ) from None
    if contract is None or contract.hash == own.hash:
        return own
    if contract.robot_hash != own.robot_hash:
        difference = "; ".join(contract.difference(own, action=False)[:5])
        raise BagError(
            f"{file}: was recorded with another contract ({difference}); use that contract, or"
            " record again"
        )
    return own.model_copy(update={"action": contract.action})


def given_contract(file: Path, contract: Contract | None) -> Contract:
    """Return the contract that is given for a bag of another recorder.

    Raises:
        BagError: there is none, or it does not say how such bags are read.
    """
    if contract is None or contract.bags is None:
        given = "give the robot's contract with" if contract is None else "add to the contract"
        raise BagError(
            f"{file}: holds no episode record and no contract, so this suite did not record it;"
            f" {given} a section bags that says which of its topics are which"
            " (sf_training/doc/data.md)"
        )
    return contract


@functools.lru_cache(maxsize=8)  # most bags of a set carry the same contract
def _parsed(text: str, urdf_xml: str) -> Contract:
    return parse_contract(text, urdf_xml, CONTRACT_ATTACHMENT)
