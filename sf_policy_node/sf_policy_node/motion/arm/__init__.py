"""Model the arm: its kinematics, limits and workspace."""
