"""Write the HTML report of lint: verdict, findings, figures of the data set, thumbnails of every
episode.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from sf_training.lint.checks import Finding
from sf_training.lint.collection import Lint
from sf_training.lint.measure import EpisodeMeasure
from sf_training.lint.plots import figures, limits_of
from sf_training.lint.thresholds import Thresholds, Verdict
from sf_training.view.page import COLOURS, badge, image, page, sparkline, table, tiles

_LISTED = 40  # names of episodes that a finding lists
_FLAT = 0.05  # share of its limits: a joint that moves less is drawn nearly flat, not enlarged

_FILTER = """
const cards=[...document.querySelectorAll('[data-verdict]')],buttons=[...document.querySelectorAll('button[data-show]')],
search=document.getElementById('search'),none=document.getElementById('none');
function show(){const level=buttons.find(b=>b.ariaPressed==='true').dataset.show,text=search.value.toLowerCase();let shown=0;
cards.forEach(c=>{const on=(level==='all'||c.dataset.verdict===level)&&c.dataset.text.includes(text);c.hidden=!on;shown+=on});
none.hidden=shown>0}
buttons.forEach(b=>b.onclick=()=>{buttons.forEach(o=>o.ariaPressed=String(o===b));show()});search.oninput=show;
document.querySelectorAll('a[href^="#ep-"]').forEach(a=>a.onclick=()=>{search.value='';buttons[0].click()});
"""  # noqa: E501


def write_report(
    path: Path, result: Lint, data: Sequence[Path], limits: Thresholds, thumbnails: int
) -> None:
    """Write :func:`report` to a file.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(result, data, limits, thumbnails), encoding="utf-8")


def report(result: Lint, data: Sequence[Path], limits: Thresholds, thumbnails: int) -> str:
    """Return the HTML document, with thumbnails of the ``thumbnails`` worst episodes and the others
    as rows of a table.
    """
    by_episode: dict[str, list[Finding]] = defaultdict(list)
    for finding in result.findings:
        for name in finding.episodes:
            by_episode[name].append(finding)
    ordered = sorted(result.measures, key=lambda measure: -result.verdicts[measure.name])
    shown = [measure for measure in ordered if not measure.broken][:thumbnails]
    rest = [measure for measure in ordered if measure not in shown]
    parts = [
        _head(result, data),
        "<h2>What is wrong</h2>",
        _wrong(result),
        "<h2>The set in figures</h2>",
        '<div class="figures">',
    ]
    parts += [
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in figures(result)
    ]
    parts += [
        "</div>",
        "<h2>Episodes</h2>",
        _bar(result),
        '<p id="none" class="muted" hidden>No episode matches.</p>',
        '<div class="cards">',
    ]
    parts += [
        _card(measure, result.verdicts[measure.name], by_episode[measure.name]) for measure in shown
    ]
    parts += [
        "</div>",
        _lines(rest, result, by_episode) if rest else "",
        "<h2>Thresholds</h2>",
        _thresholds(limits),
    ]
    return page(f"{result.verdict.name}: {_folders(data)}", "\n".join(parts), _FILTER)


def _folders(data: Sequence[Path]) -> str:
    if len(data) <= 3:
        return ", ".join(map(str, data))
    parents = list(dict.fromkeys(str(path.parent) for path in data))
    return f"{len(data)} episodes in {', '.join(parents[:3])}" + " …" * (len(parents) > 3)


