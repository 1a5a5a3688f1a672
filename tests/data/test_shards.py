from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys

import pytest

from xmodal.data import index_shards, open_shards, read_manifest
from xmodal.data.index import index_path
from xmodal.data.shards import ShardSet
from xmodal.errors import DataError


@pytest.fixture
def folder(tmp_path, write_tar):
    """Three shards of 3, 1 and 5 samples."""
    for shard, count in enumerate((3, 1, 5)):
        write_tar(
            tmp_path / f"s-{shard}.tar",
            [(f"s{shard}k{i}.{e}", f"{e} {shard} {i}".encode()) for i in range(count) for e in ("json", "txt")],
        )
    return tmp_path


def everything(shards: ShardSet):
    return [(raw.key, raw.shard, raw.members) for raw in map(shards.read, range(shards.num_samples))]


def test_samples_are_numbered_shard_after_shard(folder):
    shards = open_shards(folder)
    assert (shards.num_samples, shards.counts, shards.names) == (9, (3, 1, 5), ("s-0.tar", "s-1.tar", "s-2.tar"))
    expected = [(shard, row) for shard, count in enumerate((3, 1, 5)) for row in range(count)]
    assert [shards.locate(sample) for sample in range(9)] == expected
    for sample, (shard, row) in enumerate(expected):
        raw = shards.read(sample)
        assert raw.key == shards.key(sample) == f"s{shard}k{row}"
        assert raw.shard == f"s-{shard}.tar"
        assert raw.members == {e: f"{e} {shard} {row}".encode() for e in ("json", "txt")}
    for outside in (-1, 9):
        with pytest.raises(IndexError, match="of 9"):
            shards.locate(outside)


def test_without_manifest_the_index_is_built_once_and_then_used(folder):
    first = everything(open_shards(folder))
    stamp = index_path(folder / "s-0.tar").stat().st_mtime_ns
    assert everything(open_shards(folder)) == first
    assert index_path(folder / "s-0.tar").stat().st_mtime_ns == stamp


