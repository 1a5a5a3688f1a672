"""How much of the disk fetched shards take, and that what is in use stays."""

from __future__ import annotations

import os
import shutil

import pytest

from xmodal.data import open_shards
from xmodal.data.remote.cache import RemoteShard, fetch
from xmodal.data.remote.settings import parse_size
from xmodal.errors import DataError


@pytest.fixture
def shards(server):
    """The five shards, as what the cache is asked for."""
    opened = open_shards(server.address)
    return [RemoteShard(*each) for each in zip(opened.paths, opened.sizes, opened.sha256, strict=True)]


def bytes_in(cache):
    return sum(path.stat().st_size for path in cache.rglob("*.tar"))


def limit_of(shards, count):
    """Room for so many shards with their indexes."""
    return str(int(max(shard.size for shard in shards) * (count + 0.5)))


def test_the_least_recently_used_go_first(shards, monkeypatch, cached):
    monkeypatch.setenv("XMODAL_CACHE_LIMIT", limit_of(shards, 3))
    for number in (0, 1, 2):
        fetch(shards[number]).file.close()
        os.utime(shards[number].path, (number, number))
        for other in shards[number].path.parent.iterdir():
            os.utime(other, (number, number))
    fetch(shards[0]).file.close()  # used again: now 1 is the oldest
    fetch(shards[3]).file.close()
    assert cached() == ["train-000.tar", "train-002.tar", "train-003.tar"]


def test_what_is_in_use_stays_and_the_limit_is_passed_with_a_warning(shards, monkeypatch, cached, caplog):
    monkeypatch.setenv("XMODAL_CACHE_LIMIT", limit_of(shards, 2))
    held = [fetch(shard) for shard in shards[:3]]
    assert cached() == ["train-000.tar", "train-001.tar", "train-002.tar"]
    assert "XMODAL_CACHE_LIMIT" in caplog.text
    assert fetch(shards[3], wait=False) is None  # nobody waits for it: it is not fetched where there is no room
    held[0].file.close()
    held[1].file.close()
    fetch(shards[3])
    assert cached() == ["train-002.tar", "train-003.tar"]


def test_a_set_reads_on_while_others_fill_the_cache(server, folder, shards, monkeypatch, everything, cache):
    monkeypatch.setenv("XMODAL_CACHE_LIMIT", "1")  # less than any shard takes
    reading = open_shards(server.address)
    local = open_shards(folder)
    reading.read(0)
    for shard in shards[1:]:
        fetch(shard).file.close()
    assert server.asked("train-000.tar") == [None]
    assert [reading.read(row) for row in range(24)] == [local.read(row) for row in range(24)]
    assert server.asked("train-000.tar") == [None]
    assert len(list(cache.rglob("*.tar"))) == 2  # the one that is read, and the last
    assert everything(reading) == everything(local)


def test_a_shard_that_was_removed_under_its_reader_is_still_read(server, folder, cache):
    reading, local = open_shards(server.address), open_shards(folder)
    reading.read(0)
    shutil.rmtree(cache)
    assert reading.read(5) == local.read(5)
    assert open_shards(server.address).read(5) == local.read(5)  # fetched anew


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_fetched_shard_of_a_wrong_size_is_fetched_again(server, folder, shards, damage):
    fetch(shards[0]).file.close()
    shards[0].path.write_bytes(damage)
    assert open_shards(server.address).read(0) == open_shards(folder).read(0)
    assert server.asked("train-000.tar") == [None, None]


def test_parts_of_shards_count_with_the_size_that_they_will_have(shards, monkeypatch, cached):
    monkeypatch.setenv("XMODAL_CACHE_LIMIT", limit_of(shards, 2))
    dead = shards[4].part  # of a process that was killed
    dead.parent.mkdir(parents=True)
    dead.touch()
    os.utime(dead, (1, 1))
    fetch(shards[0])
    assert dead.exists()
    fetch(shards[1])
    assert not dead.exists()
    assert cached() == ["train-000.tar", "train-001.tar"]


def test_another_version_of_a_shard_is_another_shard(server, folder, shards):
    old = open_shards(server.address)
    old.read(0)
    shutil.copy(folder / "train-001.tar", folder / "train-000.tar")
    from xmodal.data import index_shards

    index_shards(folder)
    new = open_shards(server.address)
    assert new.read(0).key == open_shards(folder).read(24).key != old.read(0).key
    assert old.read(1).key != new.read(1).key


def test_without_a_limit_a_full_disk_is_a_limit(shards, monkeypatch, cached):
    fetch(shards[0]).file.close()
    held = fetch(shards[1])
    free = lambda folder: shutil._ntuple_diskusage(10**6, 10**6 - 50_000, 50_000)  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", free)
    assert fetch(shards[2], wait=False) is not None
    assert cached() == ["train-001.tar", "train-002.tar"]
    held.file.close()


def test_offline_what_is_there_is_read_and_what_is_not_is_named(server, shards, monkeypatch):
    fetch(shards[0]).file.close()
    monkeypatch.setenv("XMODAL_OFFLINE", "1")
    assert fetch(shards[0]) is not None
    with pytest.raises(DataError, match=rf"Offline.*{server.address}/train-001\.tar"):
        fetch(shards[1])


def test_a_cache_that_cannot_be_written_is_named(shards, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"file/shards.*cannot be written: Not a directory"):
        fetch(shards[0])


@pytest.mark.parametrize("text", ["many", "50 GX", "-1", "5 iB"])
def test_a_limit_that_is_no_size_is_refused(text, monkeypatch, shards):
    monkeypatch.setenv("XMODAL_CACHE_LIMIT", text)
    with pytest.raises(DataError, match=rf"XMODAL_CACHE_LIMIT={text} is no size.*50GB"):
        fetch(shards[0])


def test_sizes_are_read_as_people_write_them():
    sizes = {"1k": 1000, "1.5MB": 1_500_000, "2 TiB": 2 << 40, "7": 7, "50gb": 50 * 10**9, "3B": 3}
    assert {text: parse_size(text) for text in sizes} == sizes
