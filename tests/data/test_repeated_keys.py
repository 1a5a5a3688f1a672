from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmodal.data.repeated_keys import RepeatedKeys

KEYS = st.lists(st.integers(0, 12).map("k{}".format), min_size=1, max_size=6, unique=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shards=st.lists(KEYS, min_size=1, max_size=5))
def test_each_key_is_compared_with_the_first_shard_that_has_it(shards, tmp_path, write_tar):
    repeated = RepeatedKeys()
    first: dict[str, int] = {}
    expected: dict[tuple[str, str], list[str]] = {}
    for number, keys in enumerate(shards):
        path = write_tar(
            tmp_path / f"{len(shards)}-{number}-{abs(hash(tuple(keys)))}.tar", [(f"{key}.x", b"") for key in keys]
        )
        repeated.add_shard(str(number), path, keys)
        for key in keys:
            if first.setdefault(key, number) != number:
                expected.setdefault((str(number), str(first[key])), []).append(key)
    found = list(repeated.repeated())
    assert {(shard, other): (key, count) for shard, other, key, count in found} == {
        pair: (keys[0], len(keys)) for pair, keys in expected.items()
    }
    assert max(Counter(pair[:2] for pair in found).values(), default=1) == 1


def test_a_key_takes_eight_bytes_and_no_more_than_three_times_that_when_they_are_compared(tmp_path):
    count = 200_000
    tracemalloc.start()
    try:
        repeated = RepeatedKeys()
        for shard in range(20):
            repeated.add_shard(str(shard), tmp_path, [f"{shard}-{number}" for number in range(count // 20)])
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert list(repeated.repeated()) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1.5 * 8 * count
    assert peak < 3 * 8 * count
