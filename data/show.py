"""What some shards hold, one row a shard: for the command line and for a first look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmodal.data.manifest import read_manifest
from xmodal.data.shards import open_shards
from xmodal.data.uri import Shards


def show(shards: Shards) -> list[dict[str, Any]]:
    """One row for every shard that ``shards`` names: shard, samples, bytes, members (extensions), first_key.

    Reads manifests and indexes, and at most one sample a shard. Raises :class:`DataError` as
    :func:`xmodal.data.open_shards` does.
    """
    opened = open_shards(shards)
    manifests = {folder: read_manifest(folder) for folder in {Path(path).parent for path in opened.paths}}
    rows: list[dict[str, Any]] = []
    first = 0
    for path, name, count, size in zip(opened.paths, opened.names, opened.counts, opened.sizes, strict=True):
        entry = manifest.entry(Path(path).name) if (manifest := manifests[Path(path).parent]) else None
        members = entry.fields if entry and entry.fields else sorted(opened.read(first).members)
        rows.append(
            {
                "shard": name,
                "samples": count,
                "bytes": size,
                "members": ", ".join(members),
                "first_key": opened.key(first),
            }
        )
        first += count
    return rows