def _head(result: Lint, data: Sequence[Path]) -> str:
    measures = result.measures
    counts = {
        level: sum(verdict == level for verdict in result.verdicts.values()) for level in Verdict
    }
    robots = sorted({measure.contract.robot for measure in measures if measure.contract})
    seconds = sum(measure.duration_s for measure in measures)
    bad = counts[Verdict.FAIL]
    summary = {
        Verdict.FAIL: (
            f"{bad} of {len(measures)} episodes should not be trained on."
            if bad
            else "The set should not be trained on."
        ),
        Verdict.WARN: "It can be trained on; check the warnings first.",
        Verdict.PASS: "No problem was found.",
    }[result.verdict]
    outcomes: dict[str, int] = defaultdict(int)
    for measure in measures:
        outcomes[measure.outcome or "unreadable"] += 1
    entries = [
        (str(len(measures)), "episodes"),
        (_duration(seconds), "recorded"),
        (str(sum(measure.usable for measure in measures)), "usable steps"),
        *((str(count), outcome) for outcome, count in outcomes.items()),
        *((str(count), level.name) for level, count in counts.items()),
    ]
    robot = f"Robot {escape(', '.join(robots))}. " if robots else ""
    return (
        f"<h1>{badge(result.verdict.name, big=True)}"
        f" {escape(_folders(data))}</h1><p>{robot}{summary}</p>{tiles(entries)}"
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _wrong(result: Lint) -> str:
    rows = []
    for group in result.grouped():
        worst = group[0]
        what = f"<b>{escape(worst.check)}</b>" + (
            f"<br>{escape(worst.subject)}" if worst.subject else ""
        )
        text = escape(worst.text)
        if worst.episodes:
            text = f"{_link(worst.episodes[0])}: {text}"
        if len(group) > 1:
            names = [name for finding in group for name in finding.episodes]
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            text += (
                '<details class="small"><summary>all'
                f" {len(names)}</summary>{', '.join(map(_link, names[:_LISTED]))}{more}</details>"
            )
        rows.append(
            [
                badge(worst.level.name),
                what,
                str(len(group)) if worst.episodes else "all",
                text,
                escape(worst.cure),
            ]
        )
    if not rows:
        return "<p>Nothing was found.</p>"
    return table(
        ["level", "check", "episodes", "the worst of them", "what to do"], rows, numbers=[2]
    )


def _link(name: str) -> str:
    return f'<a href="#ep-{escape(name)}">{escape(name)}</a>'


def _bar(result: Lint) -> str:
    counts = {
        level: sum(verdict == level for verdict in result.verdicts.values()) for level in Verdict
    }
    buttons = [f'<button data-show="all" aria-pressed="true">all {len(result.measures)}</button>']
    buttons += [
        f'<button data-show="{level.name}" aria-pressed="false">{level.name} {count}</button>'
        for level, count in counts.items()
        if count
    ]
    search = (
        '<input id="search" type="search" placeholder="name or instruction" aria-label="search'
        ' episodes">'
    )
    return f'<div class="bar">{"".join(buttons)}{search}</div>'


def _data(measure: EpisodeMeasure, verdict: Verdict) -> str:
    text = escape(f"{measure.name} {measure.instruction} {measure.outcome}".lower(), quote=True)
    return f'id="ep-{escape(measure.name)}" data-verdict="{verdict.name}" data-text="{text}"'


def _card(measure: EpisodeMeasure, verdict: Verdict, findings: list[Finding]) -> str:
    steps = f"{measure.usable} of {measure.steps} steps usable"
    facts = (
        f"{measure.duration_s:.1f} s, {steps}, {measure.outcome}, by"
        f" {measure.operator or 'unknown'}"
    )
    parts = [f'<article class="card is-{verdict.name}" {_data(measure, verdict)}>']
    parts.append(f"<h3>{badge(verdict.name)} {escape(measure.name)}</h3>")
    parts.append(
        f'<p>“{escape(measure.instruction)}”</p><p class="muted small">{escape(facts)}</p>'
    )
    for camera in measure.cameras:
        images = "".join(
            image(jpeg, f"{camera.name} camera, {index + 1} of {len(camera.thumbnails)}")
            for index, jpeg in enumerate(camera.thumbnails)
        )
        parts.append(f'<div class="strip" title="{escape(camera.name)} camera">{images}</div>')
    if measure.motion is not None:
        low, high = measure.motion.positions.min(axis=0), measure.motion.positions.max(axis=0)
        span = np.maximum(high - low, _FLAT * limits_of(measure)[1])
        parts.append(
            sparkline(
                measure.motion.times,
                0.5 + (measure.motion.positions - (low + high) / 2) / span,
                measure.motion.names,
            )
        )
        legend = " ".join(
            f'<span style="color:{COLOURS[index % len(COLOURS)]}">■</span> {escape(name)}'
            for index, name in enumerate(measure.motion.names)
        )
        parts.append(f'<p class="muted small">{legend}</p>')
    if findings:
        lines = "".join(
            f"<li>{badge(each.level.name)} <b>{escape(each.check)}</b> {escape(each.subject)}:"
            f" {escape(each.text)}</li>"
            for each in findings
        )
        parts.append(f'<ul class="small">{lines}</ul>')
    return "".join([*parts, "</article>"])


def _lines(
    measures: list[EpisodeMeasure], result: Lint, by_episode: dict[str, list[Finding]]
) -> str:
    rows = []
    for measure in measures:
        verdict = result.verdicts[measure.name]
        text = "; ".join(
            f"{finding.check} {finding.subject}".strip() for finding in by_episode[measure.name]
        )
        if measure.broken:
            text = escape(measure.broken)
        cells = [
            badge(verdict.name),
            escape(measure.name),
            escape(measure.instruction),
            escape(measure.outcome),
            f"{measure.duration_s:.1f}",
            text,
        ]
        numbers = "".join(
            f"<td{' class=number' if index == 4 else ''}>{cell}</td>"
            for index, cell in enumerate(cells)
        )
        rows.append(f"<tr {_data(measure, verdict)}>{numbers}</tr>")
    head = "".join(
        f"<th>{text}</th>"
        for text in ("verdict", "episode", "instruction", "outcome", "seconds", "findings")
    )
    return (
        "<table"
        f' style="margin-top:14px"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _thresholds(limits: Thresholds) -> str:
    rows = [
        [
            f"<code>--limits.{entry.name.replace('_', '-')}</code>",
            f"{getattr(limits, entry.name):g}",
        ]
        for entry in dataclasses.fields(limits)
    ]
    half = -(-len(rows) // 2)
    pairs = [
        [*left, *(rows[half + index] if half + index < len(rows) else ["", ""])]
        for index, left in enumerate(rows[:half])
    ]
    return table(["flag", "value", "flag", "value"], pairs, numbers=[1, 3])
