"""Publishing to a store that fsspec can write; a bucket replaces an object in one go, and so the index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xmodal.errors import ZooError
from xmodal.transfer.patience import USUAL, Patience, keep_trying
from xmodal.transfer.streams import accessing, file_system_of
from xmodal.zoo.index import Entry, Index, parse_index
from xmodal.zoo.location import Location
from xmodal.zoo.targets import Placed, listed_files, refuse_taken


def place_remotely(
    location: Location, staged: Path, entry: Entry, overwrite: bool, patience: Patience = USUAL
) -> Placed:
    """An entry that is replaced gets a new folder, so that its readers are not disturbed; its old files go last."""
    file_system, root = file_system_of(location.folder)
    root = root.rstrip("/")
    index_path = f"{root}/{location.index_name}"

    def attempt(action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        def once() -> Any:
            with accessing(location.folder, "written"):
                return action(*arguments, **options)

        return keep_trying(once, patience, f"{location.folder} could not be written")

    exists = attempt(file_system.exists, index_path)
    index = parse_index(attempt(file_system.cat_file, index_path), location.index) if exists else Index()
    old = refuse_taken(index, entry, overwrite, location.index)
    if attempt(file_system.exists, f"{root}/{entry.base.rstrip('/')}"):
        entry = entry.model_copy(update={"base": f"students/{entry.name}-{entry.digest[:8]}/"})
    for path, file in entry.files.items():
        written = f"{root}/{entry.base}{path}"
        attempt(file_system.makedirs, written.rpartition("/")[0], exist_ok=True)
        attempt(file_system.put_file, str(staged / path), written)
        file_system.invalidate_cache()
        size = attempt(file_system.info, written)["size"]
        if size != file.size:
            raise ZooError(
                f"{location.join(entry.base, path)} has {size} bytes after it was written, not {file.size}."
                " The index was not changed; publish again."
            )
    before = listed_files(index)
    index = index.with_entry(entry)
    attempt(file_system.pipe_file, index_path, index.to_json())
    for path in sorted(before - listed_files(index)):
        with contextlib.suppress(ZooError):  # it is gone already, or may stay: no entry lists it
            attempt(file_system.rm_file, f"{root}/{path}")
    return entry, old is not None, len(index.entries)
