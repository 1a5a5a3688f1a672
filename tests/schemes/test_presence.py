"""Batches of several sources, in which some rows have a picture, some a text and some both."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from xmodal.adapters.encoder import Encoder
from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline, Progress
from xmodal.schemes.presence import features_of, presence_of
from xmodal.train.distributed import World

IMAGE = torch.tensor([True, True, False, True, False, True])
TEXT = torch.tensor([True, False, True, True, True, False])
PAIR = Term(loss="clip_contrastive", student=["image.embedding", "text.embedding"], logit_scale=5.0)
SEEN = Term(loss="feature_mse", student="image.embedding", teacher="image.embedding")
READ = Term(loss="feature_cosine", student="text.embedding", teacher="text.embedding")


class TwoTowers(Encoder):
    modalities = ("image", "text")

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.name, self.embed_dim = "two towers", 3
        self.model = nn.ModuleDict({"image": nn.Linear(4, 3), "text": nn.Linear(4, 3), "norm": nn.BatchNorm1d(3)})

    def taps(self):
        return ("image.embedding", "text.embedding")

    def compute(self, inputs, taps):
        found = {tap: self.model[tap.partition(".")[0]](inputs[tap.partition(".")[0]]) for tap in taps}
        if "image.embedding" in found:
            found["image.embedding"] = self.model["norm"](found["image.embedding"])
        return found

    def identity(self):
        return "two towers"


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    view = {name: torch.randn(6, 4, generator=generator) for name in ("image", "text")}
    blanks = {"image": ~IMAGE, "text": ~TEXT}
    for name, rows in blanks.items():
        view[name][rows] = float("nan")  # what stands in for nothing must reach nothing
    return {
        "key": list("abcdef"),
        "views": {"student": view, "teacher": view},
        "present": {"image": IMAGE, "text": TEXT},
    }


def make(*terms, **settings):
    options = {"max_steps": 1, "learning_rate": 0.1, "clip_grad": None, **settings}
    teacher = TwoTowers(seed=1).freeze()
    return Offline(TwoTowers(), {"teacher": teacher}, Objective(terms), Train(**options), World(torch.device("cpu")))


def test_a_term_is_about_the_rows_that_have_what_it_compares(batch):
    scheme = make(PAIR, SEEN, READ)
    student, teacher = copy.deepcopy(scheme.trainee.student), scheme.teachers["teacher"]
    result = scheme.step(batch, Progress())

    view, both = batch["views"]["student"], (IMAGE & TEXT)[IMAGE]
    images = student.train()({"image": view["image"][IMAGE]}, ("image.embedding",))["image.embedding"]
    texts = student({"text": view["text"][TEXT]}, ("text.embedding",))["text.embedding"]
    taught = teacher({"image": view["image"][IMAGE]}, ("image.embedding",))["image.embedding"]
    read = teacher({"text": view["text"][TEXT]}, ("text.embedding",))["text.embedding"]
    one, other = (nn.functional.normalize(t, dim=-1) for t in (images[both], texts[(IMAGE & TEXT)[TEXT]]))
    logits, target = 5 * one @ other.T, torch.arange(int(both.sum()))
    expected = {
        "clip_contrastive": (
            nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)
        )
        / 2,
        "feature_mse": (images - taught).pow(2).mean(),
        "feature_cosine": 1 - nn.functional.cosine_similarity(texts, read).mean(),
    }
    torch.testing.assert_close(result.terms, {name: value.detach() for name, value in expected.items()})
    sum(expected.values()).backward()
    for name, parameter in scheme.trainee.student.named_parameters():
        torch.testing.assert_close(parameter.grad, dict(student.named_parameters())[name].grad)
    after = dict(scheme.trainee.student.named_buffers())
    torch.testing.assert_close(after, dict(student.named_buffers()))  # BatchNorm saw no blank


def test_a_batch_without_pictures_trains_by_the_texts_alone(batch):
    scheme = make(SEEN, READ)
    view = {"text": torch.randn(6, 4)}
    words = {"key": batch["key"], "views": {"student": view, "teacher": view}}
    result = scheme.step({**words, "present": {"image": torch.zeros(6, dtype=torch.bool)}}, Progress())
    assert list(result.terms) == ["feature_cosine"]
    assert not result.skipped
    assert scheme.trainee.student.model["image"].weight.grad is None


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_accumulated_parts_have_the_gradient_of_the_whole(batch, parts):
    def run(accumulate):
        scheme = make(SEEN, READ, accumulate=accumulate)
        scheme.trainee.student.model["norm"] = nn.Identity()  # it compares rows of a part
        scheme.teachers["teacher"].model["norm"] = nn.Identity()
        result = scheme.step(batch, Progress())
        return result.terms, {name: p.grad for name, p in scheme.trainee.named_parameters()}

    torch.testing.assert_close(run(parts), run(1))


def test_one_modality_runs_over_its_own_rows(batch):
    encoder, view = TwoTowers().eval(), batch["views"]["student"]
    taps = ("image.embedding", "text.embedding")
    features = features_of(encoder, view, taps, batch["present"])
    alone = encoder({"image": view["image"][IMAGE]}, taps[:1])["image.embedding"]
    torch.testing.assert_close(features["image.embedding"][IMAGE], alone)
    assert (features["image.embedding"][~IMAGE] == 0).all()
    assert torch.isfinite(features["text.embedding"]).all()
    assert features_of(encoder, {"text": view["text"]}, taps, {"image": torch.zeros(6, dtype=torch.bool)}).keys() == {
        "text.embedding"
    }


def test_what_a_model_makes_of_all_its_modalities_needs_all_of_them():
    encoder = TwoTowers()
    found = presence_of(encoder, ("image.embedding", "logits"), {"image": IMAGE, "text": TEXT})
    assert found["image.embedding"].equal(IMAGE)
    assert found["logits"].equal(IMAGE & TEXT)
    assert presence_of(encoder, ("image.embedding",), {"text": TEXT}) == {}
