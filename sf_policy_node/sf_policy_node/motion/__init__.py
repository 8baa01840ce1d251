"""Turns chunks and teleoperation commands into safe joint motion. No ROS and no torch."""
