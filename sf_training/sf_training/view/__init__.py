"""Episodes for the eye: HTML, MP4 and a Foxglove layout. No ROS here."""
