"""Fixtures of this folder."""

import pytest

import sf_policy_node.hypothesis_profile  # noqa: F401  (loads the settings)
from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Keep what is remembered of other people's bags in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
