"""Chunks into commands. NumPy only: no ROS, no torch."""
