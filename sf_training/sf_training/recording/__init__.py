"""Episodes into rosbags, and their health."""
