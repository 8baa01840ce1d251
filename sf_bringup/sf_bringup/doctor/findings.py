"""Findings of checks, and their table and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity of a finding: with a FAIL the arm must not be started."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One row of the table: ``subject`` was checked, ``seen`` is what was found."""

    level: Level
    subject: str
    seen: str
    cure: str = ""


def passed(subject: str, seen: str) -> Finding:
    """Return a finding of a check that passed."""
    return Finding(Level.PASS, subject, seen)


def warned(subject: str, seen: str, cure: str) -> Finding:
    """Return a finding with which the arm may be started."""
    return Finding(Level.WARN, subject, seen, cure)


def failed(subject: str, seen: str, cure: str) -> Finding:
    """Return a finding with which the arm must not be started."""
    return Finding(Level.FAIL, subject, seen, cure)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 if any check failed, else 0."""
    return int(any(finding.level is Level.FAIL for finding in findings))


def as_json(robot: str, findings: Sequence[Finding]) -> str:
    """Return all findings as JSON: ``{"robot": …, "ok": …, "findings": […]}``."""
    report = {
        "robot": robot,
        "ok": exit_code(findings) == 0,
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(report, indent=1)


def print_table(robot: str, findings: Sequence[Finding]) -> None:
    """Print the findings; failures come last, so that a terminal shows them without scrolling."""
    from rich.console import Console
    from rich.table import Table

    colours = {Level.PASS: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    order = [Level.PASS, Level.WARN, Level.FAIL]
    table = Table("", "what", "seen", "cure", title=f"doctor: {robot}", title_justify="left")
    for finding in sorted(findings, key=lambda each: order.index(each.level)):
        level = f"[{colours[finding.level]}]{finding.level}[/]"
        table.add_row(
            level, *(_plain(text) for text in (finding.subject, finding.seen, finding.cure))
        )
    console = Console()
    if not console.is_terminal:  # rich assumes 80 columns for a file or a pipe
        console.width = 160
    console.print(table)
    counts = {level: sum(finding.level is level for finding in findings) for level in order}
    print(", ".join(f"{count} {level}" for level, count in counts.items()))


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
