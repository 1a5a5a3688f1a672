"""Which shards come next in an order, so that remote ones can be fetched before they are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from xmodal.data.order import Order, shuffled
from xmodal.data.plan import Plan

AHEAD = 16


def upcoming(order: Order, slot: int, element: int, ahead: int = AHEAD) -> list[int]:
    """Numbers of the shards that ``slot`` reads at ``element``, and of the next ``ahead`` that it needs then.

    The first needed come first, to within a window. A region of the order counts with every shard that it crosses, so
    that one may be named whose samples were read already. Fewer are given only where the slot has no more.
    """
    return _nearest(_needs(order, slot, element), ahead)


def upcoming_in_plan(plan: Plan, batch: int, rank: int = 0, world_size: int = 1, ahead: int = AHEAD) -> list[int]:
    """Numbers of the shards that a rank's slots read in ``batch``, and of the next ``ahead`` or so, all in all.

    The first needed come first. Costs some microseconds a slot.
    """
    element = batch * (plan.batch_size // plan.slots)
    slots = plan.slots_of(rank, world_size)
    each = ahead // len(slots) + 2
    found = [need for slot in slots for need in _first(_needs(plan.order, slot, element), each)]
    return _nearest(sorted(found), ahead)


def _nearest(needs: Iterable[tuple[int, int]], ahead: int) -> list[int]:
    return list(dict.fromkeys(shard for _, shard in _first(needs, ahead)))


def _first(needs: Iterable[tuple[int, int]], ahead: int) -> Iterator[tuple[int, int]]:
    """What is needed now, and ``ahead`` shards more; each shard once, when it is first needed."""
    seen: set[int] = set()
    for distance, shard in needs:
        if distance and shard not in seen:
            if ahead <= 0:
                return
            ahead -= 1
        if shard not in seen:
            seen.add(shard)
            yield distance, shard


def _needs(order: Order, slot: int, element: int) -> Iterator[tuple[int, int]]:
    """How many elements from ``element`` on a shard is needed, and its number; a shard may come again and again.

    Goes through the rest of the epoch and one more, region by region.
    """
    length = len(order.run(slot))
    epoch, offset = divmod(element, length)
    place = _window(offset, order)  # the samples of a window are read in any order
    for turn in range(2):
        regions = shuffled(length, order.region, order.seed, "regions", slot, epoch + turn)
        while place < length:
            region, inside = divmod(regions(place), order.region)
            size = min(order.region, length - region * order.region)
            distance = max(0, turn * length + _window(place, order) - offset)
            for shard in _shards_of(order, slot, region * order.region, size):
                yield distance, shard
            place += size - inside
        place = 0


def _window(place: int, order: Order) -> int:
    return place // order.window * order.window


def _shards_of(order: Order, slot: int, first: int, size: int) -> list[int]:
    """The shards that a stretch of the slot's run crosses."""
    run = order.run(slot)
    begin = bisect_right(order._starts, run[first]) - 1
    end = bisect_right(order._starts, run[first + size - 1])
    return [shard for shard in order._shards[begin:end] if order._counts[shard]]
