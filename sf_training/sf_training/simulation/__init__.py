"""The simulated arm, its task and its expert: plain Python, no ROS."""
