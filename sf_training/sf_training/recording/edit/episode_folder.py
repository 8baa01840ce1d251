"""Find a finished episode by its name, and read its current outcome. No rclpy here."""

from __future__ import annotations

from pathlib import Path

import yaml

from sf_training.recording.labels import LabelError, read_labels
from sf_training.recording.writer.sealing import METADATA_FILE, PARTIAL


def find_episode(directory: Path, name: str, last: Path | None = None) -> Path:
    """Return the path of a finished episode.

    Args:
        directory: parent directory of the episodes.
        name: of the episode, or its path. If empty: ``last``, else the newest in the directory.
        last: episode that was recorded last; None if there is none yet.

    Raises:
        LabelError: there is no such episode.
    """
    if name:
        path = Path(name) if "/" in name else directory / name
        if not (path / METADATA_FILE).is_file():
            raise LabelError(
                f"{path}: is not a finished episode; give the name of one in {directory}, or its"
                " directory"
            )
        return path
    if last:
        return last
    finished = [
        path.parent
        for path in directory.glob(f"*/{METADATA_FILE}")
        if not path.parent.name.endswith(PARTIAL)
    ]
    if not finished:
        raise LabelError(f"{directory}: holds no finished episode; record one first")
    return max(finished, key=lambda path: ((path / METADATA_FILE).stat().st_mtime, path.name))


def outcome_of(episode: Path) -> str:
    """Return the outcome of the newest label, else the recorded one; empty without either.

    Raises:
        LabelError: ``labels.json`` is broken.
    """
    label = read_labels(episode)
    if label and label.outcome:
        return label.outcome
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        information = yaml.load((episode / METADATA_FILE).read_text(encoding="utf-8"), loader)
        return (information["rosbag2_bagfile_information"].get("custom_data") or {}).get(
            "outcome", ""
        )
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return ""
