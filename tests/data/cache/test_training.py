"""A run from the cache is the run with the teacher itself, to float16; evaluation takes the teacher itself."""

from __future__ import annotations

import json

import pytest

from xmodal import distill
from xmodal.adapters.teachers.cached import CachedTeacher
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of, open_cached
from xmodal.data.cache.sidecar import Sidecar
from xmodal.data.shards import open_shards
from xmodal.data.stream_sources import open_sources
from xmodal.data.writer import ShardWriter
from xmodal.errors import AdapterError
from xmodal.recipes import load_recipe

TEXT = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}
TERMS = {
    "text": [
        {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"},
        {
            "loss": "soft_contrastive",
            "student": ["image.embedding", "teacher:text.embedding"],
            "teacher": ["text.embedding", "text.embedding"],
            "student_scale": 20,
            "teacher_scale": 20,
        },
    ],
    "picture": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"}],
}


@pytest.fixture
def recipe(folder, picture_spec):
    def make(kind, **teacher):
        spec = {"text": TEXT, "picture": picture_spec}[kind]
        return load_recipe(
            {
                "teacher": {**spec, **teacher},
                "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
                "data": {
                    "train": str(folder / "*.tar"),
                    "val": str(folder / "*-000000.tar") if kind == "text" else None,
                    "image_size": 32,
                    "augment": {"crop_scale": [0.5, 1.0], "flip": 0.5},
                    "views": 2,
                    "num_workers": 0,
                },
                "objective": TERMS[kind],
                "train": {"max_steps": 4, "batch_size": 8, "device": "cpu", "learning_rate": 1e-3},
                "evaluate": {"tasks": ["retrieval", "agreement", "mixed-index"]},
            }
        )

    return make


def losses(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines if "terms" in line for value in line["terms"].values()]


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_a_cached_run_has_the_figures_of_the_online_run(kind, recipe, tmp_path, monkeypatch):
    online = distill(recipe(kind), out=tmp_path / "online")
    made = recipe(kind, cached=True)
    cache(jobs_of(made, device="cpu"))
    asked = []
    compute = CachedTeacher.compute
    monkeypatch.setattr(CachedTeacher, "compute", lambda *a: asked.append(1) or compute(*a))
    cached = distill(made, out=tmp_path / "cached")
    assert len(asked) >= 4  # it was the cache that taught
    assert losses(cached) == pytest.approx(losses(online), abs=2e-3)
    assert len(losses(cached)) >= 3
    assert bool(online.metrics) == (kind == "text")
    for split, figures in online.metrics.items():
        assert cached.metrics[split] == pytest.approx(figures, abs=0.02)
    ours, theirs = (
        json.loads((run.folder / "summary.json").read_text())["teachers"]["teacher"] for run in (cached, online)
    )
    assert {**ours, "latency_ms": None} == {**theirs, "latency_ms": None}
    assert cached.report.is_file()
    assert cached.student.metadata["space"]["teacher"] == online.student.metadata["space"]["teacher"]


def test_loading_workers_look_features_up_too(recipe, tmp_path):
    made = load_recipe(recipe("picture", cached=str(tmp_path / "cache")), ["train.max_steps=3"])
    cache(jobs_of(made, device="cpu"))
    alone = distill(made, out=tmp_path / "alone")
    workers = distill(load_recipe(made, ["data.num_workers=2"]), out=tmp_path / "workers")
    assert losses(alone) == losses(workers)


def test_new_samples_are_the_teachers_own_business(recipe, tmp_path):
    made = recipe("text", cached=True)
    cache(jobs_of(made, device="cpu"))
    teacher = open_cached(made, "teacher", open_sources(made.data.train))
    with pytest.raises(AdapterError, match="real"):
        teacher.preprocess({"key": "new", "text": "a sad cat"})
    assert teacher.encode(text=["a sad cat"])["text.embedding"].shape == (1, teacher.embed_dim)


def test_sources_without_a_picture_need_no_features_of_one(folder, recipe, tmp_path):
    """Of two sources one has texts alone: the picture teacher is cached for the other, and both are learnt from."""
    words = tmp_path / "words"
    words.mkdir()
    source = open_shards(str(folder / "*.tar"))
    with ShardWriter(words, pattern="words-{:03d}.tar") as writer:
        for row in range(16):
            raw = source.read(row)
            writer.add(raw.key, {"txt": raw.members["txt"]})
    tower = {"model": "test_efficientnet", "weights": "random"}
    student = {"name": "clip", "image": tower, "text": {"num_layers": 1, "tokenizer": TEXT["model"]}, "embed_dim": 384}
    picture = recipe("picture").teacher.model_dump()
    values = {
        **recipe("picture").to_dict(),
        "teachers": {"eye": {**picture, "cached": True}, "reader": {**TEXT, "cached": True}},
        "student": student,
        "objective": [
            {
                "loss": "feature_cosine",
                "student": "image.embedding",
                "teacher": "eye:image.embedding",
                "projection": "linear",
            },
            {"loss": "feature_cosine", "student": "text.embedding", "teacher": "reader:text.embedding"},
        ],
    }
    values.pop("teacher")
    values["data"]["train"] = {"pictures": str(folder / "*.tar"), "words": str(words / "*.tar")}
    values["data"]["mix"] = "samples"
    values["data"]["val"] = None
    made = load_recipe(values, ["train.max_steps=3"])
    done = cache(jobs_of(made, device="cpu"))
    assert done.count("nothing") == 1
    (only,) = words.glob("*.safetensors")
    assert set(Sidecar(only).taps) == {"text.embedding"}
    cached = distill(made, out=tmp_path / "cached")
    online = distill(
        load_recipe(made, ["teachers.eye.cached=false", "teachers.reader.cached=false"]), out=tmp_path / "online"
    )
    assert losses(cached) == pytest.approx(losses(online), abs=2e-3)
