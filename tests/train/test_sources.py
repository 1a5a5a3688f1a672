"""Real runs over sources that do not hold the same things: pictures with names here, names alone there."""

from __future__ import annotations

import json

import pytest

import xmodal
from xmodal.data import ShardWriter, open_shards
from xmodal.errors import RecipeError

PAIRS = "package://emoji/names-*.tar"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Shards of names without pictures."""
    folder = tmp_path_factory.mktemp("words")
    opened = open_shards("package://emoji/style-*.tar")
    with ShardWriter(folder) as writer:
        for sample in range(60):
            raw = opened.read(sample)
            writer.add(raw.key, {"txt": raw.members["txt"]})
    return str(folder)


def recipe(words, **changes):
    tower = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    return {
        "name": "two-sources",
        "teacher": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"},
        "student": {"name": "clip", "image": tower, "text": {"num_layers": 1, "width": 64}, "embed_dim": 384},
        "data": {
            "train": {"pairs": PAIRS, "words": {"shards": words, "weight": 681}},
            "image_size": 32,
            "num_workers": 0,
        },
        "objective": [
            {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"},
            {"loss": "feature_mse", "student": "text.embedding", "teacher": "text.embedding"},
        ],
        "train": {"max_steps": 10, "batch_size": 16, "learning_rate": 0.001},
        **changes,
    }


@pytest.mark.parametrize("mix", ["batches", "samples"])
def test_a_run_learns_from_both(words, tmp_path, mix):
    given = recipe(words)
    given["data"]["mix"] = mix
    run = xmodal.distill(given, out=tmp_path / "run")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    terms = [tuple(row["terms"]) for row in rows if "terms" in row]
    if mix == "samples":
        assert set(terms) == {("feature_cosine", "feature_mse")}
    else:  # a batch of names has no picture to compare
        assert set(terms) == {("feature_cosine", "feature_mse"), ("feature_mse",)}


def test_terms_that_no_source_can_serve_and_sources_without_a_term_are_named(words, tmp_path):
    apart = recipe(words)
    apart["data"]["train"]["pairs"] = {"shards": PAIRS, "fields": ["image"]}
    with pytest.raises(RecipeError) as told:
        xmodal.distill(apart, out=tmp_path / "run")
    assert "objective.0" in str(told.value)
    assert "pairs has image; words has text" in str(told.value)
    assert "data.train.pairs" in str(told.value)
    assert "no term of the objective can learn" in str(told.value)


def test_a_wrong_key_or_path_of_a_source_is_said_before_anything_loads(words, tmp_path):
    wrong = recipe(words)
    wrong["data"]["train"] = {"pairs": {"shards": "nowhere/*.tar"}, "words": {"shards": words, "wieght": 2}}
    with pytest.raises(RecipeError) as told:
        xmodal.distill(wrong, out=tmp_path / "run")
    assert "data.train.pairs.shards" in str(told.value)
    assert "nowhere" in str(told.value)
    assert "data.train.words.wieght" in str(told.value)
    assert "data.train.words.weight" in str(told.value)


def test_a_label_of_one_picture_is_no_target_for_a_mixture_of_two(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    opened = open_shards(PAIRS)
    with ShardWriter(folder) as writer:
        for sample in range(20):
            raw = opened.read(sample)
            picture = {name: data for name, data in raw.members.items() if name != "json"}
            writer.add(raw.key, {**picture, "cls": str(sample % 4).encode()})
    mixed = {
        "teacher": {"name": "timm", "model": "test_resnet", "pretrained": False},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": str(folder), "image_size": 32, "augment": {"mixup": 0.2}, "num_workers": 0},
        "objective": [
            {"loss": "decoupled_kd", "student": "image.embedding", "teacher": ["image.embedding", "batch:label"]}
        ],
        "train": {"max_steps": 2, "batch_size": 8},
    }
    with pytest.raises(RecipeError, match=r"data\.augment.*batch:label"):
        xmodal.distill(mixed, out=tmp_path / "run")
