"""Models ``joint_trajectory_controller``, checks its parameters, and detects whether it runs."""
