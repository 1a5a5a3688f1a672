from __future__ import annotations

import json
import multiprocessing
import re
import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import DataError


@settings(max_examples=15)
@given(stops=st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_run_that_stops_and_resumes_gets_what_an_uninterrupted_one_gets(shards, uninterrupted, stops, make, take):
    state, found = None, []
    for count in stops:
        stream = make(shards)  # as after kill -9: all that is left is the state, as JSON
        if state is not None:
            stream.load_state(json.loads(state))
        found += take(stream, count)
        state = json.dumps(stream.state())
    expected = uninterrupted[: len(found)]
    assert found[: len(expected)] == expected
    assert json.loads(state)["position"] == 8 * sum(stops)


def test_a_run_resumes_exactly_with_other_workers_and_ranks(shards, uninterrupted, make, take):
    first = make(shards, num_workers=2)
    found = take(first, 3)
    second = make(shards, num_workers=0)
    second.load_state(first.state())
    found += take(second, 2)
    third = make(shards, num_workers=1)
    third.load_state(second.state())
    found += take(third, 3)
    assert found == uninterrupted[:8]
    halves = [make(shards, rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        half.load_state(third.state())
    (one,), (other,) = (take(half, 1) for half in halves)
    assert sorted(one[0] + other[0]) == sorted(uninterrupted[8][0])
    assert halves[0].state() == halves[1].state()


def test_the_position_counts_what_was_received_not_what_workers_prefetched(shards, make):
    stream = make(shards, num_workers=2)
    assert stream.state() == {"plan": stream.plans[0].hash, "seed": 3, "position": 0}
    with closing(iter(stream)) as batches:
        next(batches)
        time.sleep(0.3)
        assert stream.state()["position"] == 8
        next(batches)
        assert stream.state()["position"] == 16


def test_leaving_the_loop_ends_the_workers_and_the_next_loop_goes_on(shards, uninterrupted, make, flat):
    stream = make(shards, num_workers=2)
    for batch in stream:
        assert flat(batch) == uninterrupted[0]
        break
    del batch
    assert multiprocessing.active_children() == []
    for batch in stream:
        assert flat(batch) == uninterrupted[1]
        break


def test_a_second_iterator_ends_the_first(shards, uninterrupted, make, flat):
    stream = make(shards)
    first = iter(stream)
    next(first)
    second = iter(stream)
    assert next(first, None) is None
    assert flat(next(second)) == uninterrupted[1]
    stream.load_state({**stream.state(), "position": 0})
    assert next(second, None) is None
    assert flat(next(iter(stream))) == uninterrupted[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "seed: 3 there, 4 here"),
        ({"batch_size": 16}, "batch_size: 8 there, 16 here; slots: 8 there, 16 here"),
        ({"slots": 4}, "slots: 8 there, 4 here"),
        ({"window": 7}, "window: 1024 there, 7 here"),
    ],
)
def test_a_state_of_another_plan_is_refused_with_what_changed(shards, options, message, make):
    state = make(shards).state()
    with pytest.raises(DataError, match=re.escape(message)):
        make(shards, **options).load_state(state)


def test_a_state_of_other_shards_is_refused(shards, broken_shards, make):
    with pytest.raises(DataError, match="samples: 52 there, 60 here; shards: "):
        make(broken_shards).load_state(make(shards).state())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"position": 3}, "not at the start of a batch"), ({"position": -8}, "-8"), ({"position": "8"}, "'8'")],
)
def test_a_position_that_no_stream_leaves_is_refused(shards, change, message, make):
    stream = make(shards)
    with pytest.raises(DataError, match=message):
        stream.load_state({**stream.state(), **change})
    with pytest.raises(DataError, match="lacks plan, seed"):
        stream.load_state({"position": 0})
