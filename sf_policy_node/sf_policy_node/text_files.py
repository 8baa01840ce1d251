"""Read text files: their encoding, and repeated keys in YAML."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import yaml

_DECLARED = re.compile(rb"""^<\?xml[^>]*\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


class TextFileError(ValueError):
    """Raised for a file that is not text in its encoding; the message names file and line."""


def read_text(path: Path) -> str:
    """Read UTF-8, with or without a byte order mark, or XML in the encoding that it declares.

    Raises:
        OSError: the file cannot be read.
        TextFileError: it is in another encoding.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        data = data.removeprefix(codecs.BOM_UTF8)
        declared = _DECLARED.match(data)
        encoding = declared[1].decode("ascii") if declared else "utf-8"
    try:
        return data.decode(encoding)
    except LookupError:
        raise TextFileError(
            f"{path}: its encoding {encoding!r} is not known; save it as UTF-8"
        ) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextFileError(
            f"{path}: line {line} is not {encoding} text (byte 0x{data[error.start]:02x}); save the"
            " file as UTF-8"
        ) from None


def repeated_keys(text: str) -> list[str]:
    """Return one sentence for every key that YAML text gives twice; the last one would win
    silently.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    problems: list[str] = []
    seen: set[int] = set()

    def look(node: yaml.Node | None, path: str) -> None:
        if node is None or id(node) in seen:  # an alias may refer to its own anchor
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, each in enumerate(node.value):
                look(each, f"{path}.{index}" if path else str(index))
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple, int] = {}
            for key, value in node.value:
                where = f"{path}.{key.value}" if path else str(key.value)
                line, name = key.start_mark.line + 1, (key.tag, str(key.value))
                if name in lines and key.tag != "tag:yaml.org,2002:merge":
                    problems.append(
                        f"{where}: is given twice (lines {lines[name]} and {line}); keep one"
                    )
                lines.setdefault(name, line)
                look(value, where)

    look(yaml.compose(text, yaml.SafeLoader), "")
    return problems
