"""What some shards hold, one row a shard: for the command line and for a first look."""

from __future__ import annotations

import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

from xmodal.data.formats.img2dataset import read_statistics
from xmodal.data.index import index_path
from xmodal.data.manifest import read_manifest
from xmodal.data.shards import open_shards
from xmodal.data.tarnames import split_name
from xmodal.data.uri import Shards, is_address

_FIRST_MEMBERS = 64


def show(shards: Shards) -> list[dict[str, Any]]:
    """One row for every shard that ``shards`` names: shard, samples, bytes, members (extensions), first_key, note.

    ``note`` is what img2dataset's statistics say beside the number of samples. Reads manifests, statistics and indexes,
    and at most one sample a shard. Raises :class:`DataError` as :func:`xmodal.data.open_shards` does.
    """
    opened = open_shards(shards)
    local = [Path(path) for path in opened.paths if not is_address(path)]
    manifests = {folder: read_manifest(folder) for folder in {path.parent for path in local}}
    rows: list[dict[str, Any]] = []
    first = 0
    for path, name, count, size in zip(opened.paths, opened.names, opened.counts, opened.sizes, strict=True):
        entry = manifest.entry(Path(path).name) if (manifest := manifests.get(Path(path).parent)) else None
        statistics = None if is_address(path) else read_statistics(path)
        peeked = _peek(Path(path)) if statistics is not None and not index_path(path).exists() else None
        key, members = peeked or (opened.key(first), sorted(opened.read(first).members))
        rows.append(
            {
                "shard": name,
                "samples": count,
                "bytes": size,
                "members": ", ".join(entry.fields if entry and entry.fields else members),
                "first_key": key,
                "note": "" if statistics is None else str(statistics),
            }
        )
        first += count
    return rows


def _peek(path: Path) -> tuple[str, list[str]] | None:
    """Key and members of a shard's first sample, from its first headers alone; None where they cannot be read."""
    key, members = None, []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in islice(tar, _FIRST_MEMBERS):
                name = split_name(member.name) if member.isreg() else None
                if name is None or name.problem:
                    continue
                if key is not None and name.key != key:
                    break
                key = name.key
                members.append(name.extension)
    except (tarfile.TarError, OSError):  # the index, which is built then, says what is wrong
        return None
    return None if key is None else (key, sorted(members))
