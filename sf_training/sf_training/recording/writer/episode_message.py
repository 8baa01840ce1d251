"""Store the episode record as a message in the bag too. ``ros2 bag convert`` copies messages, but
not MCAP attachments and metadata records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sf_policy_node.contract import Contract
from sf_training.recording import messages

EPISODE_TOPIC = "/sf_episode"  # std_msgs/String, one message at the end of the episode


def episode_message(contract: Contract, record: Mapping[str, str]) -> bytes:
    """Serialise contract, URDF and episode record as one ``std_msgs/String`` of JSON."""
    content = {
        "contract": contract.to_yaml(),
        "urdf_name": contract.urdf,
        "urdf": contract.urdf_xml,
        "record": dict(record),
    }
    return bytes(messages.string(json.dumps(content, ensure_ascii=False)))


def read_episode_message(data: bytes | memoryview) -> tuple[dict[str, str], str, str, str] | None:
    """Return episode record, contract, file name of the URDF and URDF; None for another message."""
    try:
        content = json.loads(messages.deserialize(data, messages.STRING).data)
        record = {str(key): str(value) for key, value in content["record"].items()}
        return record, str(content["contract"]), str(content["urdf_name"]), str(content["urdf"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
