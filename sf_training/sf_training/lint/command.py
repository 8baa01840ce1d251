"""``sf_training lint``: check episodes; print a table, write an HTML report and JSON."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_training.config_file import parse
from sf_training.data.bag_files import unfinished_episodes
from sf_training.data.episode_reader import BagError, find_episodes
from sf_training.lint.collection import Lint, judge
from sf_training.lint.measure import EpisodeMeasure, measure_episode
from sf_training.lint.report import write_report
from sf_training.lint.thresholds import Thresholds, Verdict
from sf_training.progress import ProgressBar

_STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_POOL_MIN = 8  # episodes; fewer are measured faster than processes start


@dataclass(frozen=True)
class Settings:
    """Check episodes before a model learns from them. Exit code 0: nothing worse than a warning; 1:
    something fails; 2: bad input.
    """

    data: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders with episodes, or episodes."""
    out: Path = Path("out/lint/report.html")
    """The report, a self-contained file; the same as JSON beside it."""
    frames: int = 16
    """Frames of each camera in every episode that are checked for brightness, blur and so on."""
    thumbnails: int = 60
    """Episodes that the report shows with thumbnails, the worst first."""
    contract: Path | None = None
    """The robot's contract, for bags of other recorders (its `bags` section); default the one in
    each bag.
    """
    strict: bool = False
    """Exit with 1 on warnings, too."""
    workers: int = 2
    """Number of processes."""
    limits: Thresholds = field(default_factory=Thresholds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    settings = parse(Settings, argv, "lint")
    console = Console()
    try:
        result = lint(settings, console)
        write_report(settings.out, result, settings.data, settings.limits, settings.thumbnails)
        settings.out.with_suffix(".json").write_text(to_json(result, settings), encoding="utf-8")
    except (BagError, ContractError) as error:
        print(f"lint: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"lint: {error.filename}: {error.strerror}; choose another --out", file=sys.stderr)
        return 2
    show(result, console)
    console.print(f"report: {settings.out}", highlight=False, soft_wrap=True)
    return int(result.verdict >= (Verdict.WARN if settings.strict else Verdict.FAIL))


def lint(settings: Settings, console: Console) -> Lint:
    """Measure and judge all episodes.

    Raises:
        BagError, ContractError: there is no episode or no such contract. Problems of an episode are
            findings instead.
    """
    bags = [bag for root in settings.data for bag in find_episodes(root)]
    bags += [bag for root in settings.data for bag in unfinished_episodes(root)]
    contract = load_contract(settings.contract) if settings.contract else None
    with ProgressBar("checking episodes", console=console) as bar:
        measures = list(bar.track(_measured(bags, settings, contract), total=len(bags)))
    return judge(_with_own_names(measures), settings.limits)


def _with_own_names(measures: list[EpisodeMeasure]) -> list[EpisodeMeasure]:
    """Replace the names of episodes by their paths where several have the same name."""
    counts = Counter(measure.name for measure in measures)
    return [
        dataclasses.replace(measure, name=measure.path) if counts[measure.name] > 1 else measure
        for measure in measures
    ]


def _measured(
    bags: list[Path], settings: Settings, contract: Contract | None
) -> Iterator[EpisodeMeasure]:
    if settings.workers <= 1 or len(bags) < _POOL_MIN:
        yield from (
            measure_episode(bag, settings.limits, settings.frames, contract) for bag in bags
        )
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        settings.workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            same = ([value] * len(bags) for value in (settings.limits, settings.frames, contract))
            yield from pool.map(measure_episode, bags, *same, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)


def show(result: Lint, console: Console) -> None:
    """Print one line for each kind of problem, and totals."""
    table = Table(title="What is wrong", title_justify="left", expand=console.is_terminal)
    table.add_column("level")
    table.add_column("check", no_wrap=True)
    table.add_column("episodes", justify="right")
    table.add_column("the worst of them", ratio=3)
    table.add_column("what to do", ratio=2)
    for group in result.grouped():
        worst = group[0]
        name = f"{worst.episodes[0]}: " if worst.episodes else ""
        check = escape(f"{worst.check}, {worst.subject}" if worst.subject else worst.check)
        style = _STYLES[worst.level]
        count = str(len(group)) if worst.episodes else "all"
        table.add_row(
            f"[{style}]{worst.level.name}[/]",
            check,
            count,
            escape(name + worst.text),
            escape(worst.cure),
        )
    if table.row_count:
        console.print(table)
    totals = summary(result)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in totals["outcomes"].items())
    levels = ", ".join(
        f"[{_STYLES[Verdict[name]]}]{count} {name}[/]" for name, count in totals["verdicts"].items()
    )
    console.print(
        f"{totals['episodes']} episodes ({outcomes}), {totals['seconds']:.0f} s, {totals['steps']}"
        f" usable steps: {levels}",
        highlight=False,
    )
    checked = totals["checked"]
    console.print(
        f"read: {checked['messages']} message headers, {checked['commands']} commands,"
        f" {checked['images']} images; {checked['looked_at']} of them checked for exposure",
        highlight=False,
    )
    console.print(f"verdict: [{_STYLES[result.verdict]}]{result.verdict.name}[/]")


def summary(result: Lint) -> dict:
    """Return totals: episodes, seconds, usable policy steps, and counts of outcomes, verdicts and
    instructions, the most frequent first.
    """
    measures = result.measures
    return {
        "episodes": len(measures),
        "seconds": sum(measure.duration_s for measure in measures),
        "steps": sum(measure.usable for measure in measures),
        "outcomes": dict(
            Counter(measure.outcome or "unreadable" for measure in measures).most_common()
        ),
        "verdicts": {
            level.name: sum(verdict == level for verdict in result.verdicts.values())
            for level in Verdict
        },
        "instructions": dict(
            Counter(text for measure in measures for text in measure.instructions).most_common()
        ),
        "checked": {
            "messages": sum(measure.messages for measure in measures),
            "commands": sum(measure.commands for measure in measures),
            "images": sum(
                len(images.readable) for measure in measures for images in measure.images
            ),
            "looked_at": sum(
                len(camera.times) for measure in measures for camera in measure.cameras
            ),
        },
    }


def to_json(result: Lint, settings: Settings) -> str:
    """Return verdict, totals, thresholds and findings as JSON, for programs."""
    findings = [
        {**dataclasses.asdict(finding), "level": finding.level.name} for finding in result.findings
    ]
    content = {
        "verdict": result.verdict.name,
        "summary": summary(result),
        "limits": dataclasses.asdict(settings.limits),
        "findings": findings,
        "episodes": {
            measure.path: result.verdicts[measure.name].name for measure in result.measures
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False)
