from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.keys import keys
from xmodal.data.plan import Plan
from xmodal.data.shards import ShardSet
from xmodal.errors import DataError


class Fake(ShardSet):
    """Shards of which only the counts exist."""

    def __init__(self, counts) -> None:
        super().__init__([f"shard-{number}.tar" for number in range(len(counts))], counts, [1] * len(counts))

    def key(self, sample: int) -> str:
        shard, row = self.locate(sample)
        return f"{shard}/{row}"


counts = st.lists(st.integers(1, 60), min_size=1, max_size=5).filter(lambda counts: sum(counts) >= 8)


@given(counts, st.integers(0, 3), st.sampled_from([8, 16, 40]), st.sampled_from([1, 2, 4, 8]))
def test_the_ranks_of_an_epoch_get_every_key_exactly_once(counts, epoch, batch_size, world_size):
    shards = Fake(counts)
    parts = [
        list(keys(shards, epoch=epoch, batch_size=batch_size, slots=8, world_size=world_size, rank=rank))
        for rank in range(world_size)
    ]
    found = [key for part in parts for batch in part for key in batch]
    assert len(found) == len(set(found)) == sum(counts)
    assert {len(part) for part in parts} == {-(-sum(counts) // batch_size)}
    alone = list(keys(shards, epoch=epoch, batch_size=batch_size, slots=8))
    for number, batch in enumerate(alone):
        assert sorted(batch) == sorted(key for part in parts for key in part[number])
    assert [len(batch) for batch in alone[:-1]] == [batch_size] * (len(alone) - 1)


@given(counts, st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6)))
def test_start_and_batches_take_a_stretch_of_the_epoch(counts, start, batches):
    whole = list(keys(Fake(counts), epoch=1, batch_size=8))
    stretch = list(keys(Fake(counts), epoch=1, batch_size=8, start=start, batches=batches))
    assert stretch == whole[start : None if batches is None else start + batches]


def test_without_an_epoch_come_the_batches_of_training():
    shards = Fake([30, 21])
    plan = Plan(shards.counts, fingerprint=shards.fingerprint, batch_size=16, seed=5)
    batches = list(islice(keys(shards, seed=5, epoch=None, batch_size=16, start=2), 7))
    assert batches == [
        [shards.key(plan.sample(position)[0]) for position in range(number * 16, number * 16 + 16)]
        for number in range(2, 9)
    ]
    assert list(keys(shards, seed=5, epoch=None, batch_size=16, start=2, batches=7)) == batches


def test_the_first_epoch_is_that_of_training_but_for_its_short_end():
    epoch = list(keys(Fake([30, 21]), epoch=0, batch_size=16))
    training = list(keys(Fake([30, 21]), epoch=None, batch_size=16, batches=4))
    assert epoch[:3] == training[:3]
    assert epoch[3] == training[3][:3]


def test_seeds_and_epochs_have_orders_of_their_own():
    made = [
        [key for batch in keys(Fake([200]), seed=seed, epoch=epoch, batch_size=8) for key in batch]
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len({tuple(order) for order in made}) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": -1}, "epoch is -1"),
        ({"start": -2}, "start is -2"),
        ({"batches": -1}, "batches is -1"),
        ({"rank": 1}, "Rank 1 is not one of 1 ranks"),
        ({"world_size": 3}, "cannot be shared by 3 ranks"),
        ({"slots": 5}, "not a multiple of 5 slots"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused_at_once(options, message):
    with pytest.raises(DataError, match=message):
        keys(Fake([50]), batch_size=8, **options)
