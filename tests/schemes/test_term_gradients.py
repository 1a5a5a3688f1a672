"""A look at each term's own gradient: exact, and without a trace in what is trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline, Progress
from xmodal.schemes.gradients import TermGradients
from xmodal.train.distributed import World

CPU = World(torch.device("cpu"))
EMBEDDING = {"student": "image.embedding", "teacher": "image.embedding"}
TERMS = (
    Term(loss="feature_mse", **EMBEDDING, weight={"from": 0, "to": 3}),
    Term(loss="feature_mse", student="image.tokens", teacher="image.tokens", mask="image.mask", label="tokens"),
)
CONTRAST = Term(
    loss="contrastive_representation", **EMBEDDING, projection="linear", bank=20, standardize=True, weight=0.5
)


@pytest.fixture
def make_scheme(make_encoder, batch):
    def make(*terms, dropout=0.0, **settings):
        student, teacher = make_encoder(norm=True), make_encoder(seed=1).freeze()
        student.model.append(nn.Dropout(dropout))
        objective = Objective.build(terms, {"student": student, "teacher": teacher}, batch["views"])
        options = {"max_steps": 9, "learning_rate": 0.1, **settings}
        return Offline(student, {"teacher": teacher}, objective, Train(**options), CPU)

    return make


def steps(scheme, batch, count=4):
    results = []
    for step in range(count):
        torch.manual_seed(step)
        results.append(scheme.step(batch, Progress(step, count, 0.5)))
    return results


@pytest.mark.parametrize(
    "settings", [{}, {"accumulate": 3}, {"precision": "bfloat16"}, {"precision": "float16"}, {"ema": 0.9}]
)
def test_looking_leaves_training_bit_for_bit_as_it_is(make_scheme, batch, settings):
    terms = TERMS if "accumulate" in settings else (*TERMS, CONTRAST)
    blind, looking = (make_scheme(*terms, dropout=0.5, **settings, term_gradients_every=every) for every in (None, 1))
    without, with_it = steps(blind, batch), steps(looking, batch)
    states = blind.state_dict(), looking.state_dict()
    torch.testing.assert_close(states[1]["trainee"], states[0]["trainee"], rtol=0, atol=0)
    torch.testing.assert_close(states[1]["optimizer"]["state"], states[0]["optimizer"]["state"], rtol=0, atol=0)
    assert all(torch.equal(one.loss, other.loss) for one, other in zip(without, with_it, strict=True))
    assert [bool(result.term_gradients) for result in without + with_it] == [False] * 4 + [True] * 4


@pytest.mark.slow
def test_a_compiled_student_too_is_as_it_would_be_without(make_scheme, batch, monkeypatch):
    """Compiled code that may be gone through backward once only would give other gradients without a word."""
    monkeypatch.setattr("torch._functorch.config.donated_buffer", True)  # and back to what they are afterwards
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", False)
    blind = make_scheme(*TERMS, compile=True)
    steps(blind, batch)
    looking = make_scheme(*TERMS, compile=True, term_gradients_every=2)
    compiled = steps(looking, batch)[1].term_gradients
    torch.testing.assert_close(looking.state_dict()["trainee"], blind.state_dict()["trainee"], rtol=0, atol=0)
    plain = steps(make_scheme(*TERMS, term_gradients_every=2), batch)[1].term_gradients
    assert compiled["norms"] == pytest.approx(plain["norms"], rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 3}, {"precision": "float16"}])
def test_norms_and_cosines_are_those_of_each_terms_own_gradient(make_scheme, batch, settings):
    both = make_scheme(*TERMS, term_gradients_every=1, clip_grad=None, **settings)
    alone = [make_scheme(term, clip_grad=None, **settings) for term in TERMS]
    gradients = []
    figures = both.step(batch, Progress(3, 5)).term_gradients
    for scheme in alone:
        scheme.step(batch, Progress(3, 5))
        found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in scheme.trainee.student.parameters()]
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    norms = [gradient.norm().item() for gradient in gradients]
    tolerance = 1e-2 if settings.get("precision") else 1e-4
    assert list(figures["norms"]) == ["feature_mse", "tokens"]
    assert list(figures["norms"].values()) == pytest.approx(norms, rel=tolerance)
    cosine = (gradients[0] @ gradients[1]).item() / norms[0] / norms[1]
    assert figures["cosines"]["feature_mse"]["tokens"] == pytest.approx(cosine, abs=tolerance)


def test_it_is_looked_at_every_so_many_steps(make_scheme, batch):
    results = steps(make_scheme(*TERMS, term_gradients_every=3), batch, count=7)
    assert [bool(result.term_gradients) for result in results] == [False, False, True, False, False, True, False]


def test_a_term_that_weighs_nothing_has_no_direction(make_scheme, batch):
    figures = steps(make_scheme(*TERMS, term_gradients_every=1), batch)[0].term_gradients
    assert figures["norms"]["feature_mse"] == 0
    assert math.isnan(figures["cosines"]["feature_mse"]["tokens"])


def test_a_term_that_hangs_on_nothing_trained_asks_for_nothing():
    layer = nn.Linear(2, 1)
    looking = TermGradients(layer)
    for constant in (2.0, 3.0):  # two parts
        looking.add({"layer": layer(torch.ones(1, 2)).sum(), "constant": torch.tensor(constant)})
    figures = looking.figures(1.0, lambda values: values)
    assert figures["norms"] == {"layer": pytest.approx(12**0.5), "constant": 0}
    assert math.isnan(figures["cosines"]["layer"]["constant"])
