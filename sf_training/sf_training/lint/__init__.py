"""What is wrong with a set of episodes, before a model learns it. No ROS here."""
