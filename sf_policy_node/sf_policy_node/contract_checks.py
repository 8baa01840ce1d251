"""Checks across the sections of a contract, and the words for what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from sf_policy_node.contract_parts import Camera, Command, Topics


def check_topics(cameras: Sequence[Camera], topics: Topics, command: Command) -> None:
    """Refuse one topic for two purposes: messages of one would be taken for the other.

    Raises:
        ValueError: with both keys.
    """
    used: dict[str, str] = {}
    streams = [
        (f"cameras.{camera.name}.{key}", value)
        for camera in cameras
        for key in ("topic", "info_topic", "depth_topic")
        if (value := getattr(camera, key))
    ]
    streams += [(f"topics.{key}", value) for key, value in topics.model_dump().items()]
    for key, topic in (*streams, ("command.topic", command.topic)):
        other = used.setdefault(topic.lstrip("/"), key)
        if other != key:
            raise ValueError(
                f"{key}: is the same topic as {other} ({topic}); give each its own topic"
            )


def explain(item: dict) -> str:
    """Return a problem that pydantic found as one sentence with the key's path."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{key}: is missing; add it (there is no default)"
    if item["type"] == "extra_forbidden":
        return f"{key}: is not a known key; remove it or fix its spelling"
    if item["type"] == "string_type" and not isinstance(item["input"], (dict, list)):
        return f"{key}: {item['input']!r} is not a text; write it in quotes"
    message = item["msg"].removeprefix("Value error, ")
    if not key or isinstance(item["input"], dict):
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {item['input']!r})"


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Return nested values by the path of their keys; entries of lists go by their name."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        items = ((entry.get("name", index), entry) for index, entry in enumerate(value))
    else:
        return {prefix: value}
    return {
        key: leaf
        for name, entry in items
        for key, leaf in flatten(entry, f"{prefix}.{name}" if prefix else str(name)).items()
    }
