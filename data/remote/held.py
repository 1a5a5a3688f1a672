"""A fetched shard that is in use: an open file, whose shared lock keeps it from being evicted."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from xmodal.errors import DataError


@dataclass(frozen=True)
class Held:
    """``file`` is open for reading; the shard stays on disk until it is closed, or the process dies."""

    path: Path
    file: FileIO


def hold(path: Path, size: int) -> Held | None:
    """Open a fetched shard and keep it from eviction; None where it is not there, or not whole."""
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as what is returned
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"Shard {path} cannot be read: {error.strerror}.") from error
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # it is being evicted right now
        file.close()
        return None
    except OSError:  # a disk without locks: what is evicted can still be read through the open file
        pass
    found = os.fstat(file.fileno())
    if found.st_nlink == 0 or found.st_size != size:  # evicted between the two; or damaged since it was fetched
        file.close()
        return None
    with contextlib.suppress(OSError):  # somebody else's cache
        os.utime(file.fileno())  # the least recently used are evicted first
    return Held(path, file)


def remove_unless_held(path: Path) -> bool:
    """Remove a shard, unless somebody in this process or another holds it; whether it is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # while it is locked: who opens it now finds either no lock or no name
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
