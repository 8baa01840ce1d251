"""Teleoperate the arm with a dead-man switch, and replay recorded episodes."""
