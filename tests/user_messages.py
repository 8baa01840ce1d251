"""Collect every sentence that the packages can show to a user, by reading their sources.

    PYTHONPATH=tests:$PYTHONPATH python3 -m user_messages > tests/user_messages.txt

A sentence is a string of three words or more that is not a docstring. Values are shown as ``{}``.
Each module's exceptions, log lines and status reasons stand together, so that a reviewer reads them
all at once.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sf_policy_node", "sf_training", "sf_bringup")
WORDS_MIN = 3
_MARKS = ("<", "|", "#", "$", "SELECT ", "```")  # markup, tables, code and queries are no sentences


def messages(source: str) -> Iterator[str]:
    """Yield the sentences of a module in the order of its lines."""
    tree = ast.parse(source)
    skipped = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr)
    } | {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    found = [
        (node.lineno, node.col_offset, text)
        for node in ast.walk(tree)
        if isinstance(node, (ast.JoinedStr, ast.Constant)) and id(node) not in skipped
        if is_sentence(text := template(node))
    ]
    yield from dict.fromkeys(text for _, _, text in sorted(found))


def template(node: ast.expr) -> str:
    """Return the text of a string with ``{}`` for each value; empty for anything else."""
    if isinstance(node, ast.Constant):
        return " ".join(node.value.split()) if isinstance(node.value, str) else ""
    parts = [
        part.value if isinstance(part, ast.Constant) else "{}"
        for part in getattr(node, "values", [])
    ]
    return " ".join("".join(parts).split())


def is_sentence(text: str) -> bool:
    """Whether a text is prose for a user."""
    words = [word for word in text.split() if word.strip("{}.,:;()'\"").isalpha()]
    return len(words) >= WORDS_MIN and not text.startswith(_MARKS)


def collect() -> str:
    """Return the sentences of all packages, module by module."""
    lines: list[str] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package / package).rglob("*.py")):
            found = list(messages(path.read_text(encoding="utf-8")))
            if found:
                lines += [f"## {path.relative_to(ROOT / package)}", *found, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(collect())
