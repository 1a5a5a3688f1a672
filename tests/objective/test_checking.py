"""What is wrong with the terms of a recipe, before any model exists."""

from __future__ import annotations

import pytest

from xmodal.errors import RecipeError
from xmodal.objective import Objective, check_terms, unique_labels
from xmodal.recipe import Term

EMBEDDINGS = {"student": "image.embedding", "teacher": "text.embedding"}
PAIRS = {"student": ["image.embedding", "teacher:text.embedding"], "teacher": ["text.embedding", "text.embedding"]}


def wrong(term, teachers=("teacher",)):
    return {mistake.path: mistake.message for mistake in check_terms([Term(**term)], teachers)[1]}


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "feature_cosine", **EMBEDDINGS},
        {"loss": "feature_mse", **EMBEDDINGS, "normalize": True, "mask": "teacher:text.mask", "weight": 2},
        {"loss": "clip_contrastive", **EMBEDDINGS, "logit_scale": {"learn": 14.3, "max": 100}},
        {"loss": "clip_contrastive", "student": "text.embedding", "teacher": "image.embedding", "logit_scale": 20},
        {"loss": "clip_contrastive", **EMBEDDINGS, "logit_scale": 20, "projection": "mlp", "side": "teacher"},
        {"loss": "soft_contrastive", **PAIRS, "student_scale": 20, "teacher_scale": 20},
        {
            "loss": "feature_mse",
            "student": "image.hidden.1",
            "teacher": "teacher:text.hidden.-1",
            "projection": {"name": "mlp", "hidden": 9},
        },
    ],
    ids=lambda term: f"{term['loss']}",
)
def test_good_terms_have_no_mistake(term):
    assert wrong(term) == {}


def test_a_student_may_learn_without_any_teacher():
    two_towers = {"loss": "clip_contrastive", "student": ["image.embedding", "text.embedding"], "logit_scale": 10}
    assert wrong(two_towers, teachers=()) == {}
    deep_to_shallow = {"loss": "feature_mse", "student": "image.hidden.0", "teacher": "student:image.hidden.2"}
    assert wrong(deep_to_shallow, teachers=()) == {}


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"loss": "feature_cosin"}, "loss", "'feature_cosin' is not a loss. Nearest: feature_cosine"),
        ({"wieght": 2}, "wieght", "Nearest: objective.0.weight"),
        ({"temperature": 2}, "temperature", "feature_cosine takes no options"),
        ({"teacher": None}, "teacher", r"takes 1 tap here \(teacher\); given 0"),
        ({"teacher": ["text.embedding", "text.tokens"]}, "teacher", "given 2"),
        ({"student": ["image.embedding", "image.tokens"]}, "student", r"takes 1 tap here \(student\); given 2"),
        ({"student": "teacher:text.tokens"}, "student", "no tap here is the student's own"),
        ({"student": "studnet:image.embedding"}, "student", "'studnet' is no model of this recipe. Nearest: student"),
        ({"teacher": ["clip:text.embedding"]}, "teacher.0", "'clip' is no model"),
        ({"student": "student:"}, "student", "is no tap reference"),
        ({"student": ":image.embedding"}, "student", "is no tap reference"),
        ({"mask": "clip:text.mask"}, "mask", "'clip' is no model"),
        ({"label": "a.b"}, "label", "may hold no dot"),
        ({"label": "values"}, "label", "'values' is a word that torch keeps for itself"),
        ({"label": "training"}, "label", "'training' is a word that torch keeps for itself"),
        ({"projection": "liner"}, "projection", "'liner' is not a projection. Nearest: linear"),
        ({"projection": {"name": "mlp", "hiden": 3}}, "projection.hiden", "Nearest: objective.0.projection.hidden"),
        (
            {"projection": {"name": "mlp", "layers": "many"}},
            "projection.layers",
            "expected a whole number; given the text 'many'",
        ),
        ({"side": "teacher"}, "side", "add `projection: linear`"),
        ({"side": "teacher", "projection": "linear"}, "side", "gives no gradient to the teacher's side"),
    ],
)
def test_a_mistake_is_named_by_its_key_with_the_mend(change, path, message):
    found = wrong({"loss": "feature_cosine", **EMBEDDINGS, **change})
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.pop(f"objective.0.{path}"))
    assert found == {}


