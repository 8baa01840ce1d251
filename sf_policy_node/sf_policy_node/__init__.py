"""Run time of the suite: sees, decides, moves."""
