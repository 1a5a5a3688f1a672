from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.mixture import PERIOD, Mixture, difference, shares
from xmodal.data.plan import Plan
from xmodal.errors import DataError

weights = st.lists(st.floats(0.05, 50), min_size=2, max_size=5).filter(lambda given: min(given) / sum(given) > 0.01)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=8), st.integers(0, 5000))
def test_shares_add_up_and_are_off_by_less_than_one(given, total):
    found = shares(given, total)
    assert sum(found) == total
    assert all(abs(share - weight / sum(given) * total) < 1 for share, weight in zip(found, given, strict=True))


@given(weights, st.integers(0, 10**12), st.integers(0, 2**32))
def test_whole_batches_come_by_weight_and_each_source_counts_its_own(given, start, seed):
    names = [f"s{i}" for i in range(len(given))]
    mixture = Mixture(names, given, 8, mix="batches", seed=seed)
    first = start // PERIOD * PERIOD
    parts = [mixture.parts(number) for number in range(first, first + PERIOD)]
    assert all(len(part) == 1 for part in parts)
    counts = Counter(part[0][0] for part in parts)
    assert tuple(counts[i] for i in range(len(given))) == shares(given, PERIOD)
    for source in counts:  # its batches stand in their own order, none left out, going on where the last period ended
        own = [batch for part in parts for found, batch in part if found == source]
        assert own == list(range(first // PERIOD * counts[source], (first // PERIOD + 1) * counts[source]))


def test_periods_and_seeds_have_orders_of_their_own():
    def order(seed: int, period: int) -> list[int]:
        mixture = Mixture(["a", "b"], [1, 1], 8, mix="batches", seed=seed)
        return [mixture.parts(period * PERIOD + place)[0][0] for place in range(PERIOD)]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*which)) for which in ((0, 0), (0, 1), (1, 0))}) == 3


@given(weights, st.integers(0, 10**9))
def test_mixed_batches_hold_a_fixed_number_of_each_source(given, number):
    batch_size = 512
    mixture = Mixture([f"s{i}" for i in range(len(given))], given, batch_size, mix="samples", seed=0)
    assert mixture.parts(number) == [(source, number) for source in range(len(given))]
    assert mixture.batch_sizes == shares(given, batch_size)
    assert list(accumulate(mixture.batch_sizes))[-1] == batch_size


def test_a_source_that_would_get_nothing_is_refused_by_name():
    with pytest.raises(DataError, match=r"Source 'rare' with weight 0\.001 .* data\.mix=batches"):
        Mixture(["much", "rare"], [1, 0.001], 64, mix="samples", seed=0)
    with pytest.raises(DataError, match=r"'rare'.*1024 batches"):
        Mixture(["much", "rare"], [1, 1e-6], 64, mix="batches", seed=0)


def test_one_source_is_its_plan():
    plan = Plan([10], fingerprint="f", batch_size=5)
    mixture = Mixture(["train"], [3.0], 5, mix="samples", seed=0)
    assert mixture.parts(7) == [(0, 7)]
    assert mixture.hash([plan]) == plan.hash


def test_the_hash_tells_names_weights_and_ways_apart():
    def hash_of(names=("a", "b"), weights=(1, 3), mix="batches"):
        mixture = Mixture(names, weights, 8, mix=mix, seed=0)
        return mixture.hash([Plan([10], fingerprint="f", batch_size=size) for size in mixture.batch_sizes])

    assert difference(hash_of(), hash_of()) == []
    assert difference(hash_of(weights=(1, 1)), hash_of())[0] == "a.share: 256 there, 512 here"
    assert any(line.startswith("mix: batches there") for line in difference(hash_of(mix="samples"), hash_of()))
    assert difference(hash_of(names=("a", "c")), hash_of())
    assert difference(hash_of(names=("a-1", "b")), hash_of(names=("a_1", "b")))
    assert difference("one=1 two=2", "two=2 one=1") == ["the order of the sources"]
