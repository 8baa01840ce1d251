"""Fixtures of this folder."""

from ros_testing import ros_domain  # noqa: F401  (tests/ros_testing.py: a fixture for the tests of this folder)
