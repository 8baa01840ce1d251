"""Fixtures of this folder."""

from hypothesis import HealthCheck, settings

from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)

settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # any machine's speed will do
settings.load_profile("suite")
