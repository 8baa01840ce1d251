"""Tests of cache keys: they depend on what code does, not on its comments and layout."""

import importlib.util

import pytest

from sf_training.data.code_hash import code_hash

SOURCE = '''"""A module."""

LIMIT = 3  # steps
"""Of a run."""


def f(x):
    return x + LIMIT
'''


@pytest.fixture
def hash_of(tmp_path):
    def hash_source(source):
        path = tmp_path / f"module{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("module", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return code_hash(module)

    return hash_source


@pytest.mark.parametrize(
    "old, new",
    [
        ("A module.", "Another text."),
        ("# steps", "# optimiser steps"),
        ("Of a run.", "Of one run."),
        ("x + LIMIT", "(x + LIMIT)"),
        ("    return", '    """Add."""\n    return'),
    ],
)
def test_other_comments_and_layout_keep_the_cache(hash_of, old, new):
    assert hash_of(SOURCE.replace(old, new, 1)) == hash_of(SOURCE)


@pytest.mark.parametrize("old, new", [("LIMIT = 3", "LIMIT = 4"), ("x + LIMIT", "x - LIMIT")])
def test_other_code_invalidates_the_cache(hash_of, old, new):
    assert hash_of(SOURCE.replace(old, new, 1)) != hash_of(SOURCE)
