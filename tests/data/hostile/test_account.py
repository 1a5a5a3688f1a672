"""The file that names bad samples, after a kill and on a full disk."""

from __future__ import annotations

import json

import pytest

from xmodal.data.bad_samples import BadSamples
from xmodal.data.batches import BadSample
from xmodal.data.index import build_index, index_path, read_index, write_index
from xmodal.errors import DataError

BAD = [BadSample(f"k{number}", "part-0.tar", "is broken: café", number) for number in range(4)]


def account(path):
    return BadSamples(path, max_fraction=1, enough=1)


def named(path):
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line)["key"])
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("cut", range(1, 90, 4))
def test_a_line_that_was_torn_is_written_again_and_none_is_named_twice(tmp_path, cut):
    path = tmp_path / "bad_samples.jsonl"
    account(path).add(3, BAD[:3])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    account(path).add(4, BAD)
    assert sorted(named(path)) == ["k0", "k1", "k2", "k3"]
    assert path.read_bytes().endswith(b"\n")


def test_lines_that_are_not_its_own_are_left_alone(tmp_path):
    path = tmp_path / "bad_samples.jsonl"
    path.write_bytes(b'[1]\n{"key": "k0"}\nnull\n\xff\n\n')
    account(path).add(1, BAD[:1])
    assert len(path.read_bytes().splitlines()) == 6


def test_a_disk_that_takes_no_line_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "bad_samples.jsonl"
    path.mkdir()
    book = BadSamples(None, max_fraction=1, enough=1)
    book.path = path
    with pytest.raises(DataError, match=r"bad_samples\.jsonl cannot be written"):
        book.add(1, BAD[:1])


@pytest.mark.parametrize("key", ["../../x", "/etc/x", "x/../../y"])
def test_an_index_with_a_name_that_leaves_its_folder_is_refused(shards, key):
    index = build_index(shards.path())
    index.keys[3] = key
    write_index(index, shards.path())
    assert index_path(shards.path()).is_file()
    with pytest.raises(DataError, match="leaves its folder"):
        read_index(shards.path())


def test_two_dots_within_a_name_leave_nothing(shards):
    index = build_index(shards.path())
    index.keys[3] = "a..b"
    write_index(index, shards.path())
    assert read_index(shards.path()).keys[3] == "a..b"
