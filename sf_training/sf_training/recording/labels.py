"""Label finished episodes in ``labels.json`` beside the files of the bag, which never change.

The file is a history, oldest first. The newest entry counts, and undo removes it. Every entry holds
all fields, so that undo restores all of them. No rclpy here.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sf_policy_node.perception.observation import validate_instruction

LABELS_FILE = "labels.json"
OUTCOMES = ("success", "failure", "discarded")


class LabelError(ValueError):
    """An episode cannot be labelled, or its labels cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class Labels:
    """One label of an episode.

    Attributes:
        outcome: success, failure or discarded; None keeps the recorded one.
        instruction: None keeps the recorded one.
        note: free text.
        operator: who gave the label.
        time: UTC, ISO 8601.
        segments: start [s after the first message of the bag] and text of each instruction, the
            first at 0. Empty means that ``instruction`` holds for the whole episode.
    """

    outcome: str | None = None
    instruction: str | None = None
    note: str = ""
    operator: str = ""
    time: str = ""
    segments: tuple[tuple[float, str], ...] = ()


def read_labels(bag_directory: str | Path) -> Labels | None:
    """Return the newest label of an episode; None if it has none.

    Raises:
        LabelError: ``labels.json`` is broken.
    """
    history = label_history(bag_directory)
    return history[-1] if history else None


def label_history(bag_directory: str | Path) -> list[Labels]:
    """Return all labels of an episode, oldest first.

    Raises:
        LabelError: ``labels.json`` is broken.
    """
    path = Path(bag_directory) / LABELS_FILE
    try:
        return [
            _checked(Labels(**entry))
            for entry in json.loads(path.read_text(encoding="utf-8"))["history"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabelError(
            f"{path}: is not a list of labels ({error}); correct it, or delete it to return to what"
            " was recorded"
        ) from None


def add_label(
    bag_directory: str | Path,
    *,
    outcome: str | None = None,
    instruction: str | None = None,
    note: str = "",
    operator: str = "",
    segments: Sequence[tuple[float, str]] = (),
) -> Labels:
    """Label a finished episode; return the new label.

    None and empty arguments keep the value of the label before, except ``operator``. A new
    ``instruction`` replaces earlier segments, and new ``segments`` replace the instruction.

    Args:
        operator: who gives this label; may be empty.

    Raises:
        LabelError: the episode or the outcome does not exist, an instruction is invalid, or all
            arguments are empty.
    """
    if not (outcome or instruction or note or segments):
        raise LabelError("the label is empty; give an outcome, an instruction or a note")
    if instruction and segments:
        raise LabelError(
            "the label has an instruction and segments; give one instruction for the whole episode,"
            " or several with times"
        )
    with _locked_episode(bag_directory) as path:
        history = label_history(path)
        before = history[-1] if history else Labels()
        label = _checked(
            Labels(
                outcome=outcome or before.outcome,
                instruction=segments[0][1] if segments else instruction or before.instruction,
                segments=tuple(segments) if segments or instruction else before.segments,
                note=note or before.note,
                operator=operator,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
        _write(path, [*history, label])
    return label


def undo_label(bag_directory: str | Path) -> Labels | None:
    """Remove the newest label; return the one before it, or None if there is none.

    Raises:
        LabelError: the episode does not exist, or has no label.
    """
    with _locked_episode(bag_directory) as path:
        history = label_history(path)
        if not history:
            raise LabelError(f"{path}: has no label to undo; nothing was changed")
        _write(path, history[:-1])
    return history[-2] if len(history) > 1 else None


def _checked(label: Labels) -> Labels:
    if label.outcome is not None and label.outcome not in OUTCOMES:
        raise LabelError(f"outcome: must be one of {', '.join(OUTCOMES)}, got {label.outcome!r}")
    if label.instruction is not None:
        try:
            validate_instruction(label.instruction)
        except ValueError as error:
            raise LabelError(str(error)) from None
    return replace(label, segments=_checked_segments(label.segments) if label.segments else ())


def _checked_segments(segments: Sequence[Sequence]) -> tuple[tuple[float, str], ...]:
    try:
        checked = tuple((float(begin), validate_instruction(text)) for begin, text in segments)
    except (TypeError, ValueError) as error:
        raise LabelError(f"segments: {error}") from None
    times = [begin for begin, _ in checked]
    if (
        not all(math.isfinite(begin) for begin in times)
        or times[0] != 0.0
        or any(following <= begin for begin, following in itertools.pairwise(times))
    ):
        raise LabelError(
            f"segments: begin at {', '.join(f'{begin:g}' for begin in times)} s; begin the first at"
            " 0, and give times in increasing order"
        )
    return checked


@contextlib.contextmanager
def _locked_episode(bag_directory: str | Path) -> Iterator[Path]:
    """Lock a finished episode, so that labels written at the same time are not lost."""
    path = Path(bag_directory)
    if not (path / "metadata.yaml").is_file():
        raise LabelError(f"{path}: is not a finished episode; give the directory of one")
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(handle)


def _write(path: Path, history: list[Labels]) -> None:
    text = (
        json.dumps({"history": [asdict(label) for label in history]}, indent=1, ensure_ascii=False)
        + "\n"
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path, prefix=".labels", delete=False
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.replace(file.name, path / LABELS_FILE)
    except OSError as error:
        raise LabelError(
            f"{path / LABELS_FILE}: cannot be written ({error.strerror}); free some disk space or"
            " check its permissions"
        ) from None
