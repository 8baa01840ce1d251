"""Judging a checkpoint on recorded episodes. No ROS."""
