"""``sf_training view``: write an episode as HTML or MP4, or a Foxglove layout for a robot."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from sf_policy_node.contract import ContractError, load_contract
from sf_training.config_file import parse
from sf_training.data.bag_files import single_episode
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.progress import ProgressBar
from sf_training.view.episode import Episode, load
from sf_training.view.film import side_by_side, with_curves, write_film
from sf_training.view.foxglove import layout
from sf_training.view.player import player


@dataclass(frozen=True)
class Settings:
    """Show an episode: a page with video, curves and timeline (.html), or all in one video (.mp4).

    With a contract (.yaml) instead of an episode: a Foxglove layout for that robot (.json).
    """

    episode: Annotated[Path, tyro.conf.Positional]
    """Its directory or .mcap file; or a robot's contract."""
    out: Path | None = None
    """FILE.html, FILE.mp4 or FILE.json; default out/view/NAME.html."""
    contract: Path | None = None
    """The robot's contract, for bags of other recorders (its `bags` section); default the one in
    the bag.
    """
    width: int = 1080
    """Width of the video [pixels]."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    settings = parse(Settings, argv, "view")
    try:
        path = view(settings, Console())
    except (BagError, ContractError) as error:
        print(f"view: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"view: {error.filename}: {error.strerror}; choose another --out", file=sys.stderr)
        return 2
    print(path)
    return 0


def view(settings: Settings, console: Console) -> Path:
    """Write the file whose format the ending of ``out`` chooses; return its path.

    Raises:
        BagError, ContractError: the input cannot be used, or the ending is unknown.
    """
    robot = settings.episode.suffix in (".yaml", ".yml")
    out = settings.out or Path("out/view") / (
        settings.episode.stem + (".json" if robot else ".html")
    )
    endings = (".json",) if robot else (".html", ".mp4")
    if out.suffix not in endings:
        raise BagError(f"{out}: its name must end in {' or '.join(endings)}; choose another --out")
    if robot:
        text = json.dumps(layout(load_contract(settings.episode)), indent=1) + "\n"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        return out
    episode = load(
        EpisodeReader(
            single_episode(settings.episode),
            load_contract(settings.contract) if settings.contract else None,
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".mp4":
        write_film(out, _shown(with_curves(episode, settings.width), episode, console), episode.fps)
        return out
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "cameras.mp4"
        write_film(
            film, _shown(side_by_side(episode, settings.width), episode, console), episode.fps
        )
        out.write_text(player(episode, film.read_bytes()), encoding="utf-8")
    return out


def _shown(
    frames: Iterator[np.ndarray], episode: Episode, console: Console
) -> Iterator[np.ndarray]:
    with ProgressBar("encoding", console=console) as bar:
        yield from bar.track(frames, total=len(episode.indices))
