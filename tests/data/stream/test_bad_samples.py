from __future__ import annotations

import json

import pytest

from xmodal.data.shards import open_shards
from xmodal.errors import DataError


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_sample_is_replaced_by_the_next_of_its_slot_and_named_once(
    broken_shards, tmp_path, num_workers, make, take, broken
):
    path = tmp_path / "run" / "bad_samples.jsonl"
    stream = make(broken_shards, num_workers=num_workers, max_bad_fraction=0.2, bad_samples=path)
    keys = [key for batch in take(stream, 15) for key in batch[0]]  # two epochs
    open_set = open_shards(broken_shards)
    planned = [open_set.key(stream.plans[0].sample(position)[0]) for position in range(15 * 8 + 100)]
    for position, key in enumerate(keys):
        while planned[position] in broken:
            position += stream.plans[0].slots
        assert key == planned[position]
    assert set(keys) == {f"{number:03d}" for number in range(60)} - broken
    assert stream.num_bad == 6
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["key"]: line["position"] for line in lines} == {key: planned.index(key) for key in broken}
    assert {line["shard"] for line in lines} == {"part-0.tar", "part-1.tar"}
    assert all("not one of PNG" in line["reason"] for line in lines)

    again = make(broken_shards, max_bad_fraction=0.2, bad_samples=path)  # resumed from an older checkpoint
    again.load_state({**stream.state(), "position": 0})
    assert [key for batch in take(again, 15) for key in batch[0]] == keys
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_broken_neighbours_are_counted_once_each_at_their_own_positions(tmp_path, make, take, write):
    shards = write(tmp_path / "half", [16], set(range(0, 16, 2)))
    path = tmp_path / "bad_samples.jsonl"
    stream = make(shards, batch_size=4, slots=1, max_bad_fraction=1, bad_samples=path)
    take(stream, 4)  # an epoch
    assert stream.num_bad == 8
    planned = [open_shards(shards).key(stream.plans[0].sample(position)[0]) for position in range(16)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [planned[line["position"]] for line in lines] == [line["key"] for line in lines]
    assert len(lines) == 8


def test_too_many_broken_samples_stop_the_run_with_the_last_one_named(broken_shards, tmp_path, make, take):
    path = tmp_path / "bad_samples.jsonl"
    stream = make(broken_shards, max_bad_fraction=0.01, bad_samples=path)
    with pytest.raises(DataError, match=r"of 6\d samples cannot be decoded.*max_bad_fraction=0\.01") as caught:
        take(stream, 30)
    assert str(path) in str(caught.value)
    assert "xmodal data check" in str(caught.value)
    assert stream.state()["position"] >= 56  # an epoch was read before it was judged
    assert len(path.read_text().splitlines()) == 3


def test_a_slot_without_a_good_sample_is_an_error_and_no_endless_search(tmp_path, make, take, write):
    shards = write(tmp_path / "all", [8], set(range(8)))
    with pytest.raises(DataError, match=r"Slot 0 has no sample that can be decoded \(1 tried\).*data check"):
        take(make(shards, max_bad_fraction=1), 1)


def test_a_shard_that_changes_under_a_run_is_a_plain_error_from_a_worker_too(tmp_path, make, take, write):
    shards = write(tmp_path / "cut", [20, 20])
    for num_workers in (0, 1):
        stream = make(open_shards(shards), num_workers=num_workers)
        part = tmp_path / "cut" / "part-1.tar"
        whole = part.read_bytes()
        part.write_bytes(whole[:3000])
        with pytest.raises(DataError, match=r"part-1\.tar") as caught:
            take(stream, 10)
        assert "Traceback" not in str(caught.value)
        part.write_bytes(whole)


def test_a_bug_in_a_preprocess_is_not_taken_for_a_broken_sample(shards, make, take, pixels):
    class Buggy(pixels):
        def __call__(self, sample):
            return sample["nonsense"]

    for num_workers in (0, 1):
        with pytest.raises(KeyError, match="nonsense"):
            take(make(shards, preprocess={"student": Buggy()}, num_workers=num_workers), 1)
