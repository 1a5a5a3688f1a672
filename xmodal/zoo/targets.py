"""Where a student is published: a local folder, a repository on the Hugging Face Hub, or any store fsspec can write."""

from __future__ import annotations

from pathlib import Path

from xmodal.errors import ZooError
from xmodal.transfer.addresses import is_http
from xmodal.zoo.index import Entry, Index
from xmodal.zoo.location import Location

Placed = tuple[Entry, bool, int]
"""The entry as it stands in the index, whether it replaced another one, and how many entries there are now."""


def place(location: Location, staged: Path, entry: Entry, *, overwrite: bool) -> Placed:
    """Bring the files in ``staged`` and the ``entry`` to a zoo: files first, then the index in one go."""
    if is_http(location.folder):
        raise ZooError(
            f"{location.folder} cannot be written. Publish to a folder, s3://…, gs://… or hf://user/repository."
        )
    if location.protocol == "file":
        from xmodal.zoo.local import place_locally

        return place_locally(location, staged, entry, overwrite)
    if location.protocol == "hf":
        from xmodal.zoo.hub import place_on_hub

        return place_on_hub(location, staged, entry, overwrite)
    from xmodal.zoo.remote import place_remotely

    return place_remotely(location, staged, entry, overwrite)


def refuse_taken(index: Index, entry: Entry, overwrite: bool, source: str) -> Entry | None:
    """The entry of the same name, if it may be replaced. Names that differ by case alone are one name."""
    old = next((other for other in index.entries if other.name.lower() == entry.name.lower()), None)
    if old is not None and (not overwrite or old.name != entry.name):
        raise ZooError(
            f"{source} has an entry {old.name!r} already. Publish under another name (name=…, --name), or replace it"
            " (overwrite=True, --overwrite)."
        )
    return old


def listed_files(index: Index) -> set[str]:
    """Every file that lies below the index, relative to it."""
    return {
        f"{entry.base.strip('/')}/{path}".lstrip("/")
        for entry in index.entries
        if "://" not in entry.base
        for path in entry.files
    }


def uses_folder(index: Index, folder: str, besides: str | None = None) -> Entry | None:
    """An entry, other than the one called ``besides``, with files in ``folder``."""
    inside = f"{folder.strip('/')}/"
    others = (entry for entry in index.entries if entry.name != besides)
    return next(
        (entry for entry in others if any(path.startswith(inside) for path in listed_files(Index(entries=[entry])))),
        None,
    )
