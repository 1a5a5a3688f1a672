"""Downloads a student by name: one process at a time, only what is missing, every file checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from xmodal.errors import ZooError
from xmodal.transfer.addresses import cache_folder, is_offline, is_remote
from xmodal.transfer.download import readable_size
from xmodal.transfer.patience import USUAL, Patience
from xmodal.zoo.files import refuse_other_types
from xmodal.zoo.index import Entry
from xmodal.zoo.location import Location, locate
from xmodal.zoo.reading import IndexLocation, read_index
from xmodal.zoo.transfer import fetch_file, is_complete, part_of

if TYPE_CHECKING:
    from xmodal.adapters.encoder import Encoder

LOCK_NAME = ".download.lock"


def download(
    name: str,
    *,
    index: IndexLocation = None,
    to: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    patience: Patience = USUAL,
) -> Path:
    """A folder with the student's files, each with the size, SHA-256 and contents that the index promises.

    The folder is ``to``, or one in the cache (``$XMODAL_CACHE``, or the user's cache folder) whose name holds a hash of
    the files. Files that are there already are checked, not copied again; a part of one is carried on. Several
    processes may ask for the same student: one downloads, the others wait. With ``offline`` (by default what
    ``$XMODAL_OFFLINE`` says) no network is used.

    Raises :class:`ZooError` for an unknown name, a refused index or file, a transfer that fails ``patience.attempts``
    times in a row, and offline for what is not there.
    """
    location = locate(index)
    entry = read_index(index, offline=offline, patience=patience).find(name, location.index)
    refuse_other_types(entry.files, f"Entry {name!r} of {location.index}")
    folder = Path(to).expanduser() if to is not None else cache_folder() / "zoo" / f"{entry.name}-{entry.digest[:16]}"
    if to is not None:
        _refuse_foreign(folder, entry)
    if not missing_files(folder, entry):
        return folder
    if is_offline(offline) and is_remote(location.join(entry.base)):
        _raise_offline(folder, entry)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder, name):
            _fetch_missing(folder, entry, location, patience)
    except OSError as error:
        raise ZooError(f"{folder} cannot be written: {error}. Give another folder, or set XMODAL_CACHE.") from error
    return folder


def load(name: str, *, index: IndexLocation = None, offline: bool | None = None) -> Encoder:
    """The student, downloaded if need be, as an encoder with ``.model``, ``.preprocess`` and ``.metadata``."""
    folder = download(name, index=index, offline=offline)
    from xmodal.export.native import load_student  # it needs torch: only once there is something to load

    return load_student(folder)


def missing_files(folder: Path, entry: Entry) -> list[str]:
    """The entry's files that ``folder`` lacks or holds with other contents."""
    return [path for path, file in entry.files.items() if not is_complete(folder / path, file)]


def _fetch_missing(folder: Path, entry: Entry, location: Location, patience: Patience) -> None:
    missing = missing_files(folder, entry)  # again: the process that held the lock may have fetched them
    total = sum(entry.files[path].size for path in missing)
    with progress_bar(entry.name, total) as progress:
        task = progress.add_task(entry.name, total=total)
        done = 0
        for path in missing:
            file, target = entry.files[path], folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch_file(
                location.join(entry.base, path),
                target,
                file,
                patience,
                lambda have, done=done: progress.update(task, completed=done + have),  # type: ignore[misc]
            )
            done += file.size


def _refuse_foreign(folder: Path, entry: Entry) -> None:
    """A folder that the user named may hold this student's files and nothing else: nothing of his is overwritten."""
    if folder.exists() and not folder.is_dir():
        raise ZooError(f"{folder} is a file; give a folder for {entry.name!r}.")
    ours = entry.files
    parts = {part_of(folder / path, file) for path, file in ours.items()}
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME and path not in parts]
    others = [path.relative_to(folder).as_posix() for path in found]
    others = sorted(path for path in others if path not in ours or not is_complete(folder / path, ours[path]))
    if others:
        shown = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        raise ZooError(
            f"{folder} holds files that are not {entry.name!r} as the index has it: {shown}. Give a new folder."
        )


def _raise_offline(folder: Path, entry: Entry) -> None:
    missing = missing_files(folder, entry)
    size = readable_size(sum(entry.files[path].size for path in missing))
    raise ZooError(
        f"Offline, and {entry.name!r} is not complete on this machine: looked in {folder},"
        f" which lacks {', '.join(missing)} ({size}).\n"
        f"Run `xmodal zoo download {entry.name}` once with a network and without XMODAL_OFFLINE;"
        " if another cache has it, set XMODAL_CACHE."
    )


@contextlib.contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Holds the lock of an entry's folder; the system frees it when the process dies."""
    path = folder / LOCK_NAME
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        Console(stderr=True).print(f"{name}: waiting for another process that downloads it", highlight=False)
        lock.acquire()
    try:
        yield
        # Whoever comes now finds the files complete and writes nothing, so the lock may go.
        with contextlib.suppress(OSError):
            path.unlink()
    finally:
        lock.release()


def progress_bar(name: str, total: int) -> Progress:
    """A bar on the error stream of a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or total == 0,
    )
