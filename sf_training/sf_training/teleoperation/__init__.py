"""Teleoperation of the arm with a dead-man switch, and replay of recorded episodes."""
