"""Test that the reference page of parameters, topics, services and actions matches the nodes."""

import difflib
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "doc" / "reference.md"


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(360)
def test_the_reference_is_current(ros_domain):
    done = subprocess.run(
        [sys.executable, "-m", "sf_bringup.reference"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    difference = "\n".join(
        difflib.unified_diff(
            PAGE.read_text().splitlines(),
            done.stdout.splitlines(),
            "page",
            "nodes",
            lineterm="",
            n=0,
        )
    )
    assert not difference, (
        f"run python3 -m sf_bringup.reference > sf_bringup/doc/reference.md\n{difference}"
    )
