"""Make the ROS 2 wheels of this virtual environment usable as a CMake prefix.

The exported CMake targets in the wheels name the Python and NumPy headers of the machine that built
the wheels; CMake refuses a target whose include path does not exist. This script makes them name
the headers of its own interpreter. Run it with the environment's Python after every installation; a
second run changes nothing.
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILDER = r"/opt/python/cp\d+-cp\d+"
REPLACEMENTS = (
    (
        re.compile(BUILDER + r"/lib/python3\.\d+/site-packages/numpy/_?core/include"),
        numpy.get_include(),
    ),
    (re.compile(BUILDER + r"/include/python3\.\d+"), sysconfig.get_path("include")),
)


def fixed(text: str) -> str:
    """Return the text with the builder's header folders replaced by ours."""
    for pattern, folder in REPLACEMENTS:
        text = pattern.sub(lambda _, folder=folder: folder, text)
    return text


def fix(prefix: Path) -> int:
    """Rewrite the CMake files below `prefix`; return how many changed."""
    changed = 0
    for path in sorted(prefix.glob("share/*/cmake/*.cmake")):
        before = path.read_text(encoding="utf-8")
        after = fixed(before)
        if after == before:
            continue
        # A new file under the old name: some installers hard-link from their cache, and an edit in
        # place would change the cache and every other environment.
        new = path.with_name(path.name + ".new")
        new.write_text(after, encoding="utf-8")
        os.replace(new, path)
        changed += 1
    return changed


if __name__ == "__main__":
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        sys.exit(
            f"Python.h is not in {sysconfig.get_path('include')}: install the headers of this"
            " Python (Debian: python3-dev)."
        )
    print(f"{fix(Path(sys.prefix))} CMake files now name the headers of this interpreter")
