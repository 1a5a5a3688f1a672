"""Reads an index wherever it lies, and keeps a copy of a remote one for when there is no network."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from xmodal.errors import ZooError
from xmodal.files import write_bytes
from xmodal.transfer.addresses import cache_folder, is_offline, is_remote
from xmodal.transfer.download import fetch_bytes
from xmodal.transfer.patience import USUAL, Patience
from xmodal.zoo.index import Entry, Index, parse_index
from xmodal.zoo.location import Location, locate

LARGEST_INDEX = 32_000_000
IndexLocation = str | os.PathLike[str] | None
"""A folder or an index file, local or any address that fsspec knows; None for the index in this package."""


def read_index(index: IndexLocation = None, *, offline: bool | None = None, patience: Patience = USUAL) -> Index:
    """The index at a location. Offline, the copy kept of a remote one when it was last read.

    Raises :class:`ZooError` where there is none, or it is refused.
    """
    location = locate(index)
    if not is_remote(location.folder):
        return parse_index(fetch_bytes(location.index, LARGEST_INDEX, patience), location.index)
    copy = copy_of(location)
    if is_offline(offline):
        if not copy.is_file():
            raise ZooError(
                f"Offline, and no copy of {location.index} was kept: looked for {copy}. Read it once with a network."
            )
        return parse_index(copy.read_bytes(), str(copy))
    data = fetch_bytes(location.index, LARGEST_INDEX, patience)
    parsed = parse_index(data, location.index)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the copy, not the answer
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(copy, data)
    return parsed


def list_entries(
    index: IndexLocation = None, *, offline: bool | None = None, patience: Patience = USUAL
) -> list[Entry]:
    """Every student of a zoo, in the order of its index."""
    return list(read_index(index, offline=offline, patience=patience).entries)


def show(name: str, *, index: IndexLocation = None, offline: bool | None = None, patience: Patience = USUAL) -> Entry:
    """One student's entry. An unknown name is a :class:`ZooError` with the nearest ones."""
    return read_index(index, offline=offline, patience=patience).find(name, locate(index).index)


def copy_of(location: Location) -> Path:
    """Where the copy of a remote index is kept."""
    return cache_folder() / "zoo" / "indexes" / f"{hashlib.sha256(location.index.encode()).hexdigest()[:16]}.json"
