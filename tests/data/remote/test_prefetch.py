"""What is fetched before it is read."""

from __future__ import annotations

import gc
import threading

import pytest

from xmodal.data import open_shards
from xmodal.data.remote import prefetch
from xmodal.errors import DataError


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "xmodal-prefetch"]


def test_what_comes_next_is_there_when_it_is_read(server, folder, cached, until):
    shards = open_shards(server.address)
    shards.prefetch([3, 1])
    until(lambda: cached() == ["train-001.tar", "train-003.tar"])
    server.requests.clear()
    assert shards.read(3 * 24) == open_shards(folder).read(3 * 24)
    assert not server.asked("train-003.tar")


def test_the_nearest_is_fetched_first_and_no_more_threads_run_than_are_allowed(server, monkeypatch, cached, until):
    monkeypatch.setattr(prefetch, "THREADS", 1)
    before = len(workers())
    shards = open_shards(server.address)
    shards.prefetch([4, 0, 2, 1, 3])
    until(lambda: len(cached()) == 5)
    assert [path for path, _ in server.requests if path.endswith(".tar")] == [
        f"/train-{number:03d}.tar" for number in (4, 0, 2, 1, 3)
    ]
    assert len(workers()) <= before + 1


def test_an_error_surfaces_when_that_shard_is_read_and_not_before(server, folder, fault, cached, until):
    server.fail("train-002.tar", *(fault("status", 404) for _ in range(2)))
    shards = open_shards(server.address)
    shards.prefetch([2, 3])
    until(lambda: "train-003.tar" in cached() and server.asked("train-002.tar"))
    assert shards.read(3 * 24) == open_shards(folder).read(3 * 24)
    with pytest.raises(DataError, match=r"nothing at .*train-002\.tar"):
        shards.read(2 * 24)
    assert shards.read(2 * 24) == open_shards(folder).read(2 * 24)  # the server has found it again


def test_fetched_ahead_it_is_kept_until_it_is_read_or_wanted_no_more(server, monkeypatch, cached, folder, until):
    shards = open_shards(server.address)
    monkeypatch.setenv("XMODAL_CACHE_LIMIT", str(int(max(shards.sizes) * 2.5)))
    shards.prefetch([1, 2])
    until(lambda: len(cached()) == 2)
    shards.read(0)  # passes the limit, for what is wanted stays
    assert cached() == ["train-000.tar", "train-001.tar", "train-002.tar"]
    shards.prefetch([4])
    until(lambda: "train-004.tar" in cached())
    assert "train-000.tar" in cached()
    assert len(cached()) == 2
    assert shards.read(1) == open_shards(folder).read(1)


def test_threads_end_with_their_set(server, monkeypatch, cached, until):
    monkeypatch.setattr(prefetch, "_IDLE_SECONDS", 0.05)
    before = set(workers())
    shards = open_shards(server.address)
    shards.prefetch([0, 1])
    until(lambda: len(cached()) == 2)
    until(lambda: set(workers()) <= before)  # idle
    shards.prefetch([2])
    until(lambda: len(cached()) == 3)
    del shards
    gc.collect()
    until(lambda: set(workers()) <= before)


def test_local_shards_start_no_thread(folder):
    before = len(workers())
    shards = open_shards(folder)
    shards.prefetch(range(5))
    assert len(workers()) == before
