"""What is asked of a server when shards are opened, and what is said where it cannot be answered."""

from __future__ import annotations

import json
import pickle
import sys

import fsspec
import pytest

from xmodal.data import expand, index_shards, open_shards
from xmodal.data.check import check
from xmodal.data.show import show
from xmodal.errors import DataError


def paths(server):
    return [path.rpartition("/")[2] for path, _ in server.requests]


def test_opening_reads_one_small_file_and_reading_fetches_what_is_read(server, folder, cached):
    shards = open_shards(f"{server.address}/train-{{000..004}}.tar")
    assert paths(server) == ["manifest.json"]
    local = open_shards(folder)
    assert (shards.fingerprint, shards.names) == (local.fingerprint, local.names)
    assert shards.read(30) == local.read(30)
    assert shards.read(31) == local.read(31)
    assert paths(server) == ["manifest.json", "train-001.tar", "train-001.index.json"]
    assert cached() == ["train-001.tar"]
    again = open_shards(f"{server.address}/train-{{000..004}}.tar")
    assert again.read(30) == local.read(30)
    assert server.asked("train-001.tar") == [None]


@pytest.mark.parametrize("pattern", ["", "/", "/train-*.tar", "/train-00[0-4].tar", "/train-{000..004}.tar"])
def test_a_folder_and_a_glob_are_answered_by_the_manifest(server, pattern):
    assert expand(server.address + pattern) == [f"{server.address}/train-{n:03d}.tar" for n in range(5)]


def test_without_a_manifest_http_knows_no_folder_and_no_glob(server, folder):
    (folder / "manifest.json").unlink()
    for pattern in ("", "/train-*.tar"):
        with pytest.raises(DataError, match=r"http has no listings.*no http.*/manifest\.json.*xmodal data index"):
            open_shards(server.address + pattern)
    with pytest.raises(DataError, match="http has no listings"):
        open_shards(f"{server.address}/*/train-000.tar")


def test_a_glob_that_the_manifest_does_not_match_says_what_it_lists(server):
    with pytest.raises(DataError, match=r"No shard matches .*val-\*.*lists train-000\.tar, train-001"):
        open_shards(f"{server.address}/val-*.tar")


def test_few_shards_without_a_manifest_are_counted_by_their_indexes(server, folder, caplog, cached):
    (folder / "manifest.json").unlink()
    shards = open_shards(f"{server.address}/train-{{000..004}}.tar")
    assert shards.counts == (24,) * 5
    assert "5 remote shards" in caplog.text
    assert cached() == []
    assert shards.read(0) == open_shards(folder).read(0)


def test_few_shards_without_anything_are_fetched_and_counted(server, folder, cached):
    for path in folder.glob("*.json"):
        path.unlink()
    shards = open_shards(f"{server.address}/train-{{000..001}}.tar")
    assert (shards.counts, cached()) == ((24, 24), ["train-000.tar", "train-001.tar"])
    assert shards.fingerprint == open_shards(f"{folder}/train-{{000..001}}.tar").fingerprint


def test_many_shards_without_a_manifest_are_refused_before_any_is_fetched(server, folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"65 remote shards.*64 at most.*xmodal data index"):
        open_shards(f"{server.address}/train-{{000..064}}.tar")
    assert paths(server) == ["manifest.json"]


def test_a_hundred_thousand_shards_take_one_request(server, folder):
    entries = [{"name": f"big-{n:06d}.tar", "samples": 10_000, "size": 10**9} for n in range(100_000)]
    (folder / "manifest.json").write_text(json.dumps({"shards": entries}))
    shards = open_shards(f"{server.address}/big-{{000000..099999}}.tar")
    assert shards.num_samples == 10**9
    assert paths(server) == ["manifest.json"]
    assert len(pickle.dumps(shards)) < 8_000_000


def test_an_encoded_name_and_a_query_do_not_change_what_a_shard_is(server, folder):
    (folder / "train-000.tar").rename(folder / "a b.tar")
    index_shards(folder / "a b.tar")
    local = open_shards(folder / "a b.tar")
    first = local.read(0)
    shards = open_shards(f"{server.address}/a%20b.tar?key=1")
    (folder / "a b.tar").rename(folder / "a%20b.tar")  # the test's server does not decode
    (folder / "a b.index.json").rename(folder / "a%20b.index.json")
    assert (shards.names, shards.fingerprint) == (("a b.tar",), local.fingerprint)
    assert shards.read(0) == first


def test_a_broken_manifest_is_named(server, folder):
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=rf"Manifest {server.address}/manifest\.json is broken"):
        open_shards(server.address)


@pytest.mark.parametrize("manifest", [True, False])
def test_a_file_system_that_lists_is_asked_where_there_is_no_manifest(folder, manifest, everything):
    memory = fsspec.filesystem("memory")
    try:
        memory.put(f"{folder}/", "/shelf/train/", recursive=True)
        if not manifest:
            memory.rm("/shelf/train/manifest.json")
        local = open_shards(folder)
        for pattern in ("memory://shelf/train", "memory://shelf/*/train-*.tar", "memory://shelf/train/train-???.tar"):
            shards = open_shards(pattern)
            assert shards.paths == tuple(f"memory://shelf/train/train-{n:03d}.tar" for n in range(5))
            assert shards.fingerprint == local.fingerprint
        assert everything(shards) == everything(local)
        with pytest.raises(DataError, match="No shard matches 'memory://shelf/val"):
            open_shards("memory://shelf/val/*.tar")
    finally:
        memory.rm("/shelf", recursive=True)


def test_remote_and_local_shards_stand_side_by_side(server, folder, everything):
    mixed = open_shards([f"{server.address}/train-000.tar", f"{folder}/train-{{001..004}}.tar"])
    local = open_shards(folder)
    assert mixed.fingerprint == local.fingerprint
    assert everything(mixed) == everything(local)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("zip://a.tar::s3://bucket/b.zip", "chains file systems"),
        ("nowhere://bucket/train", "cannot be opened"),
        ("https://host/train.tar.gz", "https has no listings"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(shards, message, serve, monkeypatch, folder):
    monkeypatch.setattr("xmodal.data.remote.folder._manifest", lambda address: None)
    with pytest.raises(DataError, match=message):
        open_shards(shards)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match=r"gs://bucket/.*pip install gcsfs, or pip install 'xmodal\[remote\]'"):
        open_shards("gs://bucket/train-{000..003}.tar")


def test_what_works_on_files_says_so_of_addresses_and_showing_fetches(server, folder):
    assert show(server.address) == show(folder)
    for work in (index_shards, check):
        with pytest.raises(DataError, match="is remote, and this works on files"):
            work(f"{server.address}/train-000.tar")