def test_with_a_manifest_opening_reads_no_index(folder):
    index_shards(folder)
    for path in folder.glob("*.index.json"):
        path.write_text("never read")
    assert open_shards(folder).counts == (3, 1, 5)


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(folder, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("xmodal.data.shards.write_index", refuse)
    assert len(everything(open_shards(folder))) == 9
    assert "Read-only file system" in caplog.text
    assert not list(folder.glob("*.json"))


def test_the_fingerprint_tells_other_data_and_no_other_folder(folder, tmp_path_factory, write_tar):
    opened = open_shards(folder)
    moved = tmp_path_factory.mktemp("moved")
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert open_shards(moved).fingerprint == opened.fingerprint
    others = [
        open_shards(f"{folder}/s-{{0..1}}.tar"),
        open_shards([f"{folder}/s-1.tar", f"{folder}/s-0.tar", f"{folder}/s-2.tar"]),
        ShardSet(opened.paths, opened.counts, [size + 512 for size in opened.sizes]),
        ShardSet(opened.paths, [3, 2, 4], opened.sizes),
    ]
    assert len({opened.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_shards_of_one_name_in_two_folders_are_told_apart(folder, tmp_path_factory, write_tar):
    other = tmp_path_factory.mktemp("other")
    write_tar(other / "s-0.tar", [("a.txt", b"a")])
    shards = open_shards([f"{folder}/s-0.tar", f"{other}/s-0.tar"])
    assert shards.names == (f"{folder.name}/s-0.tar", f"{other.name}/s-0.tar")


def test_a_set_survives_pickle_and_fork_and_holds_no_open_file_in_the_pickle(folder):
    shards = open_shards(folder)
    before = everything(shards)
    copy = pickle.loads(pickle.dumps(shards))
    assert (everything(copy), copy.fingerprint) == (before, shards.fingerprint)
    assert len(pickle.dumps(shards)) < 2000
    reader, writer = os.pipe()
    inherited = {reader.index.shard: reader for reader in shards._readers.values()}
    child = os.fork()
    if child == 0:
        try:
            same = everything(shards) == before
            own = all(reader is not inherited[reader.index.shard] for reader in shards._readers.values())
            os.write(writer, f"{same} {own}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 20) == b"True True"
    assert everything(shards) == before


def test_only_so_many_shards_stay_open(folder, monkeypatch):
    monkeypatch.setattr("xmodal.data.shards._MAX_OPEN", 2)
    shards = open_shards(folder)
    assert len(everything(shards)) == 9
    assert len(shards._readers) == 2


def test_a_shard_cut_short_or_grown_since_it_was_packed_is_refused_at_once(folder):
    index_shards(folder)
    path = folder / "s-2.tar"
    whole = path.read_bytes()
    for changed in (whole[:-1024], whole + bytes(512), b""):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=rf"s-2\.tar has {len(changed)} bytes; manifest.json says {len(whole)}"):
            open_shards(folder)


def test_a_shard_rewritten_at_the_same_size_is_noticed_when_it_is_read(folder, write_tar):
    shards = open_shards(folder)
    shards.read(4)
    size = (folder / "s-2.tar").stat().st_size
    swapped = [(f"s2k{i}.{e}", f"{e} 2 {i}".encode()) for i in (1, 0, 2, 3, 4) for e in ("json", "txt")]
    write_tar(folder / "s-2.tar", swapped)
    assert (folder / "s-2.tar").stat().st_size == size
    with pytest.raises(DataError, match=r"changed after it was indexed: sample 's2k0'.*'s2k1.json' stands there"):
        open_shards(folder).read(4)
    index_shards(folder)  # what the message says mends it
    assert open_shards(folder).read(4).key == "s2k1"


@pytest.mark.parametrize(
    ("change", "first_read", "message"),
    [
        (lambda path: os.truncate(path, 1500), 4, r"s-2\.tar changed after it was indexed.*ends inside"),
        (lambda path: os.truncate(path, 1500), 0, r"1500 bytes\) changed after it was indexed"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), 4, "no tar header"),
        (lambda path: path.unlink(), 0, "No such file"),
    ],
)
def test_a_shard_that_goes_bad_while_it_is_used_is_a_clear_error(folder, change, first_read, message):
    shards = open_shards(folder)
    shards.read(first_read)  # sample 4 lies in the shard that changes, sample 0 does not
    change(folder / "s-2.tar")
    with pytest.raises(DataError, match=message):
        everything(shards)


def test_an_index_and_a_manifest_that_disagree_are_refused(folder):
    index_shards(folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"samples": 5', '"samples": 6'))
    with pytest.raises(DataError, match=r"holds 5 samples .* expected were 6"):
        everything(open_shards(folder))


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"shards": [{"name": "../s-0.tar", "samples": 1, "size": 1}]}', '{"shards": [{"name": "s-0.tar"}]}'],
)
def test_a_broken_manifest_is_named(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"Manifest .*manifest\.json is broken .*Remove it"):
        open_shards(folder)


def test_indexing_some_shards_keeps_the_lines_of_the_others(folder):
    index_shards(folder)
    before = read_manifest(folder)
    (folder / "s-1.tar").write_bytes((folder / "s-2.tar").read_bytes())
    index_shards(folder / "s-1.tar")
    after = read_manifest(folder)
    assert [entry.samples for entry in after.shards] == [3, 5, 5]
    assert [after.entry(name) for name in ("s-0.tar", "s-2.tar")] == [before.entry(n) for n in ("s-0.tar", "s-2.tar")]


def test_opening_shards_imports_neither_torch_nor_webdataset_nor_what_remote_ones_need():
    unwanted = ("torch", "webdataset", "transformers", "fsspec", "xmodal.data.remote", "xmodal.transfer", "filelock")
    code = (
        "import sys; from xmodal.data import open_shards, expand; from xmodal.data.decode import decode\n"
        "decode(open_shards('package://emoji/names-*.tar').read(0), fields=('image', 'text'))\n"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
