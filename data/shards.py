"""Shards opened for random access: global sample number → shard and row → bytes of the members."""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.data.index import Index, build_index, index_path, read_index, write_index
from xmodal.data.manifest import KnownShards
from xmodal.data.reader import RawSample as RawSample
from xmodal.data.reader import ShardReader
from xmodal.data.uri import Shards, expand, is_address
from xmodal.errors import DataError

if TYPE_CHECKING:
    from xmodal.data.remote.cache import RemoteShard
    from xmodal.data.remote.held import Held
    from xmodal.data.remote.prefetch import Prefetcher

logger = logging.getLogger(__name__)
_MAX_OPEN = 256  # shards whose index and file are kept open; each of up to 64 slots reads in two or three at a time


class ShardSet:
    """Some shards, seen as one sequence of samples. Cheap to pickle; files are opened when they are first read.

    A path may be an address: that shard is fetched into the cache on disk when it is first read. ``sha256`` are the
    checksums that fetched shards must have, empty where unknown, or left out as a whole.

    Safe after a fork and in threads: reads carry their own offset, and a new process opens its own files.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        counts: Sequence[int],
        sizes: Sequence[int],
        sha256: Sequence[str] = (),
    ) -> None:
        self.paths = tuple(str(path) for path in paths)
        self.names = short_names(self.paths)
        self.counts = tuple(counts)
        self.sizes = tuple(sizes)
        self.sha256 = tuple(sha256)
        self.has_remote = any("://" in path for path in self.paths)
        self.num_samples = sum(counts)
        self._ends = tuple(accumulate(counts))
        self._prefetcher: Prefetcher | None = None
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

    def prefetch(self, shards: Sequence[int]) -> None:
        """Say which shards are read next, the first one first: remote ones are fetched meanwhile, in the background.

        Takes no time and raises nothing: a shard that cannot be fetched is an error when it is read.
        """
        if not self.has_remote:
            return
        if self._pid != os.getpid():
            self._forget_readers()
        wanted = [shard for shard in shards if "://" in self.paths[shard] and shard not in self._readers]
        if self._prefetcher is None:
            if not wanted:
                return
            self._start_prefetcher()
        assert self._prefetcher is not None
        self._prefetcher.want(wanted)

    def _start_prefetcher(self) -> None:
        from xmodal.data.remote.cache import fetch
        from xmodal.data.remote.prefetch import Prefetcher

        remote = partial(_remote_shard, self.paths, self.sizes, self.sha256)  # of self a thread would keep it alive
        self._prefetcher = Prefetcher(lambda shard: fetch(remote(shard), wait=False))
        weakref.finalize(self, self._prefetcher.close).atexit = False

    def _held(self, shard: int) -> Held:
        """A remote shard, on this machine's disk and kept there."""
        held = self._prefetcher.take(shard) if self._prefetcher else None
        if held is None:
            from xmodal.data.remote.cache import fetch

            held = fetch(_remote_shard(self.paths, self.sizes, self.sha256, shard))
            assert held is not None
        return held

    def _reader(self, shard: int) -> ShardReader:
        if self._pid != os.getpid():
            self._forget_readers()
        reader = self._readers.get(shard)
        if reader is None:
            path, count, size = self.paths[shard], self.counts[shard], self.sizes[shard]
            held = self._held(shard) if "://" in path else None
            index = _index_of(path) if held is None else _index_of_fetched(held.path, path)
            if (len(index), index.size) != (count, size):
                mend = "run `xmodal data index` where it lies" if held else f"run: xmodal data index {path}"
                raise DataError(
                    f"Shard {path} holds {len(index)} samples in {index.size} bytes; expected were {count} in {size}. "
                    f"{origin_of(path)}It changed after it was packed. If that is meant, {mend}"
                )
            reader = ShardReader(path, index, self.names[shard], held.file if held else None)
            self._readers[shard] = reader
            while len(self._readers) > _MAX_OPEN:
                self._readers.popitem(last=False)
        else:
            self._readers.move_to_end(shard)
        return reader

    def _forget_readers(self) -> None:
        self._pid = os.getpid()
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._prefetcher = None

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "counts": self.counts, "sizes": self.sizes, "sha256": self.sha256}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def open_shards(shards: Shards | ShardSet) -> ShardSet:
    """The shards that ``shards`` names (see :func:`xmodal.data.uri.expand`), as one sequence of samples.

    Counts come from each folder's ``manifest.json`` where it lists the shard, else from the shard's index, else the
    index is built now and written beside the shard (kept in no file where the folder is read-only). Of remote shards
    none is fetched that a manifest lists; their sizes and checksums are compared when they are fetched.

    Raises :class:`DataError` where nothing is found, or a shard is broken, empty, or not the size it was packed with.
    """
    if isinstance(shards, ShardSet):
        return shards
    patterns = [shards] if isinstance(shards, str | Path) else shards
    if any(is_address(str(pattern)) for pattern in patterns):
        return _open_anywhere(shards)
    paths = expand(shards)
    return ShardSet(paths, *_measure(paths))


