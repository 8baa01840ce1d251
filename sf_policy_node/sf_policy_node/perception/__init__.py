"""Turn messages of cameras and joints into observations. No ROS here."""
