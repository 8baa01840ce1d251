"""A robot for tests that must not depend on the machine's speed."""

from pathlib import Path

import yaml

# A process that gets no processor time is late, and stops the arm, as it should. With these it may
# be late.
BUDGETS = {
    "observation_age_s": 1.0,
    "joint_state_age_s": 0.6,
    "chunk_age_s": 2.0,
    "hold_s": 5.0,
    "teleop_age_s": 0.4,
}


def patient_robot(folder: Path, **sections) -> Path:
    """Write the simulated arm's contract with wide budgets, and ``sections`` in place of its
    own.
    """
    from sf_bringup.graph import find_robot

    data = yaml.safe_load(find_robot("sim_arm").read_text())
    data["budgets"] |= BUDGETS
    data |= sections
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sim_arm.yaml"
    path.write_text(yaml.safe_dump(data))
    path.with_name(data["urdf"]).write_text(
        find_robot("sim_arm").with_name(data["urdf"]).read_text()
    )
    return path
