from __future__ import annotations

import pytest

from xmodal.data.uri import expand, expand_braces, expand_local, is_address
from xmodal.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("b-000002.tar", "b-000000.tar", "b-000010.tar", "a.tar", "a.index.json", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "c.tar").touch()
    return tmp_path


def names(paths):
    return [path.rsplit("/", 1)[1] for path in paths]


def test_a_path_a_folder_a_glob_and_braces_name_what_they_say(folder):
    assert expand(folder / "a.tar") == [str(folder / "a.tar")]
    assert names(expand(folder)) == ["a.tar", "b-000000.tar", "b-000002.tar", "b-000010.tar"]
    assert names(expand(f"{folder}/b-*.tar")) == ["b-000000.tar", "b-000002.tar", "b-000010.tar"]
    assert names(expand(f"{folder}/{{b-000010,a}}.tar")) == ["b-000010.tar", "a.tar"]  # in the order given
    assert names(expand(f"{folder}/**/c.tar")) == ["c.tar"]
    assert names(expand([f"{folder}/b-{{000000..000000}}.tar", f"file://{folder}/a.tar"])) == ["b-000000.tar", "a.tar"]


def test_braces_keep_leading_zeros_and_multiply():
    assert list(expand_braces("{8..11}")) == ["8", "9", "10", "11"]
    assert list(expand_braces("x{098..101}.tar")) == ["x098.tar", "x099.tar", "x100.tar", "x101.tar"]
    assert list(expand_braces("{a,b}{0..1}")) == ["a0", "a1", "b0", "b1"]


def test_every_shard_of_a_brace_pattern_must_exist(folder):
    with pytest.raises(DataError, match=r"b-000001\.tar") as error:
        expand(f"{folder}/b-{{000000..000002}}.tar")
    assert str(folder) in str(error.value)


def test_a_name_that_finds_nothing_says_where_and_what_is_near(folder):
    with pytest.raises(DataError, match=r"which has .*b-0000\d\d\.tar") as error:
        expand(f"{folder}/b_*.tar")
    assert f"Looked in {folder}" in str(error.value)
    with pytest.raises(DataError, match=rf"no folder {folder}/nowhere"):
        expand(f"{folder}/nowhere/x-*.tar")
    with pytest.raises(DataError, match=r"holds no \.tar"):
        expand(folder / "deep")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], "empty list"),
        ("s3://bucket/x{5..1}.tar", "upwards"),
        ("zip://x.tar::s3://bucket/y.zip", "chains"),
        ("x{1}.tar", "neither a range"),
        ("x{5..1}.tar", "upwards"),
        ("x{0..99999999}.tar", "at most"),
        ("package://emojy/train-*.tar", "Nearest: emoji"),
        ("package://emoji/../../uri.py", "leaves the package"),
        ("package://emoji/tran-*.tar", "train-000000"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused_with_the_reason(shards, message):
    with pytest.raises(DataError, match=message):
        expand(shards)


def test_a_shard_named_twice_and_a_file_that_is_no_tar_are_refused(folder):
    with pytest.raises(DataError, match=r"named twice.*a\.tar"):
        expand([f"{folder}/a.tar", f"{folder}/*.tar"])
    with pytest.raises(DataError, match=r"notes\.txt.*End the pattern"):
        expand(f"{folder}/n*")


def test_sample_shards_come_with_the_package():
    assert names(expand("package://emoji/train-*.tar"))[0] == "train-000000.tar"
    assert set(names(expand("package://emoji/train-*.tar"))) < set(names(expand("package://emoji")))


def test_an_existing_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path):
    (tmp_path / "a[1].tar").touch()
    assert names(expand(str(tmp_path / "a[1].tar"))) == ["a[1].tar"]


def test_a_remote_shard_named_in_full_is_taken_as_it_is_and_nobody_is_asked():
    addresses = [f"s3://no-such-bucket/x-{number}.tar" for number in range(3)]
    assert expand("s3://no-such-bucket/x-{0..2}.tar") == addresses
    assert expand("https://nowhere.invalid/a%20b.tar?key=1") == ["https://nowhere.invalid/a%20b.tar?key=1"]
    with pytest.raises(DataError, match="named twice"):
        expand([*addresses, addresses[0]])


def test_addresses_are_told_from_files(folder):
    assert [is_address(shards) for shards in ("s3://b/x.tar", "memory://x", f"file://{folder}", "package://emoji")] == [
        True,
        True,
        False,
        False,
    ]
    assert expand_local(folder) == expand(folder)
    with pytest.raises(DataError, match=r"s3://b/x\.tar is remote, and this works on files"):
        expand_local([folder, "s3://b/x.tar"])
