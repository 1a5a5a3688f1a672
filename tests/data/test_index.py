from __future__ import annotations

import contextlib
import gzip
import json
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmodal.data.index import build_index, index_path, read_index, write_index
from xmodal.data.reader import ShardReader
from xmodal.errors import DataError

CHARACTERS = st.characters(codec="utf-8", exclude_characters="./_", exclude_categories=["Cc", "Cs"])
NAMES = st.text(CHARACTERS, min_size=1, max_size=9)
FIXTURE_OK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def shard(tmp_path, write_tar):
    members = [(f"k{i}.{e}", bytes([i]) * size) for i in range(4) for e, size in (("bin", 700 * i), ("txt", 5))]
    return write_tar(tmp_path / "shard.tar", members)


@FIXTURE_OK
@given(
    content=st.dictionaries(NAMES | NAMES.map(lambda name: f"v.1/{name * 40}"), st.integers(0, 1600), min_size=1),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_every_member_is_read_as_tarfile_reads_it(tmp_path, write_tar, content, form):
    path = write_tar(tmp_path / "any.tar", [(f"{key}.bin", bytes(size)) for key, size in content.items()], form)
    with tarfile.open(path) as tar:
        expected = {member.name: tar.extractfile(member).read() for member in tar}
    index = build_index(path)
    reader = ShardReader(path, index, "any.tar")
    read = {f"{raw.key}.{e}": data for raw in map(reader.read, range(len(index))) for e, data in raw.members.items()}
    assert read == expected
    write_index(index, path)
    assert read_index(path) == index


@FIXTURE_OK
@given(data=st.data())
def test_whatever_the_bytes_the_answer_is_an_index_or_a_data_error(tmp_path, shard, data):
    damaged = bytearray(shard.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.tar"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
        reader = ShardReader(path, build_index(path), "damaged.tar")
        for row in range(len(reader.index)):
            reader.read(row)


def test_a_shard_cut_anywhere_is_refused_with_the_byte_and_the_last_good_sample(tmp_path, shard):
    whole = shard.read_bytes()
    content_end = whole.rstrip(b"\0").__len__()
    last_member_end = -(-content_end // 512) * 512
    good = build_index(shard)
    cut = tmp_path / "cut.tar"
    for length in range(0, len(whole), 128):
        cut.write_bytes(whole[:length])
        if length >= last_member_end + 512:  # only padding after the end-of-archive mark is gone
            assert build_index(cut).keys == good.keys
            continue
        with pytest.raises(DataError, match=r"byte \d+|0 bytes") as error:
            build_index(cut)
        if length > 3000:
            assert "last good sample 'k" in str(error.value)


def test_a_damaged_header_never_passes_for_the_end_of_the_shard(tmp_path, shard):
    whole = bytearray(shard.read_bytes())
    good = build_index(shard)
    offset = good.members(2)["bin"][0] - 512  # the third sample's first header
    bad = tmp_path / "bad.tar"
    for byte in (0, 50, 124, 130, 150, 156):
        damaged = bytearray(whole)
        damaged[offset + byte] ^= 0x15
        bad.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"broken at byte {offset}: .*last good sample 'k0'"):
            build_index(bad)


def special(kind, name="x.png"):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "holds no sample"),
        ([("README", b"x")], "holds no sample"),
        ([("a.txt", b"x"), special(tarfile.SYMTYPE)], "is a link"),
        ([("a.txt", b"x"), special(tarfile.LNKTYPE)], "is a link"),
        ([special(tarfile.FIFOTYPE)], "neither a file"),
        ([special(tarfile.CHRTYPE)], "neither a file"),
        ([("../a.txt", b"x")], "leaves its folder"),
        ([("b/../../a.txt", b"x")], "leaves its folder"),
        ([("/etc/a.txt", b"x")], "leaves its folder"),
        ([("a\nb.txt", b"x")], "control characters"),
        ([("a.txt", b"x"), ("b.txt", b"x"), ("a.png", b"x")], "'a' occurs twice"),
        ([("a.txt", b"x"), ("a.TXT", b"y")], "two members .txt"),
    ],
)
def test_what_has_no_place_in_a_shard_is_refused(tmp_path, write_tar, members, message):
    path = write_tar(tmp_path / "bad.tar", members)
    with pytest.raises(DataError, match=message) as error:
        build_index(path)
    assert str(path) in str(error.value)


def test_names_follow_webdatasets_rule(tmp_path, write_tar):
    folder = special(tarfile.DIRTYPE, "birds.v2")
    members = [
        folder,
        ("./birds.v2/owl.PNG", b"1"),
        ("./birds.v2/owl.seg.png", b"2"),
        ("LICENSE", b""),
        (".x.png", b"3"),
    ]
    index = build_index(write_tar(tmp_path / "s.tar", members))
    assert index.keys == ["birds.v2/owl"]
    assert list(index.members(0)) == ["png", "seg.png"]
    assert index.ignored == ["LICENSE", ".x.png"]


def test_gzip_two_tars_in_one_and_no_file_are_named_as_such(tmp_path, shard):
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(shard.read_bytes()))
    (tmp_path / "twice.tar").write_bytes(shard.read_bytes() * 2)
    (tmp_path / "text.tar").write_text("not a tar " * 1000)
    for name, message in (
        ("zipped", "gunzip"),
        ("twice", "several tar files"),
        ("text", "broken at byte 0"),
        ("none", "No such file"),
    ):
        with pytest.raises(DataError, match=message):
            build_index(tmp_path / f"{name}.tar")


def test_an_index_is_read_as_it_was_written(shard):
    built = build_index(shard)
    path = write_index(built, shard)
    assert path == index_path(shard) == shard.with_name("shard.index.json")
    assert read_index(shard) == built
    assert json.loads(path.read_text())["samples"][1][0] == "k1"
    assert not list(shard.parent.glob(".*"))


def test_an_index_of_another_shard_or_no_index_at_all_is_refused(tmp_path, shard):
    path = write_index(build_index(shard), shard)
    good = path.read_text()
    shard.write_bytes(shard.read_bytes() + bytes(512))
    with pytest.raises(DataError, match=r"changed after it was indexed.*xmodal data index"):
        read_index(shard)
    for text in ("", "[1, 2]", good[:50], "[" * 100_000, good.replace("xmodal-index", "other"), "{}"):
        path.write_text(text)
        with pytest.raises(DataError, match="xmodal data index"):
            read_index(shard)
    path.write_text(good.replace("[512,0]", "[512,999999999]"))
    with pytest.raises(DataError, match="outside the shard"):
        read_index(shard)
