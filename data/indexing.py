"""Indexes and manifest for shards that came from elsewhere, or that were changed on purpose."""

from __future__ import annotations

from pathlib import Path

from xmodal.data.hashing import file_sha256
from xmodal.data.index import build_index, write_index
from xmodal.data.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from xmodal.data.uri import Shards, expand


def index_shards(shards: Shards) -> list[ShardEntry]:
    """Read every shard whole; write its index beside it, and its line into the folder's ``manifest.json``.

    What stood there for these shards is replaced; other shards' lines stay. Raises :class:`DataError` at the first
    broken shard, before any manifest is written.
    """
    by_folder: dict[Path, list[ShardEntry]] = {}
    for path in map(Path, expand(shards)):
        by_folder.setdefault(path.parent, []).append(index_shard(path))
    for folder, entries in by_folder.items():
        before = read_manifest(folder) or Manifest(shards=())
        lines = {entry.name: entry for entry in (*before.shards, *entries)}
        write_manifest(before.model_copy(update={"shards": tuple(lines[name] for name in sorted(lines))}), folder)
    return [entry for entries in by_folder.values() for entry in entries]


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
