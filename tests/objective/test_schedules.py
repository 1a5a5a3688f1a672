"""Weights and options that change during the run: pure functions of the progress, checked before anything runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import RecipeError
from xmodal.objective import Objective, check_terms
from xmodal.objective.schedules import value_at
from xmodal.recipe import Term
from xmodal.term import Schedule

TOKENS = {"student": "image.tokens", "teacher": "text.tokens"}
LOGITS = {"loss": "kl_divergence", "student": "logits", "teacher": "logits"}
numbers = st.floats(-1e6, 1e6)


def schedule(first, last, **more):
    return Schedule(**{"from": first, "to": last, **more})


@given(numbers, numbers, st.floats(0, 0.5), st.floats(0.51, 1), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_a_schedule_goes_from_one_value_to_the_other_within_its_time(first, last, after, until, progress, shape):
    changing = schedule(first, last, after=after, until=until, shape=shape)
    value = value_at(changing, progress)
    low, high = sorted([first, last])
    assert low - 1e-6 <= value <= high + 1e-6
    assert value_at(changing, after) == first
    assert value_at(changing, until) == value_at(changing, 1.0) == last


def test_halfway_both_shapes_are_in_the_middle_and_a_cosine_starts_slowly():
    assert value_at(schedule(2, 4), 0.5) == value_at(schedule(2, 4, shape="cosine"), 0.5) == 3
    assert value_at(schedule(0, 1, shape="cosine"), 0.1) < 0.03


def test_a_weight_follows_its_schedule_in_the_total_alone():
    term = Term(loss="feature_mse", **TOKENS, weight={"from": 0, "to": 2, "until": 0.5})
    objective = Objective([term, Term(loss="feature_mse", **TOKENS)])
    values = {label: torch.tensor(3.0) for label in objective.labels}
    assert [float(objective.total(values, share)) for share in (0, 0.25, 0.5, 1)] == [3, 6, 9, 9]
    assert objective.scheduled(0.25) == {"feature_mse": {"weight": 1.0}}


def logits():
    generator = torch.Generator().manual_seed(0)
    return {model: {"logits": torch.randn(4, 5, generator=generator)} for model in ("student", "teacher")}


def test_an_option_follows_its_schedule():
    objective = Objective([Term(**LOGITS, temperature={"from": 4, "to": 1})])
    for progress, temperature in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        fixed = Objective([Term(**LOGITS, temperature=temperature)])
        values = objective(logits(), progress=progress), fixed(logits())
        torch.testing.assert_close(*values, rtol=0, atol=0)
        assert objective.scheduled(progress) == {"kl_divergence": {"temperature": temperature}}
        assert fixed.scheduled(progress) == {}


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"from": 1, "to": 2, "after": 0.5, "until": 0.5}, "", "ends before it starts: after 0.5, until 0.5"),
        ({"from": 1}, ".to", "is missing: a number"),
        ({"from": "much", "to": 2}, ".from", "expected a number; given the text 'much'"),
        ({"from": True, "to": 2}, ".from", "given true"),
        ({"from": 1, "to": 2, "untill": 0.5}, ".untill", "Nearest: "),
        ({"from": 1, "to": 2, "until": 2}, ".until", "at most 1; given 2"),
        ({"from": 1, "to": 2, "shape": "step"}, ".shape", "expected linear or cosine"),
        ({"from": 4, "to": 0}, ".to", "expected a number above 0; given 0"),
        ({"from": -1, "to": 1}, ".from", "expected a number above 0; given -1"),
        ({"form": 1, "too": 2}, "", "expected a number above 0 or {from: NUMBER, to: NUMBER}; given a mapping"),
    ],
)
def test_a_schedule_that_cannot_be_is_a_mistake_of_its_own_key(value, path, message):
    found = {mistake.path: mistake.message for mistake in check_terms([Term(**LOGITS, temperature=value)])[1]}
    assert list(found) == [f"objective.0.temperature{path}"]
    assert message in found[f"objective.0.temperature{path}"]


@pytest.mark.parametrize(
    ("loss", "option", "value", "wanted"),
    [
        ("feature_mse", "normalize", {"from": 0, "to": 1}, "true or false"),
        ("graph_propagation", "num_neighbours", {"from": 1, "to": 3}, "a whole number of at least 1"),
        ("clip_contrastive", "tile", {"from": 64, "to": 128}, "a whole number of at least 1 or null"),
        ("clip_contrastive", "products", {"from": 1, "to": 2}, "float32 or bfloat16"),
    ],
)
def test_what_a_loss_is_built_by_stays_the_same(loss, option, value, wanted):
    term = Term(loss=loss, student="image.embedding", teacher="text.embedding", **{option: value})
    found = {mistake.path: mistake.message for mistake in check_terms([term])[1]}
    may = "weight, logit_scale" if loss == "clip_contrastive" else "weight"
    assert found[f"objective.0.{option}"] == (
        f"expected {wanted}, the same for the whole run; given a schedule. What may change in this term: {may}"
    )


def test_a_weights_schedule_is_checked_where_the_term_is_made():
    with pytest.raises(RecipeError, match=r"weight +ends before it starts"):
        Term(loss="feature_mse", **TOKENS, weight={"from": 0, "to": 1, "after": 0.9, "until": 0.1})


@pytest.mark.parametrize(("first", "last", "end"), [(4, 1e-45, "end"), (1e-45, 4, "start")])
def test_the_dry_run_tries_both_ends_of_a_schedule(models, views, embedding_term, first, last, end):
    term = embedding_term("kl_divergence", temperature={"from": first, "to": last})
    with pytest.raises(RecipeError) as error:
        Objective.build([term], models, views)
    (mistake,) = error.value.mistakes
    assert f"at the {end} of its schedule (temperature {min(first, last):g}) kl_divergence is nan" in mistake.message
