from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.order import Order
from xmodal.data.plan import Plan
from xmodal.data.upcoming import upcoming, upcoming_in_plan

counts = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def shard_of(sample, counts):
    for shard, count in enumerate(counts):
        if sample < count:
            return shard
        sample -= count
    raise AssertionError


@given(counts, st.integers(1, 4), st.integers(1, 9), st.integers(1, 50), st.integers(0, 300), st.integers(0, 3))
def test_what_a_slot_reads_next_is_named_in_the_order_of_need(counts, slots, block, window, start, seed):
    slots = min(slots, sum(counts))
    order = Order(counts, seed=seed, slots=slots, block_size=block, window=window)
    for slot in range(slots):
        named = upcoming(order, slot, start, ahead=len(counts))
        assert len(set(named)) == len(named)
        read = [shard_of(order.element(slot, start + step)[0], counts) for step in range(len(order.run(slot)))]
        assert set(read) <= set(named)
        assert set(named) <= set(order.shards([slot]))
        # without anything ahead: what is read in the rest of this window, and in the regions that it touches
        offset = start % len(order.run(slot))
        rest = min(window - offset % window, len(order.run(slot)) - offset)
        assert set(read[:rest]) <= set(upcoming(order, slot, start, ahead=0))


@given(counts, st.integers(0, 20), st.integers(0, 3), st.integers(0, 6))
def test_a_rank_is_told_of_what_its_batch_reads_and_of_no_other_ranks_shards(counts, batch, seed, ahead):
    if sum(counts) < 4:
        return
    plan = Plan(counts, fingerprint="x", batch_size=8, seed=seed, slots=4, block_size=2, window=4)
    for rank in range(2):
        named = upcoming_in_plan(plan, batch, rank, 2, ahead=ahead)
        read = {shard_of(plan.sample(position)[0], counts) for position in plan.positions(batch, rank, 2)[:2]}
        assert read <= set(named)
        assert set(named) <= set(plan.order.shards(plan.slots_of(rank, 2)))


def test_what_is_ahead_is_bounded():
    order = Order([1000] * 1000, seed=0, slots=2, block_size=64, window=1024)
    now = upcoming(order, 1, 77_000, ahead=0)
    assert len(now) <= 6
    assert upcoming(order, 1, 77_000, ahead=5)[: len(now)] == now
    assert len(upcoming(order, 1, 77_000, ahead=5)) == len(now) + 5


def test_it_takes_as_little_late_in_a_long_epoch():
    plan = Plan([10_000] * 20_000, fingerprint="x", batch_size=64)
    named = upcoming_in_plan(plan, 10**7, ahead=16)
    assert 64 <= len(named) <= 64 * 6
