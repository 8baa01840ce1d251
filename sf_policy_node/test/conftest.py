import pytest


@pytest.fixture
def graph(ros_domain):
    """Nodes of this test in a domain of their own."""
    from node_cases import Graph

    graph = Graph()
    yield graph
    graph.close()
