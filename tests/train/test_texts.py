"""Real runs with two texts a sample: what the teacher reads is not what the student reads."""

from __future__ import annotations

import json

import pytest
import torch

import xmodal
from xmodal.data import ShardWriter, TrainStream, open_sources
from xmodal.errors import DataError, RecipeError
from xmodal.recipe import Data

PAIRS = [
    ("Hund", "a dog"),
    ("Katze", "a cat"),
    ("Haus", "a house"),
    ("Baum", "a tree"),
    ("Auge", "an eye"),
    ("Mund", "a mouth"),
]
MINILM = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    with ShardWriter(folder) as writer:
        for number, (german, english) in enumerate(PAIRS * 4):
            about = {"english": english, "several": [f"{english} {i}" for i in range(5)]}
            writer.add(f"w{number}", {"txt": german.encode(), "json": json.dumps(about).encode()})
    return str(folder)


def recipe(words, **changes):
    return {
        "name": "translations",
        "teacher": MINILM,
        "student": {"name": "static", "width": 64, "embed_dim": 384},
        "data": {"train": words, "texts": {"english": "json.english"}, "num_workers": 0},
        "objective": [
            {"loss": "feature_cosine", "student": "text.embedding", "teacher": "english.embedding"},
            {"loss": "feature_cosine", "student": "english.embedding", "teacher": "english.embedding", "label": "same"},
        ],
        "train": {"max_steps": 60, "batch_size": 12, "learning_rate": 0.03, "weight_decay": 0},
        **changes,
    }


def test_a_student_learns_where_the_teacher_puts_the_translation(words, tmp_path):
    run = xmodal.distill(recipe(words), out=tmp_path / "run")
    student, teacher = run.student, xmodal.create_teacher(**MINILM)
    german, english = (list(column) for column in zip(*PAIRS, strict=True))
    learned = student.encode(text=german)["text.embedding"]
    taught = teacher.encode(text=english)["text.embedding"]
    closest = torch.nn.functional.normalize(learned) @ torch.nn.functional.normalize(taught).T
    assert closest.argmax(1).tolist() == list(range(len(PAIRS)))
    space = student.metadata["space"]
    assert space["tap"] == "english.embedding"


def test_two_texts_of_a_sample_are_contrasted_without_a_teacher(words, tmp_path):
    terms = [
        {"loss": "clip_contrastive", "student": ["text.embedding", "english.embedding"], "logit_scale": {"learn": 10}}
    ]
    given = recipe(words, objective=terms, teacher=None)
    given["evaluate"] = {"tasks": ["text-retrieval"], "query": "json.english"}
    given["data"]["val"] = words
    run = xmodal.distill(given, out=tmp_path / "run")
    assert run.metrics["val"]["query_to_text_recall@1"] > 0.6  # by chance 0.17


def test_a_name_that_no_text_has_is_found_before_anything_is_loaded(words, tmp_path):
    given = recipe(words)
    given["objective"][0]["teacher"] = "englisch.embedding"
    with pytest.raises(RecipeError, match=r"(?s)objective.0.teacher.*'englisch.embedding'.*Nearest: english.embedding"):
        xmodal.distill(given, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"image": "json.a"}, "image means something else"),
        ({"a b": "json.a"}, "is no name"),
        ({"shard": "json.a"}, "shard means something else"),
        ({"a": " "}, "names no member"),
    ],
)
def test_names_of_texts_that_cannot_be(texts, said):
    with pytest.raises(RecipeError, match=said):
        Data(train="x", texts=texts)


def test_of_a_list_each_name_picks_its_own_entry_view_by_view(words):
    class Both:
        fields = ("one", "two")

        def __call__(self, sample):
            return {name: sample[name] for name in self.fields}

        def collate(self, items):
            return {name: [item[name] for item in items] for name in self.fields}

    options = {
        "preprocess": {"model": Both()},
        "batch_size": 24,
        "texts": {"one": "json.several", "two": "json.several"},
    }
    first, second = (
        [next(stream) for _ in range(2)] for stream in (iter(TrainStream(words, **options)) for _ in range(2))
    )
    assert [batch["views"] for batch in first] == [batch["views"] for batch in second]
    ones, twos = ([text for batch in first for text in batch["views"]["model"][name]] for name in ("one", "two"))
    assert 5 < sum(one == two for one, two in zip(ones, twos, strict=True)) + 5 < 30  # about a fifth of 48 agree
    assert first[0]["views"] != first[1]["views"]


def test_a_name_cannot_be_stored_features_and_a_text():
    with pytest.raises(RecipeError, match=r"is a name of data.features and of data.texts"):
        Data(train="x", texts={"one": "json.a"}, features={"one": "one.npy"})


def test_a_source_has_a_text_where_its_path_leads_to_one(words, tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.add("w0", {"txt": b"Hund", "json": b"{}"})
    sources = open_sources({"a": words, "b": str(tmp_path)}, stored={"english": "json.english"})
    assert ["english" in source.fields for source in sources] == [True, False]
    sources = open_sources({"a": words, "b": {"shards": str(tmp_path), "fields": ["text"]}}, "json.english")
    assert sources[0].fields == {"text"}
    with pytest.raises(DataError, match=r"no picture, sound or text 'json.english'"):
        open_sources({"b": str(tmp_path)}, "json.english")


def test_a_cache_is_not_asked_for_further_texts(words):
    from xmodal.data.cache.recipe import jobs_of
    from xmodal.recipes import load_recipe

    assert jobs_of(load_recipe(recipe(words))) == []  # the teacher is asked for english.embedding, and not cached
    cached = recipe(words, teacher={**MINILM, "cached": True})
    with pytest.raises(DataError, match=r"a cache holds what a teacher says of data.text alone"):
        jobs_of(load_recipe(cached))
