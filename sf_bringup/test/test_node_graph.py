"""Tests that the node graphs of the architecture page match the code."""

from pathlib import Path

import pytest

from sf_bringup.node_graph import draw, fill, read_reference

DOC = Path(__file__).resolve().parents[1] / "doc"


@pytest.fixture(scope="module")
def nodes():
    return read_reference((DOC / "reference.md").read_text(encoding="utf-8"))


def test_the_architecture_page_is_current(nodes):
    page = (DOC / "architecture.md").read_text(encoding="utf-8")
    assert page == fill(page, nodes), "run python3 -m sf_bringup.node_graph"


def test_chunks_go_through_the_executor_to_the_controller(nodes):
    lines = draw("arm", nodes).splitlines()
    assert (
        '    policy_node -- "/policy/action_chunk<br/>/policy/status" --> chunk_executor' in lines
    )
    direct = [
        line for line in lines if "policy_node --" in line and "trajectory_controller" in line
    ]
    assert not direct


def test_a_topic_that_moves_changes_the_diagram(nodes):
    moved = read_reference(
        (DOC / "reference.md")
        .read_text(encoding="utf-8")
        .replace("`/policy/action_chunk`", "`/policy/chunks`")
    )
    assert draw("arm", moved) != draw("arm", nodes)
