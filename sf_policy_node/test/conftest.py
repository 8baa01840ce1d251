import pytest


@pytest.fixture
def bench():
    """An active executor with a perfect arm that stands still."""
    from motion_cases import Bench, sim_arm

    return Bench(sim_arm())


@pytest.fixture
def graph(ros_domain):
    """Nodes of this test in a domain of their own."""
    from node_cases import Graph

    graph = Graph()
    yield graph
    graph.close()
