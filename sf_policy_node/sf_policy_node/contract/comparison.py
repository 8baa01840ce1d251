"""Compare what two contracts' hashes cover, with a tolerance for rounded numbers.

URDFs of one arm differ in their digits: ``rpy="1.5708"`` in one, ``1.57079633`` in the other. A
hash of rounded numbers cannot tell such a difference from a real one, because two equal numbers may
be on two sides of a rounding edge.
"""

from __future__ import annotations

import math

# Largest difference of numbers that are the same, by the last part of their key. Kinematics: the
# tool of an arm of 1 m moves by 0.3 mm, less than the accuracy of an uncalibrated arm.
_TOLERANCE = {"xyz": 1e-4, "rotation": 3e-4, "axis": 3e-4}
_RELATIVE = 1e-5  # of all other numbers


def is_same(mine: object, theirs: object, key: str = "") -> bool:
    """Return whether two values of plain JSON are the same except for rounded numbers.

    Args:
        key: path of both; its last part decides the tolerance.
    """
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(
            is_same(value, theirs[name], str(name)) for name, value in mine.items()
        )
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(
            is_same(*pair, key) for pair in zip(mine, theirs, strict=True)
        )
    if isinstance(mine, float) and isinstance(theirs, float):
        tolerance = _TOLERANCE.get(key.rpartition(".")[2], 0.0)
        return math.isclose(mine, theirs, rel_tol=_RELATIVE, abs_tol=tolerance)
    return mine == theirs
