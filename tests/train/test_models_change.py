"""A run that was stopped goes on with the models it began with, and with no others."""

from __future__ import annotations

import json

import pytest

import xmodal
from xmodal.adapters import create_student
from xmodal.adapters.identity import reading_identity
from xmodal.data import ShardWriter
from xmodal.errors import RecipeError, RunError

MINILM = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}


def write(path, texts):
    path.write_text("\n".join(texts * 5))
    return str(path)


@pytest.fixture
def words(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    with ShardWriter(folder) as writer:
        for number in range(24):
            about = json.dumps({"english": f"dog {number}"}).encode()
            writer.add(f"w{number}", {"txt": f"Hund {number}".encode(), "json": about})
    return str(folder)


def recipe(words, **changes):
    return {
        "teacher": MINILM,
        "student": {"name": "static", "width": 16},
        "data": {"train": words, "num_workers": 0},
        "objective": [
            {"loss": "feature_cosine", "student": "text.embedding", "teacher": "text.embedding", "projection": "linear"}
        ],
        "train": {"max_steps": 4, "batch_size": 8, "checkpoint_every": 1},
        **changes,
    }


def stop_after(monkeypatch, step):
    """End a run behind its ``step``-th checkpoint."""
    from xmodal.train import loop

    taken = []
    old = loop.save_checkpoint

    def save(*arguments):
        path = old(*arguments)
        taken.append(path)
        if len(taken) == step:
            raise RunError("stopped here")
        return path

    monkeypatch.setattr(loop, "save_checkpoint", save)


@pytest.mark.parametrize("kind", ["text", "static"])
def test_other_texts_under_the_same_name_are_another_tokenizer(words, tmp_path, monkeypatch, kind):
    corpus = tmp_path / "corpus.txt"
    options = {"text": {"num_layers": 1, "width": 16, "num_heads": 2}, "static": {"width": 16}}[kind]
    student = {"name": kind, **options, "tokenizer": "trained", "texts": str(corpus), "vocab_size": 40}
    write(corpus, ["ein Hund und eine Katze", "eine Katze"])
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(RunError, match="stopped here"):
            xmodal.distill(recipe(words, student=student), out=tmp_path / "run")
    write(corpus, ["a house and a tree", "a tree"])
    with pytest.raises(RunError, match=r"(?s)cannot go on.*student: .*tokenizer was made of"):
        xmodal.distill(recipe(words, student=student), out=tmp_path / "run", resume=True)
    write(corpus, ["ein Hund und eine Katze", "eine Katze"])
    assert xmodal.distill(recipe(words, student=student), out=tmp_path / "run", resume=True).student


def test_reading_is_told_by_tokens_and_kind():
    one, two = (create_student("static", width=8) for _ in range(2))
    assert reading_identity(one) == reading_identity(two)  # whatever their weights
    few = create_student("static", width=8, texts="package://emoji/names-*.tar", vocab_size=300)
    assert reading_identity(few) != reading_identity(one)


def test_what_would_fail_after_training_is_said_before(words, tmp_path):
    asked = recipe(words, evaluate={"tasks": ["text-retrieval"]})
    asked["data"] = {**asked["data"], "val": words}
    with pytest.raises(RecipeError, match=r"evaluate.query\s+is missing"):
        xmodal.distill(asked, out=tmp_path / "run")


def test_texts_that_nobody_reads_are_a_mistake(tmp_path):
    tower = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    unread = recipe(
        "package://emoji/names-*.tar",
        student={"name": "image", **tower},
        teacher={"name": "ema"},
        objective=[{"loss": "feature_mse", "student": "image.features", "teacher": "image.features"}],
    )
    unread["data"] |= {"texts": {"more": "json.name"}, "image_size": 32}
    with pytest.raises(RecipeError, match=r"data.texts\s+no model of this recipe reads texts"):
        xmodal.distill(unread, out=tmp_path / "run")


def test_a_stage_does_not_lose_a_head_that_was_trained(words, tmp_path):
    student = {"name": "text", "model": MINILM["model"], "num_layers": 1, "embed_dim": 384, "locked": True}
    term = {"loss": "feature_cosine", "student": "text.embedding", "teacher": "text.embedding"}
    stages = [{}, {"student.locked": False}]
    with pytest.raises(RecipeError, match=r"the head that the stage before trained has no place"):
        xmodal.distill(recipe(words, student=student, objective=[term], stages=stages), out=tmp_path / "run")


def test_no_is_not_true(words, tmp_path):
    student = {"name": "text", "model": MINILM["model"], "num_layers": 1, "embed_dim": 64, "locked": "no"}
    with pytest.raises(RecipeError, match=r"student.locked\s+expected true or false; given the text 'no'"):
        xmodal.distill(recipe(words, student=student), out=tmp_path / "run")


def test_nor_does_a_tower_of_two(tmp_path):
    text = {"model": MINILM["model"], "num_layers": 1, "locked": True}
    image = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    given = recipe(
        "package://emoji/names-*.tar",
        student={"name": "clip", "image": image, "text": text, "embed_dim": 384},
        objective=[{"loss": "feature_cosine", "student": "text.embedding", "teacher": "text.embedding"}],
        stages=[{}, {"student.text.locked": False}],
    )
    given["data"]["image_size"] = 32
    with pytest.raises(RecipeError, match=r"the head that the stage before trained has no place"):
        xmodal.distill(given, out=tmp_path / "run")
