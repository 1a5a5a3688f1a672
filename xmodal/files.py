"""Files that are there whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""How the names end of what is still being written."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file of another name, bring it to the disk, then give it the name ``path``."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # some writers make files that their owner alone may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_partial(path: Path) -> None:
    """Remove what killed processes left of ``path``; only for who holds its lock."""
    for left in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        left.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


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
