"""What ends up on disk, whatever the server does."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import time
from pathlib import Path

import fsspec
import pytest

from xmodal.errors import ZooError
from xmodal.zoo import Entry, Patience, download, list_entries, show

QUICK = Patience(attempts=4, timeout=0.4, pause=0.001)
MODEL = "model.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def get(server, **options):
    return download("emoji", index=server.address, patience=QUICK, **options)


def test_a_download_holds_the_published_files_and_nothing_else(server, zoo):
    assert contents(get(server)) == zoo.files
    assert sorted(path for path, _ in server.requests) == sorted(
        ["/index.json", *(f"/students/emoji/{path}" for path in zoo.files)]
    )


@pytest.mark.parametrize("kind", ["drop", "stall"])
def test_a_broken_transfer_goes_on_from_the_byte_where_it_broke(server, zoo, fault, kind):
    server.fail(MODEL, fault(kind, 100_000), fault(kind, 50_000))
    assert contents(get(server)) == zoo.files
    assert server.asked(MODEL) == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_that_a_cache_cut_short_is_completed(server, zoo, fault):
    server.fail(MODEL, fault("shorten", 70_000))
    assert contents(get(server)) == zoo.files
    assert server.asked(MODEL) == [None, "bytes=70000-"]


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(server, zoo, fault):
    server.ranges = False
    server.fail(MODEL, fault("drop", 100_000))
    assert contents(get(server)) == zoo.files
    assert server.asked(MODEL) == [None, "bytes=100000-"]


def test_a_part_that_is_not_the_one_asked_for_is_not_appended(server, zoo, fault):
    server.fail(MODEL, fault("drop", 100_000), fault("shift", 7))
    assert contents(get(server)) == zoo.files


def test_progress_resets_the_count_of_failures(server, zoo, fault):
    server.fail(MODEL, *(fault("drop", 40_000) for _ in range(3 * QUICK.attempts)))
    assert contents(get(server)) == zoo.files


def test_a_busy_server_is_asked_again_when_it_says(server, zoo, fault):
    server.fail("index.json", fault("status", 503))
    server.fail(MODEL, fault("status", 503, Retry_After="1"), fault("status", 429), fault("status", 500))
    started = time.monotonic()
    assert contents(get(server)) == zoo.files
    assert time.monotonic() - started >= 1


def test_a_server_that_stays_down_leaves_a_part_and_the_next_download_carries_it_on(server, zoo, fault, cache):
    server.fail(MODEL, fault("drop", 123_456), *(fault("status", 503) for _ in range(QUICK.attempts)))
    with pytest.raises(
        ZooError, match=r"503.*4 times in a row.*123\.5 kB of 512\.\d kB are kept in .*goes on from there"
    ):
        get(server)
    assert not list(cache.rglob(MODEL))
    server.faults.clear()
    server.requests.clear()
    assert contents(get(server)) == zoo.files
    assert server.asked(MODEL) == ["bytes=123456-"]


def test_a_wrong_length_in_the_header_does_not_matter_when_the_file_is_right(server, zoo, fault):
    server.fail(MODEL, fault("claim", 10_000_000))
    assert contents(get(server)) == zoo.files
    assert len(server.asked(MODEL)) == 1


def test_a_file_shorter_than_the_index_says_is_never_used(server, zoo, cache):
    zoo.write_file(MODEL, zoo.files[MODEL][:-5])
    with pytest.raises(ZooError, match=rf"no more than {len(zoo.files[MODEL]) - 5} bytes|ended after"):
        get(server)
    assert not list(cache.rglob(MODEL))


def test_a_file_longer_than_the_index_says_is_refused(server, zoo, cache):
    zoo.write_file(MODEL, bytes(len(zoo.files[MODEL]) + 50_000_000))
    with pytest.raises(
        ZooError, match=r"not the file that the index lists; it was removed. It has 50512\d+ bytes there"
    ):
        get(server)
    assert not [path for path in cache.rglob("*") if MODEL in path.name]


@pytest.mark.parametrize("where", ["http", "local"])
def test_a_file_with_another_hash_is_refused_and_removed(server, zoo, cache, where):
    changed = bytearray(zoo.files[MODEL])
    changed[-1] ^= 1
    zoo.write_file(MODEL, bytes(changed))
    with pytest.raises(ZooError, match="SHA-256 expected"):
        download("emoji", index=server.address if where == "http" else zoo.folder, patience=QUICK)
    assert not [path for path in cache.rglob("*") if MODEL in path.name]


def test_a_damaged_part_is_thrown_away_and_the_file_fetched_whole(server, zoo, fault, cache):
    server.fail(MODEL, fault("drop", 100_000), *(fault("status", 503) for _ in range(QUICK.attempts)))
    with pytest.raises(ZooError):
        get(server)
    (part,) = cache.rglob("*.part")
    part.write_bytes(bytes(100_000))
    server.faults.clear()
    assert contents(get(server)) == zoo.files
    part.write_bytes(bytes(10_000_000))  # longer than the file
    (part.parent / MODEL).unlink()
    assert contents(get(server)) == zoo.files


def test_what_is_not_there_is_asked_for_once(server, zoo):
    (zoo.folder / "students/emoji" / MODEL).unlink()
    with pytest.raises(ZooError, match=rf"There is nothing at {server.address}/students/emoji/{MODEL} \(404"):
        get(server)
    assert len(server.asked(MODEL)) == 1
    with pytest.raises(ZooError, match=r"There is nothing at .*/elsewhere/index.json"):
        list_entries(f"{server.address}/elsewhere", patience=QUICK)


def test_nobody_listening_is_said_so():
    with pytest.raises(ZooError, match=r"127\.0\.0\.1:9/index\.json could not be read: .*refused.*4 times in a row"):
        list_entries("http://127.0.0.1:9", patience=QUICK)


def test_complete_files_are_not_fetched_again_and_damaged_ones_are(server, zoo):
    folder = get(server)
    server.requests.clear()
    assert get(server) == folder
    assert server.asked("index.json") == [None] == [given for _, given in server.requests]
    (folder / "config.json").write_text("{}")
    assert contents(get(server)) == zoo.files
    assert [path for path, _ in server.requests if "students" in path] == ["/students/emoji/config.json"]


def test_a_new_version_under_the_same_name_does_not_touch_the_old_one(server, zoo):
    old = get(server)
    entry = json.loads((zoo.folder / "index.json").read_text())["entries"][0]
    assert Entry(**entry).digest == Entry(**{**entry, "description": "other words"}).digest
    data = b'{"architecture": "newer!"}'
    zoo.write_file("config.json", data)
    entry["size"] += len(data) - entry["files"]["config.json"]["size"]
    entry["files"]["config.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    zoo.write_index(entry)
    new = get(server)
    assert new != old
    assert (new / "config.json").read_bytes() == data
    assert contents(old) == zoo.files


def test_a_type_that_can_carry_code_is_refused_before_anything_is_fetched(make_zoo, serve):
    files = {"config.json": b"{}", "pytorch_model.bin": pickle.dumps({}), "run.py": b"print()"}
    server = serve(make_zoo(files).folder)
    with pytest.raises(ZooError, match=r"lists pytorch_model.bin, run.py\. A zoo holds \.safetensors, .*pickles"):
        get(server)
    assert [path for path, _ in server.requests] == ["/index.json"]
    assert [entry.name for entry in list_entries(server.address)] == ["emoji"]  # others may still be had


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (MODEL, pickle.dumps({"w": 1})),
        (MODEL, b"PK\x03\x04" + bytes(100)),
        (MODEL, b""),
        ("config.json", pickle.dumps({"w": 1}, protocol=0)),
        ("README.md", pickle.dumps({"w": 1}, protocol=4)),
        ("picture.png", b"#!/bin/sh"),
    ],
)
def test_a_pickle_under_another_name_is_refused_and_removed(make_zoo, cache, path, data):
    zoo = make_zoo({path: data})
    with pytest.raises(ZooError, match="refused and was removed: its name says"):
        download("emoji", index=zoo.folder)
    assert not [found for found in cache.rglob("*") if path in found.name]


def test_empty_files_are_files(make_zoo, serve):
    server = serve(make_zoo({"LICENSE": b"", "notes.txt": b""}).folder)
    assert contents(get(server)) == {"LICENSE": b"", "notes.txt": b""}


def test_a_folder_of_ones_own_may_be_named_but_nothing_of_it_is_overwritten(server, zoo, tmp_path):
    folder = tmp_path / "mine"
    assert get(server, to=folder) == folder
    assert contents(folder) == zoo.files
    assert get(server, to=folder) == folder  # it is the student already
    (folder / "config.json").write_text("my own")
    with pytest.raises(ZooError, match=r"mine holds files that are not 'emoji' as the index has it: config\.json\."):
        get(server, to=folder)
    assert (folder / "config.json").read_text() == "my own"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("my own")
    with pytest.raises(ZooError, match=r"thesis\.txt"):
        get(server, to=other)
    with pytest.raises(ZooError, match="is a file"):
        get(server, to=other / "thesis.txt")
    assert contents(other) == {"thesis.txt": b"my own"}


@pytest.mark.parametrize("given", ["path", "string", "file", "index file", "memory", "query"])
def test_an_index_can_lie_anywhere(zoo, server, given):
    if given == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(str(zoo.folder) + "/", "/a zoo/", recursive=True)
    index = {
        "path": zoo.folder,
        "string": f"{zoo.folder}/",
        "file": f"file://{zoo.folder}",
        "index file": zoo.folder / "index.json",
        "memory": "memory://a zoo",
        "query": f"{server.address}/index.json?version=3",
    }[given]
    assert contents(download("emoji", index=index)) == zoo.files
    if given == "memory":
        memory.rm("/a zoo", recursive=True)


def test_files_can_lie_elsewhere_than_their_index(make_zoo, serve, tmp_path):
    zoo = make_zoo()
    server = serve(zoo.folder)
    entry = json.loads((zoo.folder / "index.json").read_text())["entries"][0]
    (tmp_path / "index.json").write_text(
        json.dumps({"format": 1, "entries": [{**entry, "base": f"{server.address}/students/emoji/"}]})
    )
    assert contents(download("emoji", index=tmp_path)) == zoo.files


def test_a_location_that_cannot_be_one_is_refused(tmp_path):
    for index, message in (
        ("", "empty"),
        ("nowhere://zoo", "cannot be opened"),
        ("simplecache::http://host/zoo", "chains file systems"),
        (tmp_path / "missing", r"There is nothing at .*missing/index\.json"),
    ):
        with pytest.raises(ZooError, match=message):
            list_entries(index, patience=QUICK)


def test_a_missing_file_system_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ZooError, match="pip install s3fs"):
        list_entries("s3://bucket/zoo", patience=QUICK)


def test_an_unknown_name_is_answered_with_the_nearest(zoo):
    with pytest.raises(ZooError, match=r"'emojy' is not in the zoo at .*index\.json\. Nearest: emoji"):
        show("emojy", index=zoo.folder)


def test_an_endless_index_is_not_read(server, zoo, monkeypatch):
    monkeypatch.setattr("xmodal.zoo.reading.LARGEST_INDEX", 1000)
    (zoo.folder / "index.json").write_bytes(b" " * 5000)
    with pytest.raises(ZooError, match=r"larger than 1\.0 kB"):
        list_entries(server.address, patience=QUICK)


def test_an_index_cut_on_the_way_is_read_again(server, fault):
    server.fail("index.json", fault("drop", 10), fault("stall", 20))
    assert [entry.name for entry in list_entries(server.address, patience=QUICK)] == ["emoji"]
