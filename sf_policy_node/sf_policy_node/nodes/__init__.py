"""The ROS nodes: they convert messages and call the packages that make the decisions."""
