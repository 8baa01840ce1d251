"""The episode's record as a message of its bag: attachments and metadata do not survive ``ros2 bag
convert``, messages do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sf_policy_node.contract import Contract
from sf_training.recording import messages

EPISODE_TOPIC = "/sf_episode"  # std_msgs/String, once, at the episode's end


def episode_message(contract: Contract, record: Mapping[str, str]) -> bytes:
    """Serialises contract, URDF and record."""
    content = {
        "contract": contract.to_yaml(),
        "urdf_name": contract.urdf,
        "urdf": contract.urdf_xml,
        "record": dict(record),
    }
    return bytes(messages.string(json.dumps(content, ensure_ascii=False)))


def read_episode_message(data: bytes | memoryview) -> tuple[dict[str, str], str, str, str] | None:
    """Gives record, contract, the URDF's name and the URDF; None when the message says something
    else.
    """
    try:
        content = json.loads(messages.deserialize(data, messages.STRING).data)
        record = {str(key): str(value) for key, value in content["record"].items()}
        return record, str(content["contract"]), str(content["urdf_name"]), str(content["urdf"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
