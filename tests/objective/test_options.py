"""A recipe's options are checked against the signature."""

from __future__ import annotations

import re
from typing import Literal

import pytest

from xmodal.losses import LOSSES
from xmodal.losses.options import read_options
from xmodal.objective.options import check_options
from xmodal.recipe import Term


def some(
    student,
    *,
    width: int,
    rate: float = 0.5,
    on: bool = False,
    how: Literal["mean", "sum"] = "mean",
    limit: int | None = None,
): ...


def mistakes(given, options=None, **more):
    return {
        m.path: m.message for m in check_options(given, options or read_options(some), "objective.0", "some", **more)[1]
    }


def test_what_fits_comes_back_as_its_type_wants_it():
    values, wrong = check_options(
        {"width": 3, "rate": "2e-3", "on": True, "how": "sum", "limit": None}, read_options(some), "objective.0", "some"
    )
    assert not wrong
    assert values.fixed == {"width": 3, "rate": 0.002, "on": True, "how": "sum", "limit": None}


def test_every_mistake_is_listed_under_its_path():
    found = mistakes({"widht": 3, "rate": "fast", "how": "max", "on": 3.5})
    assert set(found) == {f"objective.0.{key}" for key in ("widht", "width", "rate", "how", "on")}
    assert "Nearest: objective.0.width" in found["objective.0.widht"]
    assert "is missing: some needs it, a whole number" in found["objective.0.width"]
    assert found["objective.0.rate"] == "expected a number; given the text 'fast'"
    assert found["objective.0.how"] == "expected mean or sum; given the text 'max'"


@pytest.mark.parametrize("key", ["width", "rate", "limit"])
def test_true_is_no_number(key):
    assert f"objective.0.{key}" in mistakes({"width": 1, key: True})


def test_a_misspelt_key_of_the_term_is_told_apart_from_an_option():
    assert (
        "Nearest: objective.0.weight"
        in mistakes({"width": 1, "weigth": 2}, also_known=["weight"])["objective.0.weigth"]
    )


@pytest.mark.parametrize("key", ["max", "bank", "tile", "lambda", "task_id"])
def test_an_unrelated_word_is_not_taken_for_a_misspelt_key_of_the_term(key):
    found = mistakes({"width": 1, key: 2}, also_known=list(Term.model_fields))
    assert not any(f"objective.0.{name}" in found[f"objective.0.{key}"] for name in Term.model_fields)


@pytest.mark.parametrize(("key", "meant"), [("weigth", "weight"), ("maks", "mask"), ("proj", "projection")])
def test_a_slip_of_the_pen_is(key, meant):
    found = mistakes({"width": 1, key: 2}, also_known=list(Term.model_fields))
    assert f"Nearest: objective.0.{meant}" in found[f"objective.0.{key}"]


CLIP = LOSSES["clip_contrastive"].options


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"learn": 200}, "at most at its max; given 200 and 100"),
        ({"learn": 0}, "starts above 0"),
        ({"learn": 5, "max": 4}, "given 5 and 4"),
        ({"max": 5}, r"expected a number above 0 or {learn: NUMBER, max: NUMBER}; given a mapping with the keys max"),
    ],
)
def test_a_learned_scale_that_cannot_be_is_refused(scale, message):
    assert re.search(message, mistakes({"logit_scale": scale}, CLIP)["objective.0.logit_scale"])


def test_a_misspelt_key_of_a_learned_scale_has_its_own_path():
    found = mistakes({"logit_scale": {"learn": "much", "maximum": 4}}, CLIP)
    assert found["objective.0.logit_scale.learn"] == "expected a number; given the text 'much'"
    assert "takes learn (its first value) and max" in found["objective.0.logit_scale.maximum"]


@pytest.mark.parametrize("scale", [0, -3.5, "0"])
def test_a_scale_that_is_not_above_zero_is_refused_before_anything_runs(scale):
    found = mistakes({"logit_scale": scale}, CLIP)
    assert list(found) == ["objective.0.logit_scale"]
    assert "expected a number above 0 or {learn: NUMBER, max: NUMBER}; given" in found["objective.0.logit_scale"]


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        ("kl_divergence", {"temperature": 0}, "expected a number above 0; given 0"),
        ("top_k_kl", {"temperature": 1, "cached_temperature": -1}, "expected a number above 0 or null; given -1"),
        ("jensen_shannon", {"beta": 1.5}, "expected a number of at least 0 and at most 1; given 1.5"),
        ("graph_propagation", {"num_neighbours": 0}, "expected a whole number of at least 1; given 0"),
        ("graph_propagation", {"num_hops": -1}, "expected a whole number of at least 0; given -1"),
        (
            "soft_contrastive",
            {"student_scale": 1, "teacher_scale": [10, 0]},
            "expected a number above 0 or a list of numbers above 0; given the list [10, 0]",
        ),
    ],
)
def test_numbers_beyond_what_a_loss_declares_are_refused(loss, given, message):
    found = mistakes(given, LOSSES[loss].options)
    assert list(found) == [f"objective.0.{list(given)[-1]}"]
    assert found[f"objective.0.{list(given)[-1]}"] == message


def test_only_what_takes_a_tensor_can_be_learned():
    assert not mistakes({"logit_scale": {"learn": 14.3, "max": 100}}, CLIP)
    soft = LOSSES["soft_contrastive"].options
    found = mistakes({"student_scale": {"learn": 5}, "teacher_scale": {"learn": 5}}, soft)
    assert list(found) == ["objective.0.teacher_scale"]
    assert "cannot learn" in found["objective.0.teacher_scale"]
    assert (
        "cannot learn"
        in mistakes({"temperature": {"learn": 5}}, LOSSES["kl_divergence"].options)["objective.0.temperature"]
    )
