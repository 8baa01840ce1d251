"""Fixtures of this folder."""

from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)
