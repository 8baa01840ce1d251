"""Fixtures of this folder."""

import sf_policy_node.hypothesis_profile  # noqa: F401  (loads the settings)
from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)
