"""The plan of a training stream: which sample stands at each position, and whose position it is."""

from __future__ import annotations

from collections.abc import Sequence

from xmodal.data.order import Order
from xmodal.errors import DataError

BLOCK_SIZE = 64
WINDOW = 1024
MAX_SLOTS = 64
_VERSION = 1  # of the order: another one would deliver other samples at the same position


class Plan:
    """An endless sequence of samples as a pure function of its arguments: no state, no file, no random generator.

    Position p is element p // slots of slot p % slots (see :class:`xmodal.data.order.Order`). Batch k is the positions
    from k · batch_size on, ``batch_size`` of them; a rank owns whole slots. ``counts`` are the shards' numbers of
    samples and ``fingerprint`` is theirs and their names' hash. ``slots`` is by default the largest power of two up to
    64 that divides the batch size and is no more than the samples.

    Raises :class:`DataError` for sizes that do not go together.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        fingerprint: str,
        batch_size: int,
        seed: int = 0,
        slots: int | None = None,
        block_size: int = BLOCK_SIZE,
        window: int = WINDOW,
    ) -> None:
        self.num_samples = sum(counts)
        for name, size in {
            "batch_size": batch_size,
            "slots": slots,
            "block_size": block_size,
            "window": window,
        }.items():
            if size is not None and size < 1:
                raise DataError(f"{name} is {size}; it must be at least 1.")
        if self.num_samples == 0:
            raise DataError(
                "The shards hold no sample, so there is nothing to order. Pack some with `xmodal data pack`."
            )
        self.batch_size, self.seed = batch_size, seed
        self.slots = default_slots(batch_size, self.num_samples) if slots is None else slots
        if batch_size % self.slots:
            raise DataError(
                f"batch_size {batch_size} is not a multiple of {self.slots} slots, and a batch takes as many samples "
                f"from each slot. Set data.slots={default_slots(batch_size, self.num_samples)}."
            )
        if self.slots > self.num_samples:
            raise DataError(
                f"{self.num_samples} samples cannot be cut into {self.slots} slots. "
                f"Set data.slots={default_slots(batch_size, self.num_samples)}, or leave it out."
            )
        self.order = Order(counts, seed=seed, slots=self.slots, block_size=block_size, window=window)
        # readable on purpose: what differs between two plans can be said from their hashes alone
        self.hash = (
            f"order={_VERSION} samples={self.num_samples} shards={fingerprint} batch_size={batch_size} "
            f"slots={self.slots} block_size={block_size} window={window}"
        )

    def sample(self, position: int) -> tuple[int, int]:
        """The number of the sample at ``position`` among all samples of the shards, and its slot's epoch."""
        index, slot = divmod(position, self.slots)
        return self.order.element(slot, index)

    def positions(self, batch: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """The positions of ``batch`` that ``rank`` owns, ascending."""
        mine = self.slots_of(rank, world_size)
        start = batch * self.batch_size
        return [start + turn + slot for turn in range(0, self.batch_size, self.slots) for slot in mine]

    def epoch_samples(self, epoch: int, batch: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """The samples of ``rank`` in the ``batch``-th part of one epoch; the last part may be short, later ones empty.

        Every slot's epoch is taken from its own beginning, so the parts of an epoch hold each sample exactly once. In
        epoch 0 they are the batches of training; later ones start where the epoch does, not where a batch does.
        """
        samples = []
        for position in self.positions(batch, rank, world_size):
            index, slot = divmod(position, self.slots)
            length = len(self.order.run(slot))
            if index < length:
                samples.append(self.order.element(slot, epoch * length + index)[0])
        return samples

    def slots_of(self, rank: int, world_size: int) -> range:
        """The slots that ``rank`` owns. Raises :class:`DataError` where ranks cannot have as many slots each."""
        if not 0 <= rank < world_size:
            raise DataError(f"Rank {rank} is not one of {world_size} ranks, which are 0 … {world_size - 1}.")
        if self.slots % world_size:
            known = [n for n in range(1, MAX_SLOTS + world_size) if self.batch_size % n == 0 and n % world_size == 0]
            fitting = [n for n in known if n <= self.num_samples]
            mend = f"Set data.slots={fitting[-1]}" if fitting else f"Take a batch_size that {world_size} divides"
            raise DataError(
                f"{self.slots} slots cannot be shared by {world_size} ranks, since a rank owns whole slots. "
                f"{mend}, or run on a number of ranks that divides {self.slots}."
            )
        owned = self.slots // world_size
        return range(rank * owned, (rank + 1) * owned)


def default_slots(batch_size: int, num_samples: int) -> int:
    """The largest power of two, up to 64 and to the number of samples, that divides the batch size.

    >>> default_slots(128, 5000), default_slots(96, 5000), default_slots(100, 5000), default_slots(128, 10)
    (64, 32, 4, 8)
    """
    slots = 1
    while slots * 2 <= min(MAX_SLOTS, num_samples) and batch_size % (slots * 2) == 0:
        slots *= 2
    return slots
