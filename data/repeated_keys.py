"""Keys that several shards have, found in eight bytes of memory a key, and twice that while they are compared."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmodal.data.hashing import stable_hash
from xmodal.data.index import build_index


class RepeatedKeys:
    """Takes note of every shard's keys by their hashes; the keys themselves are read once more where two agree."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._ends: list[int] = []
        self._shards: list[tuple[str, Path]] = []

    def add_shard(self, name: str, path: Path, keys: Sequence[str]) -> None:
        """``keys`` are those of the shard's index, in its order."""
        self._hashes.extend(map(stable_hash, keys))
        self._ends.append(len(self._hashes))
        self._shards.append((name, path))

    def repeated(self) -> Iterator[tuple[str, str, str, int]]:
        """(shard, earlier shard, first key, how many keys) for every two shards that share keys.

        A key that stands in three shards is told of the second and of the third, each time with the first.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        ordered = np.sort(hashes)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        del ordered
        if not len(twice):
            return
        places = np.concatenate([self._among(twice, hashes, shard) for shard in range(len(self._ends))])
        order = np.argsort(hashes[places], kind="stable")  # of equal ones the first comes first
        places, found = places[order], hashes[places[order]]
        firsts = places[np.searchsorted(found, found, side="left")]
        shards, others = (np.searchsorted(self._ends, at, side="right") for at in (places, firsts))
        apart = shards != others  # within a shard a key is refused long before
        pairs, which, counts = np.unique(
            np.stack([shards[apart], others[apart]], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        lowest = np.full(len(pairs), len(hashes))
        np.minimum.at(lowest, which.reshape(-1), places[apart])
        for (shard, other), count, place in zip(pairs.tolist(), counts.tolist(), lowest.tolist(), strict=True):
            yield self._shards[shard][0], self._shards[other][0], self._key(shard, place), count

    def _among(self, twice: NDArray[np.uint64], hashes: NDArray[np.uint64], shard: int) -> NDArray[np.int64]:
        """The places of one shard's keys whose hashes are in ``twice``."""
        start, end = self._start(shard), self._ends[shard]
        own = hashes[start:end]
        nearest = np.minimum(np.searchsorted(twice, own), len(twice) - 1)
        return np.flatnonzero(twice[nearest] == own) + start

    def _start(self, shard: int) -> int:
        return self._ends[shard - 1] if shard else 0

    def _key(self, shard: int, place: int) -> str:
        return _keys_of(self._shards[shard][1])[place - self._start(shard)]


@lru_cache(maxsize=1)  # pairs come sorted by shard
def _keys_of(path: Path) -> list[str]:
    return build_index(path, []).keys
