"""Follow one instruction with a policy: when to predict, and when to stop. No ROS here."""
