"""Contracts of schema version 1, which knew one arm, as contracts of version 2.

Files, bags and checkpoints of version 1 are read for as long as there are any: nothing in them has
to be changed.
"""

from __future__ import annotations

from collections.abc import Mapping

SCHEMA_VERSION = 2
ONLY_ARM = "arm"  # name of the arm of an upgraded contract
ARM_KEYS = ("tool_frame", "joints", "gripper", "workspace", "home", "rest", "command")


def upgraded(data: Mapping[str, object]) -> tuple[dict[str, object], bool]:
    """Return the contract's data in version 2, and whether it was of version 1.

    Raises:
        ValueError: keys of both versions are mixed; the message begins with the key.
    """
    version = data.get("schema_version")
    if version == 1 and not isinstance(version, bool):
        if "arms" in data:
            raise ValueError("arms: belongs to schema_version 2; write schema_version: 2")
        common = {key: value for key, value in data.items() if key not in ARM_KEYS}
        arm = {key: data[key] for key in ARM_KEYS if key in data}
        return common | {"schema_version": SCHEMA_VERSION, "arms": {ONLY_ARM: arm}}, True
    if version == SCHEMA_VERSION:
        own = [key for key in ARM_KEYS if key in data and key != "command"]
        if own:
            raise ValueError(
                f"{own[0]}: belongs to an arm since schema_version 2; move it to arms.NAME.{own[0]}"
            )
    return dict(data), False


def with_common_values(data: Mapping[str, object]) -> dict[str, object]:
    """Return data of version 2 in which every arm has its base frame and its command.

    Raises:
        ValueError: the common command is nobody's.
    """
    arms = data.get("arms")
    if not isinstance(arms, Mapping):
        return dict(data)
    if "command" in data and all("command" in arm for arm in arms.values() if arm):
        raise ValueError("command: every arm has a command of its own; remove the common one")
    common = {key: data[key] for key in ("base_frame", "command") if key in data}
    filled = {name: common | arm if isinstance(arm, Mapping) else arm for name, arm in arms.items()}
    return {key: value for key, value in data.items() if key != "command"} | {"arms": filled}
