"""Indexes and manifest for shards that came from elsewhere, or that were changed on purpose."""

from __future__ import annotations

from pathlib import Path

from xmodal.data.hashing import file_sha256
from xmodal.data.index import build_index, write_index
from xmodal.data.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from xmodal.data.uri import Shards, expand_local


def index_shards(shards: Shards) -> list[ShardEntry]:
    """Read every shard whole; write its index beside it, and its line into the folder's ``manifest.json``.

    Returns the lines in the order of the shards. They are what counts from then on, whatever statistics of img2dataset
    stand beside a shard. What stood there for these shards is replaced; other shards' lines stay. Raises
    :class:`DataError` at the first broken shard, before any manifest is written.
    """
    made = {path: index_shard(path) for path in map(Path, expand_local(shards))}
    by_folder: dict[Path, list[ShardEntry]] = {}
    for path, entry in made.items():
        by_folder.setdefault(path.parent, []).append(entry)
    for folder, entries in by_folder.items():
        before = read_manifest(folder) or Manifest(shards=())
        lines = {entry.name: entry for entry in (*before.shards, *entries)}
        write_manifest(before.model_copy(update={"shards": tuple(lines[name] for name in sorted(lines))}), folder)
    return list(made.values())


def index_shard(path: Path) -> ShardEntry:
    """Build and write one shard's index; its line for a manifest."""
    index = build_index(path)
    write_index(index, path)
    return ShardEntry(
        name=path.name,
        samples=len(index),
        size=index.size,
        sha256=file_sha256(path),
        fields=tuple(sorted(index.fields)),
    )
