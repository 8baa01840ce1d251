"""LeRobot v3 datasets, written and read with pyarrow and av; lerobot itself is not needed. No ROS
here.
"""
