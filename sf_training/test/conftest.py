"""Fixtures of this folder."""

import pytest
from synthetic_episodes import tiny_contract

import sf_policy_node.hypothesis_profile  # noqa: F401  (loads the settings)
from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)


@pytest.fixture(scope="module")
def contract():
    """Return the contract of the synthetic episodes."""
    return tiny_contract()


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Redirect the user's cache of foreign bags to the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
