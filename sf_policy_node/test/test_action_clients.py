"""Tests of noticing that the clients of an action are gone, with a stand-in for the graph."""

import pytest

from sf_policy_node.nodes.action_clients import ActionClients


class Graph:
    """Stands for a node; ``counts`` are the subscribers by topic."""

    def __init__(self):
        self.counts = {}

    def count_subscribers(self, topic):
        return self.counts.get(topic, 0)


@pytest.mark.parametrize("action", ["run_instruction", "~/go_home"])
def test_clients_are_gone_once_the_last_subscription_to_the_feedback_ends(action):
    graph, feedback = Graph(), f"{action}/_action/feedback"
    clients = ActionClients(graph, action)
    seen = []
    for count in (0, 1, 2, 1, 0, 0):
        graph.counts = {feedback: count, "left/other/_action/feedback": 1}
        seen.append(clients.are_gone())
    assert seen == [False, False, False, False, True, False]


def test_a_new_goal_waits_until_its_client_is_discovered():
    graph, feedback = Graph(), "~/go_home/_action/feedback"
    clients = ActionClients(graph, "~/go_home")
    graph.counts[feedback] = 1
    assert not clients.are_gone()
    graph.counts[feedback] = 0
    clients.begin()
    assert not clients.are_gone(), "the client of the goal before is gone, not that of this one"
    graph.counts[feedback] = 1
    assert not clients.are_gone()
    graph.counts[feedback] = 0
    assert clients.are_gone()