def _open_anywhere(shards: Shards) -> ShardSet:
    """Shards of which some are remote."""
    from xmodal.data.remote.folder import Folders
    from xmodal.data.remote.opening import measure

    folders = Folders()
    paths = expand(shards, folders)
    local = [path for path in paths if "://" not in path]
    found = {path: (count, size, "") for path, count, size in zip(local, *_measure(local), strict=True)}
    remote = [path for path in paths if "://" in path]
    found.update(zip(remote, measure(remote, folders), strict=True))
    counts, sizes, sha256 = zip(*(found[path] for path in paths), strict=True)
    return ShardSet(paths, counts, sizes, sha256 if remote else ())


def _measure(paths: Sequence[str]) -> tuple[list[int], list[int]]:
    """Samples and bytes of local shards."""
    folders: dict[Path, KnownShards] = {}
    counts, sizes = [], []
    for path in map(Path, paths):
        if path.parent not in folders:
            folders[path.parent] = KnownShards(path.parent)
        entry = folders[path.parent].entry(path.name)
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
    return counts, sizes


def origin_of(path: str) -> str:
    """A sentence on where the expected count of a local shard comes from, where that is not a manifest or index."""
    from xmodal.data.formats.img2dataset import statistics_path

    stated = "://" not in path and statistics_path(path).is_file()
    return f"{statistics_path(path).name} says so. " if stated else ""


def _remote_shard(paths: Sequence[str], sizes: Sequence[int], sha256: Sequence[str], shard: int) -> RemoteShard:
    from xmodal.data.remote.cache import RemoteShard

    return RemoteShard(paths[shard], sizes[shard], sha256[shard] if sha256 else "")


def _index_of_fetched(path: Path, address: str) -> Index:
    """The index that was fetched beside a shard, or one built from it where that is none or another's."""
    try:
        return read_index(path)
    except DataError:
        index_path(path).unlink(missing_ok=True)
    try:
        return _index_of(path)
    except DataError as error:
        raise DataError(f"{error} It was fetched from {address}.") from error


def _index_of(path: str | Path) -> Index:
    if index_path(path).exists():
        return read_index(path)
    index = build_index(path)
    try:
        write_index(index, path)
    except OSError as error:  # a read-only folder, say
        logger.warning("No index can be kept beside %s (%s); it is built anew by every process.", path, error.strerror)
    return index


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """File names; with the folder where two shards share one, and whole paths where that is not enough."""
    parts_of = [_parts(path) for path in paths]
    for parts in (1, 2):
        names = ["/".join(each[-parts:]) for each in parts_of]
        if max(Counter(names).values(), default=1) == 1:
            return tuple(names)
    return tuple(paths)


def _parts(path: str) -> Sequence[str]:
    if "://" not in path:
        return Path(path).parts
    from xmodal.data.remote.address import plain

    return plain(path).split("/")  # no query, no %20: the same names as on a disk
