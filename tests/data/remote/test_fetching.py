"""What ends up in the cache, whatever the server does."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import urllib.request

import pytest

from xmodal.data import open_shards
from xmodal.errors import DataError

SHARD = "train-000.tar"


def first(server):
    return open_shards(f"{server.address}/{SHARD}").read(0)


@pytest.fixture
def expected(folder):
    return open_shards(folder).read(0)


@pytest.fixture
def size(folder):
    return (folder / SHARD).stat().st_size


def test_a_whole_shard_is_served_by_the_standard_librarys_own_server(folder, everything):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        shards = open_shards(f"http://127.0.0.1:{httpd.server_port}/")
        assert everything(shards) == everything(open_shards(folder))
        httpd.shutdown()


@pytest.mark.parametrize("kind", ["drop", "stall", "shorten"])
def test_a_broken_transfer_goes_on_from_the_byte_where_it_broke(server, fault, kind, expected):
    if kind == "shorten":  # a length that is wrong once: asked again, from nothing
        server.fail(SHARD, fault(kind, 50_000))
        assert first(server) == expected
        assert server.asked(SHARD) == [None, None]
    else:
        server.fail(SHARD, fault(kind, 50_000), fault(kind, 10_000))
        assert first(server) == expected
        assert server.asked(SHARD) == [None, "bytes=50000-", "bytes=60000-"]


def test_a_server_without_ranges_is_asked_for_the_whole_shard_again(server, fault, expected):
    server.ranges = False
    server.fail(SHARD, fault("drop", 50_000))
    assert first(server) == expected


def test_a_busy_server_is_asked_again(server, fault, expected):
    server.fail("manifest.json", fault("status", 503))
    server.fail(SHARD, fault("status", 503), fault("status", 429), fault("status", 500))
    assert first(server) == expected


def test_at_the_end_the_error_says_where_how_often_why_and_what_to_do(server, fault, expected):
    server.fail(SHARD, fault("drop", 50_000), *(fault("status", 503) for _ in range(3)))
    with pytest.raises(
        DataError,
        match=rf"(?s){server.address}/{SHARD} could not be copied.*503.*4 times.*50\.0 kB of .*kept.*start again",
    ):
        first(server)
    server.requests.clear()
    assert first(server) == expected  # and the next time it goes on
    assert server.asked(SHARD) == ["bytes=50000-"]


@pytest.mark.parametrize(("status", "message"), [(404, "nothing at"), (403, "may not be read"), (401, "may not be")])
def test_what_is_not_there_or_forbidden_is_not_asked_for_again(server, fault, status, message):
    server.fail(SHARD, fault("status", status))
    with pytest.raises(DataError, match=message):
        first(server)
    assert server.asked(SHARD) == [None]


@pytest.mark.parametrize("change", [b"", b"more" * 1000])
def test_a_shard_of_another_size_than_its_manifest_says_is_refused(server, folder, size, change, cached):
    whole = (folder / SHARD).read_bytes()
    data = whole + change if change else whole[:-1024]
    (folder / SHARD).write_bytes(data)
    with pytest.raises(DataError, match=rf"has {len(data)} bytes there; expected were {size}.*xmodal data index"):
        first(server)
    assert cached() == []


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_shard_of_the_same_size_and_other_contents_is_refused(server, folder, fault, interrupted, cached, cache):
    changed = bytearray((folder / SHARD).read_bytes())
    changed[-600] ^= 1
    (folder / SHARD).write_bytes(changed)
    if interrupted:
        server.fail(SHARD, fault("drop", 50_000))
    with pytest.raises(DataError, match=r"not what its manifest\.json says: SHA-256 [0-9a-f]{64}, expected"):
        first(server)
    assert cached() == []
    assert not list(cache.rglob("*.part"))


def test_a_part_of_other_contents_costs_one_more_fetch_and_nothing_else(server, fault, expected, cache):
    server.fail(SHARD, fault("drop", 50_000), *(fault("status", 503) for _ in range(3)))
    with pytest.raises(DataError):
        first(server)
    (part,) = cache.rglob("*.part")
    part.write_bytes(bytes(50_000))
    assert first(server) == expected


def test_what_was_left_of_a_shard_without_a_checksum_is_not_carried_on(server, folder, fault, expected):
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["shards"]:
        del entry["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    server.fail(SHARD, fault("drop", 50_000), *(fault("status", 503) for _ in range(3)))
    with pytest.raises(DataError):
        first(server)
    server.requests.clear()
    assert first(server) == expected
    assert server.asked(SHARD) == [None]


@pytest.mark.parametrize("text", [None, "", "{}", "of another shard"])
def test_an_index_that_is_missing_or_wrong_is_built(server, folder, expected, text):
    index = folder / "train-000.index.json"
    if text == "of another shard":
        text = (folder / "train-001.index.json").read_text()
    index.unlink() if text is None else index.write_text(text)
    assert first(server) == expected


def test_a_broken_remote_tar_is_named_with_its_address(server, folder, size):
    (folder / SHARD).write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"][0]["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "train-000.index.json").unlink()
    with pytest.raises(DataError, match=rf"is broken at byte 0.*fetched from {server.address}/{SHARD}"):
        first(server)


def test_headers_of_fsspecs_configuration_are_sent_and_not_to_whoever_is_pointed_to(server, monkeypatch, expected):
    from fsspec.config import conf

    sent, real = [], urllib.request.urlopen

    def urlopen(request, timeout):
        sent.append((request.unredirected_hdrs, request.headers))
        return real(request, timeout=timeout)

    monkeypatch.setitem(conf, "http", {"client_kwargs": {"headers": {"Authorization": "Bearer me"}}})
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert first(server) == expected
    assert all(own["Authorization"] == "Bearer me" and "Authorization" not in kept for own, kept in sent)
