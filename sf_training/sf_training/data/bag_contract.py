"""Choose the contract to read a bag with: its own, or a given one for bags of other recorders."""

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
    """Return the contract in a bag of this suite, with the ``action`` section of a given one.

    Action space, step and horizon belong to training and may differ from the recording. Everything
    else must be the same.

    Raises:
        BagError: the contract in the bag cannot be read, or is that of another robot.
    """
    urdf = next((data for name, data in attachments.items() if name != CONTRACT_ATTACHMENT), b"")
    try:
        own = _parsed(attachments[CONTRACT_ATTACHMENT].decode(), urdf.decode())
    except (ContractError, UnicodeDecodeError) as error:
        first = str(error).split(f"; {CONTRACT_ATTACHMENT}")[0]
        raise BagError(
            f"{file}: {first}; another version of this suite recorded it, record it again"
        ) from None
    if contract is None or contract.fits(own):
        return own
    if not contract.fits(own, action=False):
        difference = "; ".join(contract.difference(own, action=False)[:5])
        raise BagError(
            f"{file}: was recorded with another contract ({difference}); use that contract, or"
            " record again"
        )
    return own.model_copy(update={"action": contract.action})


def given_contract(file: Path, contract: Contract | None) -> Contract:
    """Return the contract given for a bag of another recorder.

    Raises:
        BagError: no contract is given, or it has no section ``bags``.
    """
    if contract is None or contract.bags is None:
        given = "give the robot's contract with" if contract is None else "add to the contract"
        raise BagError(
            f"{file}: holds no episode record and no contract, so this suite did not record it;"
            f" {given} a section bags that maps its topics (sf_training/doc/data.md)"
        )
    return contract


@functools.lru_cache(maxsize=8)  # most bags of a data set hold the same contract
def _parsed(text: str, urdf_xml: str) -> Contract:
    return parse_contract(text, urdf_xml, CONTRACT_ATTACHMENT, stored=True)
