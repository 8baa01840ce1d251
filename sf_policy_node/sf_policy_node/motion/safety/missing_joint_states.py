"""The sentences about joint states that are missing or late, as status and diagnostics say them."""

from __future__ import annotations

CURE = "check the robot's driver, and the load of this computer"


def no_joint_states(topic: str) -> str:
    """Return the sentence about a topic without any joint state."""
    return f"no joint states on {topic}; start the robot's driver, or correct topics.joint_states"


def late_joint_states(
    age: float, budget: float, key: str = "joint_state_age_s", of: str = "", cure: str = CURE
) -> str:
    """Return the sentence about a newest joint state that is too old.

    Args:
        age, budget: its age and the largest allowed one [s].
        key: of the budget in the contract.
        of: the joint, if it is not all of them.
    """
    which = f" of {of}" if of else ""
    return (
        f"the newest joint state{which} is {age:.3f} s old, budgets.{key} allows {budget:g} s;"
        f" {cure}"
    )
