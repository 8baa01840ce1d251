"""Show episodes as HTML or MP4, and write Foxglove layouts. No ROS here."""
