"""`xmodal cache`: says what it will take, does it, does it only once, and finds what is broken."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

TEACHER = ("--teacher", "sentence", "--option", "model=sentence-transformers/all-MiniLM-L6-v2", "--device", "cpu")


@pytest.fixture
def packed(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "packed")


@pytest.fixture
def recipe(packed, tmp_path):
    path = tmp_path / "mine.yaml"
    values = {
        "teacher": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": str(packed / "*.tar"), "image_size": 32},
        "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"}],
        "train": {"max_steps": 2, "batch_size": 4},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_dry_run_says_bytes_and_time_and_writes_nothing(xmodal, recipe, packed):
    before = sorted(packed.iterdir())
    done = xmodal("cache", recipe, "--dry-run", "--device", "cpu")
    assert done.code == 0, done.err
    sample = 384 * 2 + 8  # float16, and the key's hash
    assert re.search(rf"text.embedding +{sample} B +8 samples +{8 * sample / 1000:.1f} kB +\d+:\d\d", done.out)
    assert "Nothing was written" in done.out
    assert sorted(packed.iterdir()) == before


def test_a_recipe_is_cached_once_and_checked(xmodal, recipe, packed):
    first = xmodal("cache", recipe, "--device", "cpu")
    assert first.code == 0, first.err
    assert "8 samples in 2 shards: 2 written, 0 there already" in first.out
    assert "cached: true" in first.out
    assert "0 written, 2 there already" in xmodal("cache", recipe, "--device", "cpu").out
    assert xmodal("cache", recipe, "--check").out == "Nothing is wrong.\n"
    next(packed.glob("*-000001.*.safetensors")).unlink()
    assert [xmodal("cache", recipe, "--check", "--part", part).code for part in ("1/2", "2/2")] == [0, 1]
    broken = xmodal("cache", recipe, "--check")
    assert broken.code == 1
    assert re.search(r"missing .*-000001.*\n1 finding\.", broken.out)


def test_a_teacher_without_a_recipe(xmodal, packed, tmp_path):
    arguments = (*TEACHER, "--taps", "text.embedding,text.hidden.-1", "--shards", packed, "--out", tmp_path / "out")
    parts = [xmodal("cache", *arguments, "--part", part) for part in ("1/2", "2/2")]
    assert ["1 written" in part.out for part in parts] == [True, True]
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
    assert f'cached: "{tmp_path / "out"}"' in parts[0].out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give a recipe, or --teacher"),
        ((*TEACHER, "--taps", "text.embedding"), "--teacher needs --taps and --shards"),
        ((*TEACHER, "--taps", "text.embeding", "--shards", "SHARDS"), "Nearest: text.embedding"),
        (("--teacher", "sentense", "--taps", "x", "--shards", "SHARDS"), "Nearest: sentence"),
        ((*TEACHER, "--option", "modle=x", "--taps", "x", "--shards", "SHARDS"), "Nearest"),
        ((*TEACHER, "--taps", "x", "--shards", "SHARDS", "--part", "3/2"), "I/N"),
        (("RECIPE", "--temperature", "2"), "give --top-k too"),
        (("RECIPE", "--top-k", "4", "--temperature", "0"), "not a number above 0"),
        (("RECIPE", "--top-k", "4", "--temperature", "nan"), "not a number above 0"),
        (("RECIPE", "--taps", "x"), "a recipe has its own"),
        (("RECIPE", "data.tran=x"), "Nearest: data.train"),
    ],
)
def test_mistakes_are_said_in_one_message(xmodal, recipe, packed, arguments, said):
    given = [{"SHARDS": packed, "RECIPE": recipe}.get(argument, argument) for argument in arguments]
    done = xmodal("cache", *given)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_ranks_of_torchrun_share_the_shards(xmodal, recipe, packed, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        done = xmodal("cache", recipe, "--device", "cpu")
        assert "in 1 shard: 1 written, 0 there already" in done.out
    assert len(list(packed.glob("*.safetensors"))) == 2
