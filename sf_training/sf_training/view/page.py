"""Build self-contained HTML pages that work without network, on paper and with screen readers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

# One colour per joint, distinguishable with colour blindness (after Okabe and Ito).
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#4d4d4d",
    "#8c6d31",
    "#7b4173",
    "#637939",
)

_STYLE = """
:root{--ink:#1b2430;--muted:#5d6878;--line:#dfe3e9;--ground:#f5f6f8;--PASS:#1a7f4b;--WARN:#a86200;--FAIL:#b3261e;--link:#0b5cad}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:25px;margin:0 0 4px;line-height:1.25}
h2{font-size:18px;margin:38px 0 10px}
h3{font-size:15px;margin:0}
p{margin:6px 0}
a{color:var(--link)}
.muted{color:var(--muted)}
.small{font-size:13px}
.badge{display:inline-block;padding:1px 9px;border-radius:10px;color:#fff;font-weight:600;
font-size:12px;letter-spacing:.03em;vertical-align:1px}
.badge.big{font-size:17px;padding:3px 15px;border-radius:16px}
.PASS{background:var(--PASS)}.WARN{background:var(--WARN)}.FAIL{background:var(--FAIL)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0 0}
.tile{background:#fff;border:1px solid var(--line);border-radius:8px;padding:9px 16px;min-width:112px}
.tile b{display:block;font-size:21px;line-height:1.3}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid var(--line);border-radius:8px;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:7px 12px;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--muted);font-weight:600;font-size:13px}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
summary{cursor:pointer}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:14px}
figure{margin:0;background:#fff;border:1px solid var(--line);border-radius:8px;padding:10px 12px}
figure svg,figure img,figure video{width:100%;height:auto;display:block}
figcaption{color:var(--muted);font-size:13px;margin-top:4px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(540px,1fr));gap:14px}
.card{background:#fff;border:1px solid var(--line);border-left:5px solid var(--line);border-radius:8px;padding:11px 14px}
.card.is-FAIL{border-left-color:var(--FAIL)}.card.is-WARN{border-left-color:var(--WARN)}.card.is-PASS{border-left-color:var(--PASS)}
.strip{display:flex;gap:3px;margin-top:5px}
.strip img{width:calc(25% - 2px);border-radius:3px;display:block}
.card ul{margin:6px 0 0;padding-left:18px}
.spark{width:100%;height:74px;margin-top:7px;display:block}
.bar{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 12px;align-items:center}
button,input{font:inherit;font-size:14px;padding:4px 12px;border:1px solid var(--line);border-radius:6px;background:#fff;color:var(--ink)}
button[aria-pressed=true]{background:var(--ink);color:#fff}
:focus-visible{outline:2px solid var(--link);outline-offset:1px}
@media(max-width:620px){.cards,.figures{grid-template-columns:1fr}main{padding:16px 12px}}
@media print{body{background:#fff}.bar{display:none}.card,figure,tr{break-inside:avoid}}
"""  # noqa: E501


def page(title: str, body: str, script: str = "", style: str = "") -> str:
    """Return an HTML document; ``title`` is plain text, ``body`` is HTML."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,'
        f' initial-scale=1"><title>{escape(title)}</title>'
    )
    end = f"<script>{script}</script>" if script else ""
    head += f"<style>{_STYLE}{style}</style>"
    return (
        "<!doctype html>\n<html"
        f' lang="en"><head>{head}</head><body><main>\n{body}\n</main>{end}</body></html>\n'
    )


def badge(verdict: str, big: bool = False) -> str:
    """Return a coloured badge for a verdict: PASS, WARN or FAIL."""
    return f'<span class="badge{" big" * big} {verdict}">{verdict}</span>'


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """Return a row of key figures: (value, label), plain text."""
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{escape(value)}</b>{escape(what)}</div>'
            for value, what in entries
        )
        + "</div>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table.

    Args:
        header: plain text.
        rows: cells as HTML.
        numbers: indices of the columns that are aligned right.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if index in numbers else ''}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    head = cells("th", [escape(text) for text in header])
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>"
        + "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
        + "</tbody></table>"
    )


def image(jpeg: bytes, alt: str) -> str:
    """Return an embedded JPEG."""
    return (
        f'<img loading="lazy" alt="{escape(alt)}"'
        f' src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    )


def sparkline(times: np.ndarray, columns: np.ndarray, names: Sequence[str]) -> str:
    """Return a small SVG without axes of J curves.

    Args:
        times: (T,).
        columns: (T, J), each scaled to 0 to 1.
    """
    width, height = 600, 74
    span = max(float(times[-1] - times[0]), 1e-9) if len(times) else 1.0
    xs = (times - times[0]) / span * width if len(times) else times
    lines = []
    for index, (column, name) in enumerate(zip(columns.T, names, strict=True)):
        ys = height - 4 - np.clip(column, 0, 1) * (height - 8)
        points = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        colour = COLOURS[index % len(COLOURS)]
        line = (
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"'
            f' vector-effect="non-scaling-stroke" points="{points}">'
        )
        lines.append(f"{line}<title>{escape(name)}</title></polyline>")
    box = (
        f'<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"'
        ' aria-label="joint positions over time">'
    )
    return f"{box}{''.join(lines)}</svg>"
