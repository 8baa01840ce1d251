"""``sf_training lerobot export|import``: convert episodes to a LeRobot v3.0 dataset, and back."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from sf_policy_node.contract import ContractError, load_contract
from sf_training.config_file import parse, usage_of
from sf_training.data.episode_reader import BagError, find_episodes
from sf_training.data.image_rows import images_in_rows
from sf_training.data.opening import (
    VERDICTS,
    LeftOut,
    check_strict,
    none_left,
    open_bags,
    print_left_out,
)
from sf_training.lerobot import layout
from sf_training.lerobot.dataset_reader import DatasetReader
from sf_training.lerobot.export_bags import (
    ActionSource,
    frames_per_second,
    open_dataset,
    stretches,
    write_sources,
)
from sf_training.lerobot.export_depth import depth_in_rows
from sf_training.lerobot.import_bags import Reader, mapping, write_episode
from sf_training.lerobot.import_folder import all_or_nothing
from sf_training.lerobot.instructions import Level
from sf_training.lerobot.layout import LeRobotError
from sf_training.lerobot.rlds_reader import RldsReader, is_rlds
from sf_training.lerobot.units import Units
from sf_training.lerobot.video import Codec
from sf_training.progress import ProgressBar
from sf_training.recording.writer.episode_writer import EpisodeWriteError

_USAGE = """usage: {lerobot} export EPISODES --out DATASET   bags to a LeRobot v3.0 dataset
       {lerobot} import DATASET --out EPISODES   and back
       {lerobot} export --help                   the options of either"""


@dataclass(frozen=True)
class Export:
    """Write episodes as a LeRobot v3.0 dataset: state and action are joint positions, images are
    stored as videos. lerobot is not needed.
    """

    data: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders with episodes, or episodes."""
    out: Path
    """The dataset; must not exist."""
    contract: Path | None = None
    """The robot's contract, for bags of other recorders (its `bags` section); default the one in
    the bags.
    """
    fps: int | None = None
    """Frames per second; default the contract's, 1 / action.step_s."""
    action: ActionSource = "commanded"
    """What the operator commanded, or what the joints measured, one frame later."""
    strict: bool = False
    """Stop at the first unusable episode or anomaly; otherwise list and exclude such episodes."""
    verdicts: tuple[str, ...] = VERDICTS
    """Episodes with another verdict of the recorder are left out."""
    outcomes: tuple[str, ...] = ("success",)
    """Episodes with another outcome are left out."""
    hold: int = 2
    """Gaps of at most this many frames are filled with the previous frame; longer ones split the
    episode.
    """
    command_age_s: float = 0.5
    """Frames with an older command are left out: the operator had released the dead-man switch [s].
    """
    min_frames: int = 2
    """Shorter pieces are left out."""
    depth: bool = False
    """Add depth of the cameras that have it: NAME_depth, in lerobot's format."""
    effort: bool = False
    """Add efforts of the joint states: observation.effort."""
    codec: Codec = "h264"
    """h264 is faster to write; av1, the default of LeRobot, is smaller."""


