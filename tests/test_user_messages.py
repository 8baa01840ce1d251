"""What users read: the sentences of the code, and the pages that quote them."""

import difflib
import re
from pathlib import Path

import pytest
from user_messages import ROOT, collect, messages

REVIEWED = ROOT / "tests" / "user_messages.txt"
COMMAND = "PYTHONPATH=tests:$PYTHONPATH python3 -m user_messages > tests/user_messages.txt"
PAGE = ROOT / "sf_bringup" / "doc" / "troubleshooting.md"


@pytest.fixture(scope="module")
def sentences() -> str:
    return collect()


def quoted(page: Path) -> list[str]:
    """First cells of a page's tables, where they quote a message."""
    return re.findall(r"^\| `([^`]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_troubleshooting_quotes_messages_that_the_code_can_show(sentences):
    lines = sentences.splitlines()
    missing = []
    for message in quoted(PAGE):
        pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")))
        if not any(pattern.search(line) for line in lines):
            missing.append(message)
    assert not missing, f"{PAGE.name} quotes what no module says any more: {missing}"
    assert len(quoted(PAGE)) > 50


def test_values_are_shown_as_braces_and_docstrings_are_left_out():
    source = '''
"""A module that says nothing to users."""
def check(value):
    """Refuse what is negative."""
    if value < 0:
        raise ValueError(f"{value} is negative; give 0 or more, such as {max(1, 2)}")
'''
    assert list(messages(source)) == ["{} is negative; give 0 or more, such as {}"]


def test_every_message_was_reviewed(sentences):
    """A changed message shows as a difference in ``tests/user_messages.txt``."""
    reviewed = REVIEWED.read_text(encoding="utf-8")
    changed = difflib.unified_diff(
        reviewed.splitlines(), sentences.splitlines(), "reviewed", "code", lineterm="", n=0
    )
    if reviewed != sentences:
        cure = f"run {COMMAND}"
        pytest.fail("\n".join([cure, *changed]), pytrace=False)
