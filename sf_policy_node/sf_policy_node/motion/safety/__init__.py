"""Checks every motion before it is sent, stops the arm, and watches clock and joint states."""
