import pytest

import sf_policy_node.hypothesis_profile  # noqa: F401  (loads the settings)
from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)


@pytest.fixture
def bench():
    """An active executor with a perfect arm that stands still."""
    from motion_cases import Bench, sim_arm

    return Bench(sim_arm())


@pytest.fixture
def graph(ros_domain, monkeypatch):  # noqa: F811
    """Nodes of this test in a domain of their own, with a clock that stands while the machine is
    too busy.
    """
    from node_cases import Graph

    from sf_policy_node.nodes import chunk_executor

    graph = Graph()
    monkeypatch.setattr(chunk_executor, "time", graph.stopwatch())
    yield graph
    graph.close()


@pytest.fixture
def processes_graph(ros_domain):  # noqa: F811
    """A peer of nodes that are processes, on the machine's clock."""
    from node_cases import Graph

    graph = Graph(clock=False)
    yield graph
    graph.close()


@pytest.fixture
def stage():
    """A policy session with a scripted policy, and a clock that the test turns."""
    from session_cases import Stage

    stage = Stage()
    yield stage
    stage.session.close()


@pytest.fixture
def policy(graph):
    """An active policy node with a scripted policy and an arm that stands still."""
    from policy_node_cases import Policy

    return Policy(graph)