@dataclass(frozen=True)
class Import:
    """Write the episodes of a LeRobot dataset, or of LIBERO in RLDS format, as bags of a robot, for
    training. Neither lerobot nor TensorFlow is needed.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's directory: of LeRobot, or with the TFRecord shards of an RLDS dataset."""
    out: Path
    """Folder for the episodes."""
    contract: Path | None = None
    """The robot's contract; default the one that `lerobot export` left in the dataset."""
    cameras: tuple[str, ...] = ()
    """Cameras with other names there: OURS=THEIRS …"""
    joints: tuple[str, ...] = ()
    """Joints with other names there: OURS=THEIRS …, or OURS=NUMBER of the column, from 0."""
    units: Units = "auto"
    """Units of the arm joints in the dataset. auto: radians; values far beyond the contract's
    limits are refused, with a guess of their unit.
    normalised: from -100 to 100, mapped to the joint's limits in the contract (in the dataset, the
    calibrated range of each motor)."""
    gripper: tuple[float, float] | None = None
    """The dataset's values for CLOSED OPEN; default 0 100 with normalised, else as in the
    contract.
    """
    instructions: Level = "task"
    """Source of the instruction: the task of each frame, or its subtask (subtask_index or
    language_persistent).
    """
    instruction: str = ""
    """One instruction for all episodes; default those of the dataset."""
    skip_damaged: bool = False
    """Leave out episodes that cannot be read, and list them; default: stop at the first one and
    write nothing.
    """
    episodes: int | None = None
    """Only this many, from the first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in ("export", "import"):
        usage = _USAGE.format(lerobot=usage_of("lerobot"))
        print(usage, file=sys.stdout if words and words[0] in ("-h", "--help") else sys.stderr)
        return 0 if words and words[0] in ("-h", "--help") else 2
    console = Console()
    try:
        if words[0] == "export":
            export(parse(Export, words[1:], "lerobot export"), console)
        else:
            import_dataset(parse(Import, words[1:], "lerobot import"), console)
    except (BagError, LeRobotError, ContractError, EpisodeWriteError) as error:
        print(f"lerobot {words[0]}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"lerobot {words[0]}: {error.filename}: {error.strerror}; choose another --out, or free"
            " some space",
            file=sys.stderr,
        )
        return 2
    return 0


def export(settings: Export, console: Console) -> Path:
    """Write the dataset; return its directory."""
    given = load_contract(settings.contract) if settings.contract else None
    bags = [bag for root in settings.data for bag in find_episodes(root)]
    opened = open_bags(bags, given, settings.outcomes, settings.verdicts, settings.strict)
    contract, left_out, notes = opened.contract, list(opened.left_out), []
    fps = frames_per_second(contract, settings.fps)
    unmeasured, filled, short = 0, 0, 0
    without_effort: Counter[str] = Counter()
    sources: list[dict[str, Any]] = []
    extras = {"depth": settings.depth, "effort": settings.effort}
    with (
        open_dataset(settings.out, contract, fps, settings.codec, **extras) as writer,
        ProgressBar("writing episodes", console=console) as bar,
    ):
        for reader in bar.track(opened.readers):
            with reader.cached_in_memory():
                found: list[str] = []
                try:
                    pieces = stretches(
                        reader,
                        fps,
                        settings.action,
                        settings.hold,
                        settings.command_age_s,
                        **extras,
                        notes=found,
                    )
                except BagError as error:
                    if settings.strict or len(opened.readers) == 1:
                        raise
                    left_out.append(LeftOut(reader.path, str(error)))
                    continue
                notes += [f"{reader.path}: {note}" for note in dict.fromkeys(found)]
                check_strict(settings.strict, left_out, notes)
                for stretch in pieces:
                    if len(stretch.state) < settings.min_frames:
                        short += 1
                        continue
                    images = images_in_rows(reader, stretch.indices)
                    if stretch.depths is not None:
                        images = itertools.chain(images, depth_in_rows(reader, stretch.depths))
                        unmeasured += int((stretch.depths < 0).sum())
                    if stretch.effort is not None:
                        unknown = np.isnan(stretch.effort).sum(axis=0).tolist()
                        without_effort.update(
                            dict(zip(contract.command_joints, unknown, strict=True))
                        )
                    writer.add_episode(
                        stretch.tasks,
                        stretch.state,
                        stretch.action,
                        stretch.stamps,
                        images,
                        None if stretch.effort is None else np.nan_to_num(stretch.effort),
                    )
                    filled += stretch.filled
                    entry = {
                        "bag": reader.name,
                        "sha256": reader.checksum,
                        "outcome": reader.outcome,
                        "frames": len(stretch.state),
                    }
                    sources.append(entry | {"filled": stretch.filled})
        if not sources and left_out:
            raise none_left(left_out, opened.count, opened.outcomes, settings.outcomes)
        write_sources(writer.root, contract, sources)
        path = writer.finish()
    print_left_out(console, left_out, notes, roots=settings.data)
    if unmeasured:
        console.print(
            f"warning: {unmeasured} depth images are missing in the bags and empty in the dataset",
            soft_wrap=True,
        )
    frames = sum(entry["frames"] for entry in sources)
    if lacking := {name: count for name, count in without_effort.items() if count}:
        console.print(
            "warning: efforts are missing in the bags and 0 in the dataset: "
            + ", ".join(f"{name} in {count} of {frames} frames" for name, count in lacking.items()),
            highlight=False,
            soft_wrap=True,
        )
    other = sum(
        count
        for outcome, count in opened.outcomes.items()
        if outcome not in (*settings.outcomes, "unreadable")
    )
    left = (
        f"; {other} with another outcome and {short} pieces shorter than {settings.min_frames}"
        " frames left out"
    )
    console.print(
        f"{path}: {len(sources)} episodes of {len(opened.readers)} bags, {frames} frames at {fps}"
        f" Hz, {filled} of them filled{left}",
        highlight=False,
        soft_wrap=True,
    )
    return path


def import_dataset(settings: Import, console: Console) -> list[Path]:
    """Write the bags; return their directories."""
    if settings.episodes is not None and settings.episodes < 1:
        raise LeRobotError(f"--episodes: {settings.episodes} is too low; give 1 or more")
    instruction = settings.instruction.strip()
    # Opened first: a folder without a dataset is reported before a missing contract.
    dataset = (
        None
        if is_rlds(settings.data)
        else DatasetReader(settings.data, settings.instructions, instruction)
    )
    own = settings.data / layout.SOURCES / "contract.yaml"
    if settings.contract is None and not own.exists():
        raise LeRobotError(
            f"{settings.data}: holds no contract; give that of the robot with --contract ROBOT.yaml"
        )
    # That of an export is as old as the recordings: no robot moves with its limits.
    chosen = settings.contract or own
    exported = own.exists() and chosen.resolve() == own.resolve()
    contract = load_contract(chosen, stored=exported)
    reader: Reader = dataset or RldsReader(settings.data, contract.command_joints, instruction)
    found = mapping(
        reader,
        contract,
        _pairs(settings.cameras),
        _pairs(settings.joints),
        settings.units,
        settings.gripper,
        exported=exported,
    )
    if found.values.note:
        console.print(f"warning: {found.values.note}", highlight=False, soft_wrap=True)
    if reader.has_subtasks and settings.instructions == "task":
        console.print(
            "the dataset also has subtasks; use them with --instructions subtask",
            soft_wrap=True,
        )
    name = settings.data.resolve().name
    names = [
        f"{name}_{position:06d}"
        for position in range(min(reader.episodes, settings.episodes or reader.episodes))
    ]
    if reader.effort_note:
        console.print(f"warning: {reader.effort_note}", highlight=False, soft_wrap=True)
    damaged: list[str] = []
    notes: list[str] = []
    with (
        all_or_nothing(settings.out, name, names) as stage,
        ProgressBar("writing episodes", console=console) as bar,
    ):
        for position, episode in bar.track(list(enumerate(names))):
            try:
                write_episode(reader, position, contract, found, stage, episode, notes)
            except LeRobotError as error:
                if not settings.skip_damaged:
                    raise LeRobotError(f"{error}, or leave it out with --skip-damaged") from None
                damaged.append(episode)
                console.print(f"left out: {error}", highlight=False, soft_wrap=True)
        if len(damaged) == len(names):
            raise LeRobotError(f"{settings.data}: no episode can be read; fetch the dataset again")
    print_left_out(console, [], notes)
    left = f", {len(damaged)} damaged ones left out" if damaged else ""
    console.print(
        f"{settings.out}: {len(names) - len(damaged)} episodes of {settings.data}{left}",
        highlight=False,
        soft_wrap=True,
    )
    return [settings.out / episode for episode in names if episode not in damaged]


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise LeRobotError(f"{wrong[0]!r} is not OURS=THEIRS; correct it")
    return dict(word.split("=", 1) for word in words)
