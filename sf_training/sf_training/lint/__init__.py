"""Check a set of episodes before training. No ROS here."""