CLIP = {"loss": "clip_contrastive", **EMBEDDINGS}
SOFT = {"loss": "soft_contrastive", **PAIRS, "student_scale": 1}


@pytest.mark.parametrize(
    ("term", "path", "message"),
    [
        ({**CLIP, "teacher": None, "logit_scale": 1}, "", "given 1 under student and 0 under teacher"),
        (CLIP, ".logit_scale", "is missing: clip_contrastive needs it"),
        ({**CLIP, "logit_scale": 1, "mask": "image.mask"}, ".mask", "takes no mask"),
        ({**CLIP, "logit_scale": {"learn": 500}}, ".logit_scale", "at most at its max"),
        ({**SOFT, "teacher_scale": {"learn": 2}}, ".teacher_scale", "cannot learn"),
        ({**SOFT, "teacher_scale": 2, "projection": "linear", "side": "teacher"}, ".side", "no gradient"),
    ],
)
def test_mistakes_of_contrastive_terms(term, path, message):
    # that the teacher is idle is another test's
    found = {key: message for key, message in wrong(term).items() if key != "teacher"}
    assert list(found) == [f"objective.0{path}"]
    assert message in found[f"objective.0{path}"]


def test_a_student_that_only_stands_where_gradient_is_cut_is_refused():
    term = {"loss": "feature_mse", "student": "teacher:text.embedding", "teacher": "student:image.embedding"}
    assert "no tap here is the student's own" in wrong(term)["objective.0.student"]


def test_with_several_teachers_a_tap_says_whose_it_is():
    term = {"loss": "feature_cosine", **EMBEDDINGS}
    assert "clip:text.embedding, sentence:text.embedding" in wrong(term, ("clip", "sentence"))["objective.0.teacher"]
    assert wrong({**term, "teacher": "clip:text.embedding"}, ("clip",)) == {}
    assert wrong(term, ("clip",)) == {}, "the only teacher needs no prefix, whatever its name"


def test_a_teacher_that_no_term_uses_is_a_mistake():
    alone = {"loss": "clip_contrastive", "student": ["image.embedding", "text.embedding"], "logit_scale": 10}
    assert "no term of the objective uses this teacher" in wrong(alone)["teacher"]
    term = {"loss": "feature_cosine", "student": "image.embedding", "teacher": "clip:image.embedding"}
    assert list(wrong(term, ("clip", "sentence"))) == ["teachers.sentence"]


def test_a_recipe_without_a_teacher_says_so_where_one_is_asked_for():
    assert "the recipe has no teacher" in wrong({"loss": "feature_cosine", **EMBEDDINGS}, ())["objective.0.teacher"]


def test_an_empty_objective_is_refused():
    with pytest.raises(RecipeError, match="at least one term"):
        Objective([])


def test_all_mistakes_of_all_terms_come_at_once():
    terms = [
        Term(loss="feature_cosin", student="image.embedding", teacher="clip:text.embedding"),
        Term(loss="feature_mse", student="image.embedding", normalise=True),
        Term(loss="clip_contrastive", **EMBEDDINGS, label="a.b"),
    ]
    with pytest.raises(RecipeError) as error:
        Objective(terms)
    assert {mistake.path for mistake in error.value.mistakes} == {
        "objective.0.loss",
        "objective.0.teacher",
        "objective.1.normalise",
        "objective.1.teacher",
        "objective.2.label",
        "objective.2.logit_scale",
    }


def test_labels_are_unique_whatever_the_terms_are_called():
    names = ["a", "a", ("b", "a#2"), "a", ("b", "a")]
    terms = [
        Term(loss=n, student="x") if isinstance(n, str) else Term(loss=n[0], student="x", label=n[1]) for n in names
    ]
    labels = unique_labels(terms)
    assert len(set(labels)) == len(labels)
    assert labels[0] == "a"
    assert unique_labels(terms[:2]) == ["a", "a#2"]
