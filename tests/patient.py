"""Write a contract with wide time budgets, for tests that must also pass on a slow machine."""

from pathlib import Path

import yaml

# With the robot's own budgets, a process with too little processor time stops the arm.
BUDGETS = {
    "observation_age_s": 1.0,
    "joint_state_age_s": 0.6,
    "chunk_age_s": 2.0,
    "hold_s": 5.0,
    "teleop_age_s": 0.4,
}


def patient_robot(folder: Path, **sections) -> Path:
    """Write the contract of the simulated arm with wide budgets, and return its path.

    Args:
        sections: replace the sections of the contract with these names.
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
