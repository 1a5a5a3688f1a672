"""Publishing to a local folder: killed at any point, the folder is a whole zoo with the old entry or the new one."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from pathlib import Path

from filelock import FileLock

from xmodal.errors import ZooError
from xmodal.files import remove_partial, write_bytes
from xmodal.transfer.addresses import cache_folder
from xmodal.zoo.index import Entry, Index, parse_index
from xmodal.zoo.location import Location
from xmodal.zoo.targets import Placed, listed_files, refuse_taken, uses_folder


def place_locally(location: Location, staged: Path, entry: Entry, overwrite: bool) -> Placed:
    """One publication at a time; see :func:`xmodal.zoo.targets.place`."""
    root, index_file = Path(location.folder), Path(location.index)
    lock = (
        cache_folder() / "zoo" / "locks" / f"{hashlib.sha256(str(index_file.resolve()).encode()).hexdigest()[:16]}.lock"
    )
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            return _place(root, index_file, staged, entry, overwrite)
    except OSError as error:
        raise ZooError(f"{root} cannot be written: {error}.") from error


def _place(root: Path, index_file: Path, staged: Path, entry: Entry, overwrite: bool) -> Placed:
    index = parse_index(index_file.read_bytes(), str(index_file)) if index_file.exists() else Index()
    old = refuse_taken(index, entry, overwrite, str(index_file))
    final = root / entry.base
    if other := uses_folder(index, entry.base, besides=entry.name):
        raise ZooError(f"{final} holds the files of entry {other.name!r}. Publish under another name (name=…, --name).")
    if final.exists() and old is None and not overwrite:
        raise ZooError(
            f"{final} exists, but {index_file} does not list it."
            " Remove it, or have it replaced (overwrite=True, --overwrite)."
        )
    _clean(index_file, final.parent, entry.name, index)
    before = listed_files(index)
    if old is not None and any(path.startswith(entry.base) for path in listed_files(Index(entries=[old]))):
        # The old files keep the place until readers are sent elsewhere; then the new ones can take it.
        aside = entry.model_copy(update={"base": f"students/{entry.name}.{secrets.token_hex(4)}.aside/"})
        _install(staged, root / aside.base)
        index = index.with_entry(aside)
        write_bytes(index_file, index.to_json())
        before |= listed_files(index)
    if final.exists():
        shutil.rmtree(final)
    _install(staged, final)
    index = index.with_entry(entry)
    write_bytes(index_file, index.to_json())
    for path in sorted(before - listed_files(index)):
        _remove(root, root / path)
    return entry, old is not None, len(index.entries)


def _clean(index_file: Path, students: Path, name: str, index: Index) -> None:
    """Remove what a publication of ``name`` that was killed has left and no entry lists."""
    remove_partial(index_file)
    ours = re.compile(rf"\.?{re.escape(name)}(\.[0-9a-f]{{8}}\.(aside|tmp))+")
    for path in students.iterdir() if students.is_dir() else ():
        if ours.fullmatch(path.name) and not uses_folder(index, f"students/{path.name}"):
            shutil.rmtree(path)


def _install(staged: Path, folder: Path) -> None:
    """The folder appears whole, by a rename."""
    name = folder.name
    scratch = folder.parent / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        shutil.copytree(staged, scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove(root: Path, path: Path) -> None:
    """A file that no entry lists any more, and the folders that it leaves empty."""
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == root or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()
