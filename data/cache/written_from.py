"""Whether a shard is the one that a sidecar was written from: by its place and time of change, else by its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from xmodal.data.cache.contract import Wanted
from xmodal.data.hashing import file_sha256

BESIDE = "."
"""The place of a shard that lies in the folder of its sidecar: both may be moved together."""


def place_of(shard: str, sidecar: Path) -> str:
    """The folder of a shard, or its address without what may change from day to day; ``.`` where the sidecar is too."""
    if "://" in shard:
        from xmodal.data.remote.address import plain

        return plain(shard).rpartition("/")[0]
    folder = Path(shard).resolve().parent
    return BESIDE if folder == sidecar.resolve().parent else str(folder)


def changed_at(shard: str) -> int | None:
    """When a shard on this machine was last written, in ns; None of one that is not here."""
    try:
        return None if "://" in shard else Path(shard).stat().st_mtime_ns
    except OSError:
        return None


def compare(recorded: Mapping[str, Any], wanted: Wanted, sidecar: Path) -> Literal["same", "changed", "other"]:
    """``changed`` is a shard with other bytes than were recorded of it, ``other`` one of another dataset.

    A shard on this machine is hashed where it was written since, or lies elsewhere, and then once a process; with
    ``wanted.exact`` also where a manifest vouches for it. Of remote ones the manifest's sha256 is compared, and where
    there is none, size and place.
    """
    here = place_of(wanted.shard, sidecar)
    elsewhere = recorded.get("place", here) != here
    unlike: Literal["changed", "other"] = "other" if elsewhere else "changed"
    if recorded["size"] != wanted.size:
        return unlike
    sha256 = recorded.get("sha256")
    if sha256 is None:
        return "other" if elsewhere else "same"
    if wanted.sha256 is not None and wanted.sha256 != sha256:
        return unlike
    written = changed_at(wanted.shard)
    if written is None:
        return "other" if elsewhere and wanted.sha256 is None else "same"
    if written == recorded.get("mtime_ns") and not elsewhere:
        return "same"
    if wanted.sha256 is not None and not wanted.exact:
        return "same"
    return "same" if _sha256(wanted.shard, wanted.size, written) == sha256 else unlike


@lru_cache(maxsize=100_000)
def _sha256(shard: str, size: int, written: int) -> str:
    return file_sha256(Path(shard))
