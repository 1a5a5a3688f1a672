"""What checking believes about models is what the models themselves say."""

from __future__ import annotations

import re

import pytest

from xmodal.adapters import create_student, create_teacher
from xmodal.recipes.models import outline

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXT = {"num_layers": 2, "width": 32, "num_heads": 2}
MODELS = [
    ("student", {"name": "image", "model": "test_resnet", "weights": "random", "embed_dim": 8}),
    ("student", {"name": "image", "model": "test_vit", "weights": "random", "num_classes": 3}),
    ("student", {"name": "text", "tokenizer": MINILM, "embed_dim": 8, **TEXT}),
    ("student", {"name": "text", "tokenizer": MINILM, "width": 32, "num_heads": 2}),
    ("student", {"name": "clip", "image": {"model": "test_resnet", "weights": "random"}, "text": TEXT, "embed_dim": 8}),
    ("teacher", {"name": "timm", "model": "test_resnet", "pretrained": False}),
    ("teacher", {"name": "timm", "model": "test_vit", "pretrained": False}),
    ("teacher", {"name": "sentence", "model": MINILM}),
]


@pytest.mark.parametrize(
    ("path", "spec"), MODELS, ids=lambda value: value["name"] if isinstance(value, dict) else value
)
def test_an_outline_knows_every_tap_of_its_model_and_text_taps_exactly(path, spec):
    options = {key: value for key, value in spec.items() if key != "name"}
    encoder = (create_student if path == "student" else create_teacher)(spec["name"], **options)
    known = outline(path, spec)
    assert known is not None
    assert [tap for tap in encoder.taps() if not known.has(tap)] == []
    assert {tap for tap in known.taps if tap.startswith("text.")} == {
        tap for tap in encoder.taps() if tap.startswith("text.")
    }
    last = [tap for tap in encoder.taps() if ".hidden." in tap][-1:]
    assert all(known.has(re.sub(r"\d+$", "-1", tap)) for tap in last)
    assert not known.has("image.embeding")
    assert not known.has("text.hidden.99")
    assert known.has("logits") or "logits" not in encoder.taps()


@pytest.mark.parametrize("spec", [{"name": "theirs"}, {"name": "given", "type": "A"}, {}, {"name": 3}, None, "image"])
def test_nothing_is_claimed_of_a_model_that_is_not_known(spec):
    assert outline("student", spec) is None
    assert outline("teacher", spec) is None


def test_a_model_that_is_not_on_this_machine_may_have_any_layer():
    known = outline("teacher", {"name": "sentence", "model": "somebody/some-model"})
    assert known is not None
    assert known.has("text.hidden.40")
    assert not known.has("image.map")
