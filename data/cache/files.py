"""Files that are there whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

_PARTIAL = ".partial"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file of another name, bring it to the disk, then give it the name ``path``."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # some writers make files that their owner alone may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def remove_partial(path: Path) -> None:
    """Remove what killed processes left of ``path``; only for who holds its lock."""
    for left in path.parent.glob(f".{path.name}.*{_PARTIAL}"):
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut too."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a system that opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # a file system that syncs no folders; the file itself is on the disk
    finally:
        os.close(descriptor)
