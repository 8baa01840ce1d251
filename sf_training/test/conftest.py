"""Fixtures of this folder."""

import pytest
from hypothesis import HealthCheck, settings

from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)

settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # any machine's speed will do
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Keep what is remembered of other people's bags in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
