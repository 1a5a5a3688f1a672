"""Room for one more shard: the least recently used go, unless somebody holds them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from xmodal.data.remote import settings
from xmodal.data.remote.held import remove_unless_held
from xmodal.transfer.download import readable_size

logger = logging.getLogger(__name__)
_warned: set[int] = set()  # limits that were said to be too small


@dataclass(frozen=True)
class Entry:
    """A folder of the cache: bytes that it takes, or will when its shard is whole, and when it was last used."""

    folder: Path
    size: int
    used: float


def make_room(key: str, part: Path, size: int, *, over: bool) -> bool:
    """Evict until ``size`` more bytes fit, and reserve them by creating ``part``; the caller holds the lock of ``key``.

    What others hold stays. Where that leaves too little: with ``over`` the limit is passed, with a warning; without,
    nothing is reserved, and the answer is no. Shards in fetching count with the size that they will have.
    """
    root = settings.shard_folder()
    with FileLock(root / ".room.lock"):  # two at once would both count on the same room
        limit = settings.cache_limit()
        missing = size - shutil.disk_usage(root).free
        entries, taken = [], 0
        if limit is not None or missing > 0:  # looking at all of a large cache takes a while
            entries = sorted((each for each in _entries(root) if each.folder.name != key), key=lambda each: each.used)
            taken = sum(entry.size for entry in entries)
        if limit is not None:
            missing = max(missing, taken + size - limit)
        for entry in entries:
            if missing <= 0:
                break
            if _evict(entry, key):
                missing -= entry.size
        if missing > 0:
            if not over:
                return False
            _warn(limit, taken)
        part.parent.mkdir(exist_ok=True)
        part.touch()
    return True


def _entries(root: Path) -> Iterator[Entry]:
    for folder in root.iterdir():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        size, used = 0, 0.0
        with contextlib.suppress(FileNotFoundError):  # a file that was just renamed or removed
            for file in os.scandir(folder):
                found = file.stat()
                size += max(found.st_size, _reserved(file.name))
                used = max(used, found.st_mtime)
        yield Entry(folder, size, used)


def _reserved(name: str) -> int:
    """What a part's name says that it will take."""
    size = name.strip(".").removesuffix(".part")
    return int(size) if name.endswith(".part") and size.isdecimal() else 0


def _evict(entry: Entry, own: str) -> bool:
    """Remove an entry that nobody fetches or reads; whether that was done."""
    if settings.lock_path(entry.folder.name) == settings.lock_path(own):  # ours: it would count as free
        return False
    try:
        with FileLock(settings.lock_path(entry.folder.name), timeout=0):
            if not all(remove_unless_held(shard) for shard in entry.folder.glob("*.tar")):
                return False
            shutil.rmtree(entry.folder, ignore_errors=True)
    except (Timeout, OSError):
        return False
    logger.info("evicted %s (%s)", entry.folder.name, readable_size(entry.size))
    return True


def _warn(limit: int | None, taken: int) -> None:
    if limit is None or limit in _warned:
        return  # a full disk is an error of its own, which says more
    _warned.add(limit)
    logger.warning(
        "The shards in use take more than XMODAL_CACHE_LIMIT=%s (%s): it is passed. Every slot reads two or three "
        "shards at a time; raise the limit, or set fewer data.slots.",
        readable_size(limit),
        readable_size(taken),
    )
