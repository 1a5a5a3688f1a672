"""Shards opened for random access: global sample number → shard and row → bytes of the members."""

from __future__ import annotations

import hashlib
import logging
import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from xmodal.data.index import Index, build_index, index_path, read_index, write_index
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.reader import RawSample as RawSample
from xmodal.data.reader import ShardReader
from xmodal.data.uri import Shards, expand
from xmodal.errors import DataError

logger = logging.getLogger(__name__)
_MAX_OPEN = 256  # shards whose index and file are kept open; each of up to 64 slots reads in two or three at a time


class ShardSet:
    """Some shards, seen as one sequence of samples. Cheap to pickle; files are opened when they are first read.

    Safe after a fork and in threads: reads carry their own offset, and a new process opens its own files.
    """

    def __init__(self, paths: Sequence[str | Path], counts: Sequence[int], sizes: Sequence[int]) -> None:
        self.paths = tuple(str(path) for path in paths)
        self.names = _short_names(self.paths)
        self.counts = tuple(counts)
        self.sizes = tuple(sizes)
        self.num_samples = sum(counts)
        self._ends = tuple(accumulate(counts))
        self._forget_readers()

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names, counts and sizes, in order. Moving them to another folder does not change it."""
        digest = hashlib.sha256()
        for name, count, size in zip(self.names, self.counts, self.sizes, strict=True):
            digest.update(f"{len(name.encode())}:{name} {count} {size}\n".encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        return f"ShardSet({len(self.paths)} shards, {self.num_samples} samples)"

    def locate(self, sample: int) -> tuple[int, int]:
        """Global sample number → (number of the shard, row in it). Raises IndexError outside 0 … num_samples - 1."""
        if not 0 <= sample < self.num_samples:
            raise IndexError(f"sample {sample} of {self.num_samples}")
        shard = bisect_right(self._ends, sample)
        return shard, sample - (self._ends[shard] - self.counts[shard])

    def key(self, sample: int) -> str:
        """The sample's key, unique within its shard."""
        shard, row = self.locate(sample)
        return self._reader(shard).index.keys[row]

    def read(self, sample: int) -> RawSample:
        """The sample's bytes. Raises :class:`DataError` where the shard is gone, or changed since it was indexed."""
        shard, row = self.locate(sample)
        return self._reader(shard).read(row)

    def _reader(self, shard: int) -> ShardReader:
        if self._pid != os.getpid():
            self._forget_readers()
        reader = self._readers.get(shard)
        if reader is None:
            path, count, size = self.paths[shard], self.counts[shard], self.sizes[shard]
            index = _index_of(path)
            if (len(index), index.size) != (count, size):
                raise DataError(
                    f"Shard {path} holds {len(index)} samples in {index.size} bytes; expected were {count} in {size}. "
                    f"It changed after it was packed. If that is meant, run: xmodal data index {path}"
                )
            reader = self._readers[shard] = ShardReader(path, index, self.names[shard])
            while len(self._readers) > _MAX_OPEN:
                self._readers.popitem(last=False)
        else:
            self._readers.move_to_end(shard)
        return reader

    def _forget_readers(self) -> None:
        self._pid = os.getpid()
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "counts": self.counts, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def open_shards(shards: Shards | ShardSet) -> ShardSet:
    """The shards that ``shards`` names (see :func:`xmodal.data.uri.expand`), as one sequence of samples.

    Counts come from each folder's ``manifest.json`` where it lists the shard, else from the shard's index, else the
    index is built now and written beside the shard (kept in no file where the folder is read-only).

    Raises :class:`DataError` where nothing is found, or a shard is broken, empty, or not the size it was packed with.
    """
    if isinstance(shards, ShardSet):
        return shards
    paths = expand(shards)
    manifests: dict[Path, Manifest | None] = {}
    counts, sizes = [], []
    for path in map(Path, paths):
        if path.parent not in manifests:
            manifests[path.parent] = read_manifest(path.parent)
        manifest = manifests[path.parent]
        entry = manifest.entry(path.name) if manifest else None
        if entry is None:
            index = _index_of(path)
            counts.append(len(index))
            sizes.append(index.size)
        else:
            size = path.stat().st_size
            if size != entry.size:
                raise DataError(
                    f"Shard {path} has {size} bytes; manifest.json says {entry.size}. It was cut short or changed: "
                    f"pack or download it again, or, if the change is meant, run: xmodal data index {path}"
                )
            counts.append(entry.samples)
            sizes.append(size)
    return ShardSet(paths, counts, sizes)


def _index_of(path: str | Path) -> Index:
    if index_path(path).exists():
        return read_index(path)
    index = build_index(path)
    try:
        write_index(index, path)
    except OSError as error:  # a read-only folder, say
        logger.warning("No index can be kept beside %s (%s); it is built anew by every process.", path, error.strerror)
    return index


def _short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """File names; with the folder where two shards share one, and whole paths where that is not enough."""
    for parts in (1, 2):
        names = ["/".join(Path(path).parts[-parts:]) for path in paths]
        if max(Counter(names).values(), default=1) == 1:
            return tuple(names)
    return tuple(paths)
