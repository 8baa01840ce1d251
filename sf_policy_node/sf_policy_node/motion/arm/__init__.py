"""What the arm is: its kinematics, limits and workspace."""
