"""What stands between any motion and the arm: limits checked, stops, the emergency stop, clocks and
joint states watched.
"""
