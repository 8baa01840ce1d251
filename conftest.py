"""Settings of all tests: nothing depends on the machine's speed, and `pytest -n` shares the tests
well.
"""

import pytest

import sf_policy_node.hypothesis_profile  # noqa: F401  (loads the settings)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that start nodes last, and all by one worker; other files go to any worker as a
    whole.

    So a simulated arm and its nodes have the machine to themselves, and the fixtures of a module
    are made once.
    """
    for item in items:
        if "ros_domain" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ros)
        with_nodes = item.get_closest_marker("ros") is not None
        item.add_marker(pytest.mark.xdist_group("ros" if with_nodes else item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("ros") is not None)
