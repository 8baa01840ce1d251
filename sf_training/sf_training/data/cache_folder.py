"""Choose the folder for cached results: never inside an episode, and never beside a given file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import zstandard

from sf_training.data.bag_files import BagError, find_episodes


def user_cache() -> Path:
    """Return the folder of this suite in the user's cache (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "sf_training"


def cache_folder(data: Path) -> Path:
    """Return the cache folder for indices, images and features of some data.

    That is ``.cache`` in a writable folder of episodes, otherwise a folder in the user's cache.
    """
    data = Path(data)
    is_collection = data.is_dir() and find_episodes(data) != [data]
    if is_collection and (os.access(data, os.W_OK) or (data / ".cache").is_dir()):
        return data / ".cache"
    key = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]
    return user_cache() / "data" / f"{data.stem}-{key}"


def checksum_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the concatenated files. It is cached until one of them changes."""
    parts = []
    for file in files:
        status = file.stat()
        parts.append(f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    known = user_cache() / "checksums" / hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with suppress(OSError, ValueError):
        text = known.read_text(encoding="ascii")
        if len(text) == 64 and int(text, 16) >= 0:
            return text
    checksum = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum.update(block)
    with suppress(OSError):  # a cache that cannot be written costs time only
        known.parent.mkdir(parents=True, exist_ok=True)
        fresh = known.with_name(f"{known.name}.{os.getpid()}")
        fresh.write_text(checksum.hexdigest(), encoding="ascii")
        fresh.replace(known)
    return checksum.hexdigest()


def unpacked(file: Path) -> Path:
    """Decompress a ``.zstd`` file into the user's cache; return the decompressed file.

    Raises:
        BagError: the file is damaged, or the disk is full.
    """
    status = file.stat()
    key = hashlib.sha256(
        f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode()
    ).hexdigest()[:24]
    target = user_cache() / "unpacked" / key / file.with_suffix("").name
    if target.is_file():
        return target
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, fresh.open("wb") as sink:
            zstandard.ZstdDecompressor().copy_stream(source, sink)
        fresh.replace(target)
    except zstandard.ZstdError as error:
        raise BagError(
            f"{file}: is truncated or damaged ({error}); copy it again, or record it again"
        ) from None
    except OSError as error:
        raise BagError(
            f"{file}: cannot be decompressed to {target.parent} ({error.strerror}); free some disk"
            " space"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)
    return target
