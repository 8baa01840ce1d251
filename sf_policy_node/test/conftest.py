import pytest

import sf_policy_node.hypothesis_profile  # noqa: F401  (loads the settings)
from sf_policy_node.ros_testing import ros_domain  # noqa: F401  (a fixture of this folder)


@pytest.fixture
def bench():
    """Return an active executor with a perfect, stationary arm."""
    from motion_cases import Bench, sim_arm

    return Bench(sim_arm())


@pytest.fixture
def graph(ros_domain, monkeypatch):  # noqa: F811
    """Return a graph in its own ROS domain, with a clock that stops while the machine is busy."""
    from node_cases import Graph

    from sf_policy_node.nodes import chunk_executor

    graph = Graph()
    monkeypatch.setattr(chunk_executor, "time", graph.stopwatch())
    yield graph
    graph.close()


@pytest.fixture
def processes_graph(ros_domain):  # noqa: F811
    """Return a graph for nodes in separate processes, on the machine's clock."""
    from node_cases import Graph

    graph = Graph(clock=False)
    yield graph
    graph.close()


@pytest.fixture
def stage():
    """Return a policy session with a scripted policy and a manual clock."""
    from session_cases import Stage

    stage = Stage()
    yield stage
    stage.session.close()


@pytest.fixture
def policy(graph):
    """Return an active policy node with a scripted policy and a stationary arm."""
    from policy_node_cases import Policy

    return Policy(graph)
