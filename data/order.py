"""Which sample stands where: a pure function of the seed, the slot and the element, local on disk, never stored."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

from xmodal.data.hashing import stable_hash
from xmodal.data.permutation import Permutation


class Order:
    """The order of the samples of shards with ``counts`` samples each.

    The seed shuffles the shards, and the blocks of ``block_size`` consecutive samples inside each shard; the sequence
    that results is cut into ``slots`` runs whose lengths differ by at most one (the longer ones first). A slot goes
    through its run epoch after epoch. In each it shuffles anew the run's regions, which are as long as a shard is on
    average; the blocks inside each region; and the samples within windows of ``window``. So a slot reads only the
    shards that its run crosses, only two or three at a time, and every sample once an epoch.

    Memory is a few numbers a shard; :meth:`element` computes, at any distance from the start, in the time that a
    binary search among the shards takes. The caller makes sure that there are at least ``slots`` samples.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, slots: int, block_size: int, window: int) -> None:
        self.seed, self.slots, self.block_size, self.window = seed, slots, block_size, window
        shuffle = Permutation(max(1, len(counts)), stable_hash("order", seed, "shards"))
        self._shards = array("q", (shuffle(place) for place in range(len(counts))))
        self._counts = array("q", counts)
        self._first = _starts(counts)  # of a shard, by its number: its first sample
        self._starts = _starts(counts[shard] for shard in self._shards)  # of the shard at a place: its first position
        self.num_samples = self._first.pop()
        self._starts.pop()
        mean = -(-self.num_samples // max(1, len(counts)))
        # without regions a slot would have a shard open, and its index in memory, for every block of a window
        self.region = -(-max(mean, window) // block_size) * block_size

    def run(self, slot: int) -> range:
        """The slot's stretch of the shuffled sequence; :meth:`lay` says which sample stands at each position."""
        length, longer = divmod(self.num_samples, self.slots)
        start = slot * length + min(slot, longer)
        return range(start, start + length + (slot < longer))

    def element(self, slot: int, index: int) -> tuple[int, int]:
        """The sample that is element ``index`` of ``slot``, which never ends, and the slot's epoch that it is in."""
        run = self.run(slot)
        epoch, index = divmod(index, len(run))
        window, index = divmod(index, self.window)
        first = window * self.window
        size = min(self.window, len(run) - first)
        index = first + shuffled(size, 1, self.seed, "window", slot, epoch, window)(index)
        index = shuffled(len(run), self.region, self.seed, "regions", slot, epoch)(index)
        region, index = divmod(index, self.region)
        first = region * self.region
        size = min(self.region, len(run) - first)
        index = first + shuffled(size, self.block_size, self.seed, "blocks", slot, epoch, region)(index)
        return self.lay(run[index]), epoch

    def lay(self, position: int) -> int:
        """The sample at a ``position`` of the sequence that is cut into runs."""
        place = bisect_right(self._starts, position) - 1
        shard = self._shards[place]
        row = shuffled(self._counts[shard], self.block_size, self.seed, "layout", shard)(position - self._starts[place])
        return self._first[shard] + row

    def shards(self, slots: Iterable[int]) -> list[int]:
        """The numbers of the shards that these slots ever read, ascending."""
        found: set[int] = set()
        for slot in slots:
            if run := self.run(slot):
                last = bisect_right(self._starts, run[-1])
                found.update(self._shards[bisect_right(self._starts, run[0]) - 1 : last])
        return sorted(shard for shard in found if self._counts[shard])


class BlockShuffle:
    """``range(count)`` with its blocks of ``block_size`` shuffled by ``key`` and each block in its own order.

    Called with an index, it gives the number there. The last block may be short, and may land anywhere.

    >>> shuffle = BlockShuffle(8, 3, key=1)
    >>> [shuffle(index) for index in range(8)]
    [0, 1, 2, 6, 7, 3, 4, 5]
    """

    __slots__ = ("_block_size", "_end", "_permutation", "_place")

    def __init__(self, count: int, block_size: int, key: int) -> None:
        self._block_size = block_size
        self._permutation = Permutation(-(-count // block_size), key)
        missing = self._permutation.count * block_size - count
        self._place = self._permutation.inverse(self._permutation.count - 1)  # of the short block
        self._end = (self._place + 1) * block_size - missing

    def __call__(self, index: int) -> int:
        if index < self._end:
            place, offset = divmod(index, self._block_size)
        else:
            place, offset = divmod(index - self._end, self._block_size)
            place += self._place + 1
        return self._permutation(place) * self._block_size + offset


@lru_cache(maxsize=1024)
def shuffled(count: int, block_size: int, seed: int, *name: str | int) -> BlockShuffle:
    """The shuffle called ``name`` under ``seed``. Kept for a while, since neighbours in the order share theirs."""
    return BlockShuffle(count, block_size, stable_hash("order", seed, *name))


def _starts(counts: Iterable[int]) -> array[int]:
    return array("q", accumulate(counts, initial=0))
