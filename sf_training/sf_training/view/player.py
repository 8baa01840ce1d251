"""Build the HTML page of an episode: camera video, curves and timeline that follow it, and the
episode record.
"""

from __future__ import annotations

import base64
import json
from html import escape

from sf_training.view.drawing import LEFT, RIGHT, draw, to_svg
from sf_training.view.episode import Episode
from sf_training.view.page import COLOURS, page, table, tiles

_STYLE = """
video{width:100%;display:block;border-radius:8px 8px 0 0;background:#000}
.follow{position:relative;background:#fff;border:1px solid var(--line);border-radius:0 0 8px 8px;cursor:crosshair}
.follow svg{width:100%;height:auto;display:block}
.cursor{position:absolute;top:0;bottom:0;width:1px;background:var(--FAIL);pointer-events:none}
.now{position:absolute;top:0;padding:0 5px;background:var(--FAIL);color:#fff;
font-size:12px;font-variant-numeric:tabular-nums;border-radius:0 0 5px 0}
"""  # noqa: E501
# %LEFT% and %RIGHT%: shares of the width at which the time axis begins and ends. A click between
# them jumps to that time in the video.
_SCRIPT = """
const video=document.querySelector('video'),area=document.querySelector('.follow'),cursor=document.querySelector('.cursor'),
now=document.querySelector('.now'),left=%LEFT%,right=%RIGHT%,duration=%DURATION%;
function follow(){const share=Math.min(video.currentTime/duration,1);cursor.style.left=100*(left+(right-left)*share)+'%';
now.style.left=cursor.style.left;now.textContent=video.currentTime.toFixed(2)+' s';requestAnimationFrame(follow)}
area.onclick=event=>{const box=area.getBoundingClientRect(),share=((event.clientX-box.left)/box.width-left)/(right-left);
video.currentTime=Math.max(0,Math.min(1,share))*duration};
document.querySelectorAll('[data-at]').forEach(link=>link.onclick=event=>{event.preventDefault();video.currentTime=link.dataset.at});
document.onkeydown=event=>{if(event.target!==document.body)return;const step={ArrowLeft:-1,ArrowRight:1}[event.key];
if(step){video.pause();video.currentTime=Math.max(0,video.currentTime+step/%FPS%)}
if(event.key===' '){event.preventDefault();video.paused?video.play():video.pause()}};
follow();
"""  # noqa: E501
_LEGEND = (
    "Solid: measured. Dashed: commanded. Every tick is a message. Click the curves to jump there;"
    " arrow keys step frame by frame, the space bar plays and pauses."
)
_HIDDEN = ("software", "drops", "schema_version", "instruction", "outcome", "operator")


def player(episode: Episode, film: bytes) -> str:
    """Return the HTML document; ``film`` is an MP4 of the cameras."""
    reader = episode.reader
    entries = [
        (f"{episode.duration_s:.1f} s", "duration"),
        (reader.outcome or "unknown", "outcome"),
        (reader.operator or "unknown", "operator"),
        (reader.contract.robot, "robot"),
    ]
    source = base64.b64encode(film).decode()
    parts = [
        f"<h1>“{escape(reader.instruction)}”</h1><p class=muted>{escape(reader.name)}</p>",
        tiles(entries),
        "<h2>Cameras and joints</h2>",
        f'<video controls muted loop playsinline src="data:video/mp4;base64,{source}"></video>',
        (
            f'<div class="follow">{to_svg(draw(episode, 11.0))}<div class="cursor"></div><div'
            ' class="now"></div></div>'
        ),
        f'<p class="muted small">{_LEGEND}</p>',
    ]
    if episode.events:
        rows = [
            [f'<a href="#" data-at="{event.at:.3f}">{event.at:.2f} s</a>', escape(event.text)]
            for event in episode.events
        ]
        parts += ["<h2>Events</h2>", table(["time", "event"], rows)]
    parts += ["<h2>Streams</h2>", _streams(episode), "<h2>Episode record</h2>", _record(episode)]
    script = _SCRIPT
    for name, value in (
        ("LEFT", LEFT),
        ("RIGHT", RIGHT),
        ("DURATION", episode.duration_s),
        ("FPS", episode.fps),
    ):
        script = script.replace(f"%{name}%", f"{value:.6f}")
    return page(f"{reader.name}: {reader.instruction}", "\n".join(parts), script, _STYLE)


def _streams(episode: Episode) -> str:
    rows = []
    for name, times in episode.arrivals.items():
        gaps = times[1:] - times[:-1]
        rate = f"{len(gaps) / gaps.sum():.1f}" if len(gaps) and gaps.sum() > 0 else "–"
        rows.append(
            [escape(name), str(len(times)), rate, f"{gaps.max() * 1e3:.0f}" if len(gaps) else "–"]
        )
    return table(["stream", "messages", "rate [Hz]", "longest gap [ms]"], rows, numbers=[1, 2, 3])


def _record(episode: Episode) -> str:
    reader = episode.reader
    rows = [
        [escape(key), escape(value)]
        for key, value in reader.metadata.items()
        if value and key not in _HIDDEN
    ]
    rows.append(["checksum", f"<code>{escape(reader.checksum)}</code>"])
    rows.append(
        [
            "software",
            escape(
                ", ".join(
                    f"{name} {version}"
                    for name, version in _software(reader.metadata).items()
                    if version
                )
            ),
        ]
    )
    rows.append(
        [
            "joints",
            " ".join(
                f'<span style="color:{COLOURS[index % len(COLOURS)]}">■</span> {escape(name)}'
                for index, name in enumerate(episode.joints)
            ),
        ]
    )
    return table(["key", "value"], rows)


def _software(metadata: dict[str, str]) -> dict[str, str]:
    try:
        found = json.loads(metadata.get("software", "{}"))
    except ValueError:
        return {}
    return (
        {str(name): str(version) for name, version in found.items()}
        if isinstance(found, dict)
        else {}
    )
