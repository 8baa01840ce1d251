"""Draw the node graphs in ``doc/architecture.md``: ``python3 -m sf_bringup.node_graph``.

Nodes come from :mod:`sf_bringup.journeys`, topics from ``doc/reference.md``, which a test compares
with the running nodes. Another test compares the diagrams with both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sf_bringup.journeys import JOURNEYS

# Every node publishes diagnostics, and the clock goes to every node.
_NOT_DRAWN = {"/diagnostics", "/clock"}
_RECORDER = "recorder"  # subscribes to every topic of the contract, drawn as one edge
_OPERATOR = "operator"
_CONTROLLER = "trajectory_controller"
# Source, or for the last one subscriber, of topics that no node of the workspace has.
_OUTSIDE = {
    "/instruction": _OPERATOR,
    "/emergency_stop": "emergency_stop_button",
    "/replay/joint_command": "replay",
    "/joint_trajectory_controller/joint_trajectory": _CONTROLLER,
}


@dataclass
class NodeTopics:
    """Hold the topics that one node publishes and subscribes to."""

    publishes: set[str]
    subscribes: set[str]


def read_reference(page: str) -> dict[str, NodeTopics]:
    """Return the topics of every node from the text of ``doc/reference.md``."""
    nodes: dict[str, NodeTopics] = {}
    topics: set[str] | None = None
    for line in page.splitlines():
        if heading := re.match(r"## (\w+)", line):
            nodes[heading[1]] = NodeTopics(set(), set())
            name = heading[1]
        elif table := re.match(r"\| (publishes|subscribes to|offers|parameter) \|", line):
            topics = {
                "publishes": nodes[name].publishes,
                "subscribes to": nodes[name].subscribes,
            }.get(table[1])
        elif topics is not None and (row := re.match(r"\| `([^`]+)`", line)):
            topics.add(row[1].replace("~/", f"/{name}/"))
    return nodes


def draw(journey: str, nodes: dict[str, NodeTopics]) -> str:
    """Return the Mermaid flowchart of one journey.

    Args:
        journey: key of :data:`sf_bringup.journeys.JOURNEYS`.
        nodes: topics of every node, see :func:`read_reference`.
    """
    names = [node.name for node in JOURNEYS[journey].nodes if node.name in nodes]
    lines = ["flowchart LR"]
    lines += [f"    {name}[{name}]" for name in names]
    for source, target, topics in _edges(names, nodes):
        lines.append(f'    {source} -- "{"<br/>".join(topics)}" --> {target}')
    lines.append(f"    {_CONTROLLER} -. joint commands .-> sim_arm")
    if _RECORDER in names:
        lines.append(f'    every_topic(["every topic of the contract"]) --> {_RECORDER}')
    return "\n".join(lines)


def _edges(names: list[str], nodes: dict[str, NodeTopics]) -> Iterator[tuple[str, str, list[str]]]:
    drawn = [name for name in names if name != _RECORDER]
    edges: dict[tuple[str, str], list[str]] = {}
    published = {topic for name in drawn for topic in nodes[name].publishes}
    for target in drawn:
        for topic in sorted(nodes[target].subscribes - _NOT_DRAWN):
            sources = [name for name in drawn if topic in nodes[name].publishes and name != target]
            if topic not in published and topic in _OUTSIDE:
                sources = [_OUTSIDE[topic]]
            for source in sources:
                edges.setdefault((source, target), []).append(topic)
    for source in drawn:
        for topic in sorted(nodes[source].publishes):
            if _OUTSIDE.get(topic) == _CONTROLLER:
                edges.setdefault((source, _CONTROLLER), []).append(topic)
    for (source, target), topics in edges.items():
        yield source, target, topics


def fill(page: str, nodes: dict[str, NodeTopics]) -> str:
    """Return a page with a new diagram after each ``<!-- node graph: JOURNEY -->``."""
    return re.sub(
        r"(<!-- node graph: (\w+) -->\n).*?(<!-- end -->)",
        lambda mark: f"{mark[1]}```mermaid\n{draw(mark[2], nodes)}\n```\n{mark[3]}",
        page,
        flags=re.DOTALL,
    )


def main() -> int:
    """Replace the diagrams in ``doc/architecture.md``; return the exit code."""
    doc = Path(__file__).resolve().parents[1] / "doc"
    nodes = read_reference((doc / "reference.md").read_text(encoding="utf-8"))
    page = doc / "architecture.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), nodes), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
