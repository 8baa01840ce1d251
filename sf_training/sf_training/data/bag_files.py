"""Find the episodes in a folder and the files of each bag, and explain unusable ones."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from sf_policy_node.programs import command
from sf_training.recording.labels import OUTCOMES, LabelError, read_labels

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it
_METADATA = "metadata.yaml"
_PARTIAL = ".partial"
_STORAGES: dict[str, Storage] = {".mcap": "mcap", ".db3": "sqlite3"}
_PACKED = {
    ".gz": "gunzip",
    ".zst": "unzstd",
    ".xz": "unxz",
    ".bz2": "bunzip2",
    ".lz4": "unlz4",
    ".zip": "unzip",
}
_ENDINGS = (
    *(".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".bag"),
    *(f"{storage}{packed}" for storage in (".mcap", ".db3", ".bag") for packed in _PACKED),
)
_LFS_POINTER = b"version https://git-lfs"
_SERIES = re.compile(r"(.+)_(\d+)")

Storage = Literal["mcap", "sqlite3"]


class BagError(ValueError):
    """A bag cannot be used; the message names the file, the problem and the cure."""


@dataclass(frozen=True)
class BagFiles:
    """The files of one bag, in recorded order.

    Attributes:
        packed_messages: rosbag2 compressed every message by itself (mode "message", zstd).
        custom: ``custom_data`` of metadata.yaml.
    """

    storage: Storage
    files: tuple[Path, ...]
    packed_messages: bool = False
    custom: dict[str, str] = field(default_factory=dict)

    @property
    def packed(self) -> bool:
        """True if rosbag2 compressed the files as a whole (mode "file", ending ``.zstd``)."""
        return self.files[0].suffix == ".zstd"


def find_episodes(root: str | Path) -> list[Path]:
    """Return all finished episodes below a folder, sorted by name; the folder may be one episode.

    An episode is a folder with ``metadata.yaml``, a folder NAME with the bag files NAME_0, NAME_1
    and so on, or a bag file in no such folder. Hidden folders are skipped.

    Raises:
        BagError: there is no episode.
    """
    root = Path(root)
    if root.name.endswith(_PARTIAL):
        raise BagError(f"{root}: was never finished; {how_to_recover(root)}")
    if root.is_file() or (root / _METADATA).is_file():
        return [root]
    files = [path for path in _files_below(root) if not _is_unfinished(path, root)]
    bags = {path.parent for path in files if path.name == _METADATA}
    loose = [path for path in files if path.name.endswith(_ENDINGS) and path.parent not in bags]
    split = {path.parent for path in loose if _is_split(path.parent)}
    found = sorted(bags | split | {path for path in loose if path.parent not in split})
    if not found:
        unfinished = unfinished_episodes(root)
        if unfinished:
            raise BagError(f"{unfinished[0]}: was never finished; {how_to_recover(unfinished[0])}")
        raise BagError(
            f"{root}: holds no episode; record some, or generate some with"
            f" `{command('sf_training demonstrations', 'sf_training.simulation.demonstrations')}`"
        )
    return found


def single_episode(path: Path) -> Path:
    """Return the episode at a path, or the only one below it.

    Raises:
        BagError: there is none, or more than one.
    """
    found = find_episodes(path) if path.is_dir() else [path]
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(path)) for each in found[:8]) + (
            ", ..." if len(found) > 8 else ""
        )
        raise BagError(f"{path}: holds {len(found)} episodes; give one of {names}")
    return found[0]


def unfinished_episodes(root: str | Path) -> list[Path]:
    """Return the folders ``NAME.partial`` below a folder: interrupted recordings."""
    root = Path(root)
    if not root.is_dir() or (root / _METADATA).is_file():
        return []
    parts = {path.parent for path in _files_below(root) if path.parent.name.endswith(_PARTIAL)}
    return sorted(parts)


def bag_files(path: Path) -> BagFiles:
    """Return the files of a bag.

    Raises:
        BagError: there is no bag, or more than one.
    """
    if not path.exists():
        raise BagError(f"{path}: does not exist; check the path")
    if path.is_file():
        return _of_file(path)
    if path.name.endswith(_PARTIAL):
        raise BagError(f"{path}: was never finished; {how_to_recover(path)}")
    if not (path / _METADATA).is_file():
        return _without_metadata(path)
    information = _information(path / _METADATA)
    files = _named_files(path, information)
    mode = str(information.get("compression_mode") or "").lower()
    packing = str(information.get("compression_format") or "").lower()
    if mode in ("message", "file") and packing not in ("", "zstd"):
        raise BagError(
            f"{path}: is compressed with {packing!r}, only zstd is read; decompress it first"
        )
    custom = _texts(information.get("custom_data"))
    return BagFiles(_storage(files[0], information), files, mode == "message", custom)


def known_outcome(path: Path) -> str | None:
    """Return the outcome in labels.json or metadata.yaml without opening the bag; None if neither
    has one.

    Raises:
        BagError: one of these files is broken.
    """
    folder = labels_folder(path)
    try:
        labels = read_labels(folder) if folder else None
    except LabelError as error:
        raise BagError(str(error)) from None
    if labels and labels.outcome:
        return labels.outcome
    if not (path / _METADATA).is_file():
        return None
    custom = _information(path / _METADATA).get("custom_data")
    outcome = custom.get("outcome") if isinstance(custom, dict) else None
    return outcome if outcome in OUTCOMES else None


def embedded_custom_data(record: Mapping[str, str]) -> dict[str, str]:
    """Return the custom data in a metadata record of an MCAP file, where rosbag2 keeps a copy of
    metadata.yaml.
    """
    if "serialized_metadata" not in record:
        return dict(record)
    try:
        information = yaml.load(record["serialized_metadata"], Loader=_Loader)
        custom = information.get("rosbag2_bagfile_information", information).get("custom_data")
        return _texts(custom)
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):
        return {}


def _texts(custom: object) -> dict[str, str]:
    """Return custom data as texts, without nulls; a list or mapping as JSON, unless it is a list of
    one text.
    """
    found = {}
    for key, value in custom.items() if isinstance(custom, dict) else ():
        inner = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(inner, (list, dict)):
            inner = json.dumps(inner, default=str)
        if inner is not None:
            found[str(key)] = str(inner)
    return found


def labels_folder(path: Path) -> Path | None:
    """Return the folder whose labels.json belongs to a bag; None for one bag file among others."""
    if path.is_dir():
        return path
    if (path.parent / _METADATA).is_file():
        return path.parent
    alone = sum(other.name.endswith(_ENDINGS) for other in path.parent.iterdir()) == 1
    return path.parent if alone else None


def how_to_recover(path: Path) -> str:
    """Return the cure for a truncated file, as a clause."""
    recover = f"{command('sf_training sf_training', 'sf_training')} recover"
    if path.name.endswith(_PARTIAL):
        return f"recover it with `{recover} {path}`"
    source = next(iter(sorted(path.glob("*.mcap"))), path) if path.is_dir() else path
    if source.suffix == ".db3":
        return (
            f"recover it with `sqlite3 {source} .recover | sqlite3 recovered.db3`, or record it"
            " again"
        )
    return f"recover it with `{recover} {source}`, or record it again"


def _of_file(path: Path) -> BagFiles:
    if path.suffix == ".bag":
        target = path.with_suffix("")
        raise BagError(
            f"{path}: is a ROS 1 bag; convert it with `rosbags-convert --src {path} --dst"
            f" {target} --dst-storage mcap --dst-typestore ros2_humble`"
        )
    if path.suffix in _PACKED:
        raise BagError(f"{path}: is compressed; decompress it with `{_PACKED[path.suffix]} {path}`")
    _check_is_fetched(path)
    if path.name == _METADATA:
        raise BagError(f"{path}: only describes a bag; give its folder {path.parent}")
    inner = path.with_suffix("") if path.suffix == ".zstd" else path
    return BagFiles(_STORAGES.get(inner.suffix, "mcap"), (path,))


def _without_metadata(path: Path) -> BagFiles:
    files = sorted((each for each in path.iterdir() if each.name.endswith(_ENDINGS)), key=_in_order)
    if not files:
        raise BagError(f"{path}: holds no .mcap or .db3 file; check the path")
    if len(files) > 1 and not _is_split(path):
        names = ", ".join(each.name for each in files[:8]) + (", ..." if len(files) > 8 else "")
        raise BagError(f"{path}: holds {len(files)} bags; give one of {names}")
    numbers = _series(path)
    missing = sorted(set(range(len(numbers) and max(numbers))) - set(numbers))
    if len(files) > 1 and missing:
        raise BagError(
            f"{path}: file {path.name}_{missing[0]}{files[0].suffix} of the split bag is missing;"
            " copy it again, or give one of the files alone"
        )
    return BagFiles(_of_file(files[0]).storage, tuple(files))


def _named_files(path: Path, information: dict) -> tuple[Path, ...]:
    """Return the files named in metadata.yaml, or as many others if all were renamed."""
    names = information.get("relative_file_paths")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BagError(
            f"{path / _METADATA}: names no file of the bag; restore it with `ros2 bag reindex`"
        )
    # Old versions wrote the name of the folder in front.
    files = [path / name if (path / name).is_file() else path / Path(name).name for name in names]
    missing = [each for each in files if not each.is_file()]
    if not missing:
        for each in files:
            _check_is_fetched(each)
        return tuple(files)
    present = sorted(
        (each for each in path.iterdir() if each.name.endswith(_ENDINGS)), key=_in_order
    )
    if len(present) == len(files) and len(missing) == len(files):
        return tuple(present)
    raise BagError(
        f"{missing[0]}: is named in {_METADATA} but missing; copy it again, or run `ros2 bag"
        " reindex`"
    )


def _storage(file: Path, information: dict) -> Storage:
    inner = file.with_suffix("") if file.suffix == ".zstd" else file
    storage = _STORAGES.get(inner.suffix, information.get("storage_identifier"))
    if storage != "mcap" and storage != "sqlite3":
        raise BagError(
            f"{file}: storage {storage!r} is not read; convert it with `ros2 bag convert` to mcap"
        )
    return storage


def _information(metadata: Path) -> dict:
    """Return the content of metadata.yaml. Do not change it: the next caller gets the same one."""
    try:
        status = metadata.stat()
    except OSError as error:
        raise BagError(
            f"{metadata}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    return _parsed_information(metadata, status.st_mtime_ns, status.st_size)


# The outcome of an episode is read just before the episode is opened.
@functools.lru_cache(maxsize=1)
def _parsed_information(metadata: Path, modified_ns: int, size: int) -> dict:
    try:
        content = yaml.load(metadata.read_text(encoding="utf-8"), Loader=_Loader)
        information = content["rosbag2_bagfile_information"]
        if isinstance(information, dict):
            return information
    except OSError as error:
        raise BagError(
            f"{metadata}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise BagError(f"{metadata}: is not a rosbag2 description; restore it with `ros2 bag reindex`")


def _files_below(root: Path) -> Iterator[Path]:
    """Yield all files below a folder. Links to folders are followed, but no folder is visited
    twice.
    """
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent folder would recurse without end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _is_unfinished(path: Path, root: Path) -> bool:
    return any(part.endswith(_PARTIAL) for part in path.relative_to(root).parts)


def _is_split(folder: Path) -> bool:
    """Return whether the bag files of a folder are one split bag: FOLDER_0, FOLDER_1 and so on.
    Later files may be missing; the caller reports them.
    """
    numbers = _series(folder)
    return len(numbers) > 1 and 0 in numbers


def _series(folder: Path) -> list[int]:
    """Return the numbers of the files FOLDER_0, FOLDER_1 and so on; empty if any bag file in the
    folder has another name.
    """
    stems = [stem_of(each) for each in folder.iterdir() if each.name.endswith(_ENDINGS)]
    matches = [_SERIES.fullmatch(stem) for stem in stems]
    found = [int(match[2]) for match in matches if match and match[1] == folder.name]
    return sorted(found) if len(found) == len(stems) else []


def _check_is_fetched(file: Path) -> None:
    """Raise BagError for a file that Git LFS has not fetched."""
    try:
        with file.open("rb") as opened:
            head = opened.read(len(_LFS_POINTER))
    except OSError:
        return  # reading the file reports the error
    if head == _LFS_POINTER:
        raise BagError(f"{file}: is a Git LFS pointer, not the file; fetch it with `git lfs pull`")


def stem_of(file: Path) -> str:
    """Return the name of a bag file without its endings."""
    return file.name.removesuffix(".zstd").removesuffix(".mcap").removesuffix(".db3")


def _in_order(path: Path) -> tuple:
    """Return a natural sort key: take_2 before take_10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))
