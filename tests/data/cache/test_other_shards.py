"""A cache of other shards that go by the same names is neither read nor written over."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from xmodal.adapters import TEACHERS
from xmodal.adapters.encoder import Encoder
from xmodal.data.cache import written_from
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of, open_cached
from xmodal.data.shards import open_shards
from xmodal.data.stream_sources import open_sources
from xmodal.data.writer import ShardWriter
from xmodal.errors import DataError
from xmodal.recipes import load_recipe

TEXT = {"name": "letters"}


class Letters(Encoder):
    """Says of a text how many of its letters are an a, an e and an o."""

    name, modalities, embed_dim = "letters", ("text",), 3

    def __init__(self):
        super().__init__()
        self.preprocess, self.model = Count(), torch.nn.Identity()

    def taps(self):
        return ("text.embedding",)

    def compute(self, inputs, taps):
        return {"text.embedding": inputs["text"]}

    def identity(self):
        return "letters"


class Count:
    fields = ("text",)

    def __call__(self, sample):
        return {"text": torch.tensor([float(sample["text"].count(letter)) for letter in "aeo"])}

    def collate(self, items):
        return {"text": torch.stack([item["text"] for item in items])}


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    monkeypatch.setitem(TEACHERS._entries, "letters", lambda: Letters())


def pack(folder, texts):
    folder.mkdir()
    with ShardWriter(folder) as writer:
        for number, text in enumerate(texts):
            writer.add(f"{number:03}", {"txt": text.encode()})
    return folder


def texts(*, turned=False, more=""):
    source = open_shards("package://emoji/names-*.tar")
    found = [source.read(row).members["txt"].decode().strip() + more for row in range(4)]
    return found[::-1] if turned else found


@pytest.fixture
def folders(tmp_path):
    """Two datasets of the same names, keys and sizes, with other texts, and no manifest."""
    one, two = pack(tmp_path / "one", texts()), pack(tmp_path / "two", texts(turned=True))
    sizes = [[path.stat().st_size for path in sorted(folder.glob("*.tar"))] for folder in (one, two)]
    assert sizes[0] == sizes[1]
    assert not list(tmp_path.glob("*/manifest.json"))
    return one, two


@pytest.fixture
def recipe(tmp_path):
    def make(folder, cached=None):
        return load_recipe(
            {
                "teacher": {**TEXT, "cached": cached or str(tmp_path / "cache")},
                "student": {"name": "text", "num_layers": 1},
                "data": {"train": str(folder / "*.tar")},
                "objective": [{"loss": "feature_mse", "student": "text.embedding", "teacher": "text.embedding"}],
                "train": {"max_steps": 1, "batch_size": 4, "device": "cpu"},
            }
        )

    return make


def read_first(recipe):
    sources = open_sources(recipe.data.train, recipe.data.text)
    teacher = open_cached(recipe, "teacher", sources)
    return teacher.preprocess({"key": "000", "shard": sources[0].shards.names[0], "view": 0, "text": "…"})


def test_shards_of_the_same_names_and_sizes_are_told_apart(folders, recipe):
    one, two = map(recipe, folders)
    cache(jobs_of(one))
    with pytest.raises(DataError, match=r"foreign cache, of .* in .*one.*--out"):
        read_first(two)
    with pytest.raises(DataError, match=r"foreign cache.*--out DIR.*--replace"):
        cache(jobs_of(two))
    assert cache(jobs_of(one)).count("finished") == 1
    assert cache(jobs_of(two, replace=True)).count("written") == 1
    read_first(two)


def test_shards_of_another_size_do_not_replace_the_others(folders, recipe, tmp_path):
    cache(jobs_of(recipe(folders[0])))
    longer = pack(tmp_path / "longer", texts(more=" and much more" * 80))
    with pytest.raises(DataError, match="foreign cache"):
        cache(jobs_of(recipe(longer)))
    assert cache(jobs_of(recipe(folders[0]))).count("finished") == 1


def test_other_bytes_in_the_same_place_are_stale_and_written_anew(folders, recipe):
    one, two = folders
    cache(jobs_of(recipe(one)))
    shutil.copytree(two, one, dirs_exist_ok=True, copy_function=shutil.copyfile)
    with pytest.raises(DataError, match="is stale"):
        read_first(recipe(one))
    assert cache(jobs_of(recipe(one))).count("written") == 1


def test_a_copy_of_the_shards_keeps_their_cache_and_is_hashed_once(folders, recipe, tmp_path, monkeypatch):
    cache(jobs_of(recipe(folders[0])))
    hashed = []
    monkeypatch.setattr(
        written_from, "file_sha256", lambda path, real=written_from.file_sha256: hashed.append(path) or real(path)
    )
    read_first(recipe(folders[0]))
    assert hashed == []
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    for _ in range(2):
        read_first(recipe(copy))
    assert len(hashed) == 1


def test_a_folder_that_is_moved_with_its_cache_is_not_hashed(folders, recipe, tmp_path, monkeypatch):
    cache(jobs_of(recipe(folders[0], cached=True)))
    monkeypatch.setattr(written_from, "file_sha256", lambda path: pytest.fail("it was hashed"))
    os.rename(folders[0], tmp_path / "moved")
    read_first(recipe(tmp_path / "moved", cached=True))


def test_two_stages_with_caches_of_their_own_fill_both(folders, recipe, tmp_path):
    values = recipe(folders[0]).to_dict()
    stages = [{"name": name, "teacher": {**TEXT, "cached": str(tmp_path / name)}} for name in ("c1", "c2")]
    jobs = jobs_of(load_recipe({**values, "stages": stages}))
    assert [job.out for job in jobs] == [str(tmp_path / "c1"), str(tmp_path / "c2")]


def test_a_sample_whose_field_is_there_but_not_its_features_is_refused(folders, recipe):
    made = recipe(folders[0])
    cache(jobs_of(made))
    sources = open_sources(made.data.train, made.data.text)
    teacher = open_cached(made, "teacher", sources)
    teacher.preprocess.lookup = lambda shard, key, view: {}
    teacher.preprocess.lookup.mend = "Cache again."
    sample = {"key": "000", "shard": "shard-000000.tar", "view": 0}
    assert teacher.preprocess({**sample, "text": ""}) == {}  # a blank of a mixed batch
    assert teacher.preprocess(sample) == {}
    with pytest.raises(DataError, match=r"'000' of shard .* has text, .*no text.embedding.*data.train.NAME.fields"):
        teacher.preprocess({**sample, "text": "a cat"})
