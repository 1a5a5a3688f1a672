from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from xmodal.data.permutation import Permutation

keys = st.integers(0, 2**64 - 1)


@given(count=st.integers(1, 3000), key=keys)
def test_every_number_stands_at_exactly_one_place(count, key):
    shuffle = Permutation(count, key)
    assert sorted(map(shuffle, range(count))) == list(range(count))


@given(count=st.integers(1, 10**15), key=keys, data=st.data())
def test_the_inverse_finds_the_place_of_a_number(count, key, data):
    shuffle = Permutation(count, key)
    index = data.draw(st.integers(0, count - 1))
    assert 0 <= shuffle(index) < count
    assert shuffle.inverse(shuffle(index)) == index
    assert shuffle(shuffle.inverse(index)) == index


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_order_of_few_numbers_is_equally_likely(count):
    found = Counter(tuple(map(Permutation(count, key), range(count))) for key in range(12_000))
    assert chisquare([found[order] for order in permutations(range(count))]).pvalue > 1e-4


def test_numbers_go_everywhere_and_neighbours_part():
    count = 1000
    places, gaps = Counter(), Counter()
    for key in range(50):
        order = [Permutation(count, key)(index) for index in range(count)]
        places.update(number // 100 * 10 + index // 100 for index, number in enumerate(order))
        gaps.update((second - first) % count // 100 for first, second in pairwise(order))
    assert chisquare([places[place] for place in range(100)]).pvalue > 1e-4
    assert chisquare([gaps[gap] for gap in range(10)]).pvalue > 1e-4


def test_the_order_of_a_key_stays_what_it_was():
    # runs in progress and published orders rely on it: if this must change, change the version in the plan's hash
    assert [Permutation(10, 7)(index) for index in range(10)] == [6, 1, 2, 7, 8, 9, 0, 4, 5, 3]


def test_what_lies_outside_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, 1)
    for index in (-1, 10):
        with pytest.raises(IndexError):
            Permutation(10, 1)(index)
        with pytest.raises(IndexError):
            Permutation(10, 1).inverse(index)
