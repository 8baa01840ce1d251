"""Cache keys that change with what code does, not with its comments, docstrings or layout."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
import threading
from collections.abc import Callable
from types import ModuleType

_PARSING = threading.Lock()  # Python 3.11 fails when two threads build syntax trees at once


@functools.cache
def code_hash(*parts: ModuleType | Callable) -> str:
    """Return the SHA-256 of the source of modules, classes and functions, reduced to its syntax.

    Raises:
        OSError: a source is not available.
    """
    digest = hashlib.sha256()
    for part in parts:
        with _PARSING:
            digest.update(_reduced(inspect.getsource(part)).encode() + b"\0")
    return digest.hexdigest()


def _reduced(source: str) -> str:
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [line for line in body if not _is_text(line)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(line: ast.stmt) -> bool:
    """Return whether a statement is only a string: a docstring, or that of an attribute."""
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
