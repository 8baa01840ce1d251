"""Every interface file gives a type that can be made, sent and explained."""

import importlib
import re
from pathlib import Path

import pytest
from rclpy.serialization import deserialize_message, serialize_message

PACKAGE = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for kind in ("msg", "srv", "action") for path in (PACKAGE / kind).glob(f"*.{kind}")
)
PARTS = {"msg": ("",), "srv": ("Request", "Response"), "action": ("Goal", "Result", "Feedback")}


def messages(path: Path) -> list[type]:
    """Message classes of an interface file."""
    interface = getattr(importlib.import_module(f"sf_msgs.{path.parent.name}"), path.stem)
    return [getattr(interface, part) if part else interface for part in PARTS[path.parent.name]]


def test_there_are_interfaces():
    assert len(FILES) >= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_message_survives_the_wire(path):
    for kind in messages(path):
        message = kind()
        for field, type_name in kind.get_fields_and_field_types().items():
            if type_name == "string":
                setattr(message, field, "words")
            elif type_name in ("float", "double"):
                setattr(message, field, 0.5)
            elif type_name.startswith(("uint", "int")):
                setattr(message, field, 7)
        assert deserialize_message(serialize_message(message), kind) == message


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_interface_is_documented_and_named_as_ros_does(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line says what it is for"
    fields = [line.partition("#")[0].split() for line in text.splitlines()]
    names = [words[1].partition("=")[0] for words in fields if len(words) > 1]
    constants = [
        words[1].partition("=")[0] for words in fields if len(words) > 1 and "=" in " ".join(words)
    ]
    for name in names:
        assert re.fullmatch(
            r"[A-Z][A-Z0-9_]*" if name in constants else r"[a-z][a-z0-9_]*", name
        ), name
