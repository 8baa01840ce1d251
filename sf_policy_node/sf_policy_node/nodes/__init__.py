"""The ROS edge: messages in, messages out; it decides nothing itself."""
