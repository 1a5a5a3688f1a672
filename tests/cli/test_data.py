"""``xmodal data``, on shards packed here."""

from __future__ import annotations

import json

import pytest

from xmodal.cli.shards import as_splits
from xmodal.errors import DataError


def test_pack_says_what_it_wrote_and_overwrites_nothing(xmodal, pictures, tmp_path):
    out = tmp_path / "packed"
    outcome = xmodal("data", "pack", pictures, "--out", out, "--shard-size", "5")
    assert outcome.code == 0
    assert outcome.out.startswith(f"{out}   8 samples in 2 shards, ")
    assert outcome.out.endswith(": png, txt\n")
    again = xmodal("data", "pack", pictures, "--out", out)
    assert again.code == 2
    assert str(out) in again.err


def test_what_is_incomplete_is_refused_or_skipped(xmodal, pictures, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in pictures.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "p0.txt").unlink()
    refused = xmodal("data", "pack", source, "--out", tmp_path / "a")
    assert refused.code == 2
    assert "p0" in refused.err
    assert "--incomplete skip" in refused.err
    assert (
        xmodal("data", "pack", source, "--out", tmp_path / "b", "--incomplete", "skip")
        .out.split("   ")[1]
        .startswith("7 samples")
    )


def test_show_has_a_row_for_every_shard(xmodal, shards):
    lines = xmodal("data", "show", shards).out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["shard", "samples"],
        ["shard-000000.tar", "5"],
        ["shard-000001.tar", "3"],
    ]
    assert lines[3] == "8 samples in 2 shards"
    rows = json.loads(xmodal("data", "show", shards, "--format", "json").out)
    assert [(row["samples"], row["first_key"]) for row in rows] == [(5, "p0"), (3, "p5")]


def test_index_is_written_beside_each_shard_given(xmodal, shards):
    files = sorted(shards.glob("*.tar"))
    before = [(shards / f"{file.stem}.index.json").read_bytes() for file in files]
    for file in files:
        (shards / f"{file.stem}.index.json").unlink()
    outcome = xmodal("data", "index", *files)
    assert [line.split("   ")[1] for line in outcome.out.splitlines()] == ["5 samples", "3 samples"]
    assert [(shards / f"{file.stem}.index.json").read_bytes() for file in files] == before


def test_check_exits_with_1_where_something_is_broken(xmodal, shards, tmp_path):
    assert xmodal("data", "check", shards).code == 0
    broken = tmp_path / "broken.tar"
    whole = (shards / "shard-000000.tar").read_bytes()
    at = whole.index(b"\x89PNG")
    broken.write_bytes(whole[: at + 16] + b"\0" * 30 + whole[at + 46 :])
    outcome = xmodal("data", "check", broken)
    assert outcome.code == 1
    assert "broken.tar  p0" in outcome.out
    findings = json.loads(xmodal("data", "check", broken, "--format", "json").out)
    assert [(finding["shard"], finding["key"]) for finding in findings] == [("broken.tar", "p0")]


def test_keys_are_json_lists_that_together_are_the_epoch(xmodal, shards):
    def batches(*options):
        return [
            json.loads(line) for line in xmodal("data", "keys", shards, "--batch-size", "4", *options).out.splitlines()
        ]

    whole = batches()
    assert [len(batch) for batch in whole] == [4, 4]
    assert sorted(key for batch in whole for key in batch) == [f"p{number}" for number in range(8)]
    ranks = [batches("--world-size", "2", "--rank", str(rank)) for rank in (0, 1)]
    assert [sorted(one + other) for one, other in zip(*ranks, strict=True)] == [sorted(batch) for batch in whole]
    assert batches("--start", "1", "--batches", "1") == whole[1:]
    assert batches("--epoch", "1") != whole
    assert batches("--seed", "1") != whole


def test_several_patterns_are_one_set(xmodal, shards):
    both = xmodal("data", "keys", *sorted(shards.glob("*.tar")), "--batch-size", "8").out
    assert both == xmodal("data", "keys", f"{shards}/*.tar", "--batch-size", "8").out


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a"], "a"),
        (["a", "b"], ["a", "b"]),
        (["mine=a", "unseen names=package://b/*.tar"], {"mine": "a", "unseen names": "package://b/*.tar"}),
        (["mine=a", "mine=b"], {"mine": ["a", "b"]}),
        (["./date=2024/a.tar"], "./date=2024/a.tar"),
        (["s3://a/x=1/b.tar"], "s3://a/x=1/b.tar"),
    ],
)
def test_splits_have_the_names_that_stand_before_the_sign(patterns, expected):
    assert as_splits(patterns) == expected


def test_some_names_are_a_mistake():
    with pytest.raises(DataError, match="or to none"):
        as_splits(["a=b", "c"])
