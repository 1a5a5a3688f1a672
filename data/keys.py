"""The keys of an epoch's batches in their order, without decoding anything: what `xmodal data keys` prints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from xmodal.data.plan import BLOCK_SIZE, WINDOW, Plan
from xmodal.data.shards import ShardSet, open_shards
from xmodal.data.uri import Shards
from xmodal.errors import DataError


def keys(
    shards: Shards | ShardSet,
    *,
    seed: int = 0,
    epoch: int | None = 0,
    batch_size: int,
    world_size: int = 1,
    rank: int = 0,
    start: int = 0,
    batches: int | None = None,
    slots: int | None = None,
    block_size: int = BLOCK_SIZE,
    window: int = WINDOW,
) -> Iterator[list[str]]:
    """The keys that ``rank`` gets, batch by batch, from batch ``start`` on, ``batches`` of them or to the end.

    With an ``epoch``, that epoch alone, cut into batches from its first sample on: every key once over all ranks and
    batches, the last batch may be short, and may leave nothing for a rank. With ``epoch=None``, the batches of
    training, which run across the border of two epochs and never end.

    Raises :class:`DataError` at once, before the first batch is asked for, where the numbers do not go together.
    """
    shard_set = open_shards(shards)
    plan = Plan(
        shard_set.counts,
        fingerprint=shard_set.fingerprint,
        batch_size=batch_size,
        seed=seed,
        slots=slots,
        block_size=block_size,
        window=window,
    )
    plan.slots_of(rank, world_size)
    for name, number in {"epoch": epoch or 0, "start": start, "batches": batches or 0}.items():
        if number < 0:
            raise DataError(f"{name} is {number}; it cannot be below 0.")
    return _keys(shard_set, plan, epoch, _numbers(plan, epoch, start, batches), rank, world_size)


def _numbers(plan: Plan, epoch: int | None, start: int, batches: int | None) -> range | count[int]:
    end = None if epoch is None else -(-plan.num_samples // plan.batch_size)
    if batches is not None:
        end = start + batches if end is None else min(end, start + batches)
    return count(start) if end is None else range(start, end)


def _keys(
    shards: ShardSet, plan: Plan, epoch: int | None, numbers: range | count[int], rank: int, world_size: int
) -> Iterator[list[str]]:
    for number in numbers:
        if epoch is None:
            samples = [plan.sample(position)[0] for position in plan.positions(number, rank, world_size)]
        else:
            samples = plan.epoch_samples(epoch, number, rank, world_size)
        yield [shards.key(sample) for sample in samples]
