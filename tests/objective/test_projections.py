"""Projections between real taps: what is fed by several, what changes places, what is measured on the teacher."""

from __future__ import annotations

import pytest
import torch

from xmodal.adapters.projections.measured import PCA, Whitening
from xmodal.errors import RecipeError, RunError
from xmodal.objective import Objective, check_terms
from xmodal.recipe import Term


def run(models, views, objective):
    return {name: models[name](views[name], taps) for name, taps in objective.taps().items()}


def wrong(given, **more):
    _, mistakes = check_terms([Term(**{"student": "image.embedding", "teacher": "text.embedding", **given, **more})])
    return {mistake.path: mistake.message for mistake in mistakes}


LADDER = {"name": "ladder", "taps": ["image.hidden.1", "image.hidden.-1"]}


def test_a_ladder_is_fed_by_its_own_tap_and_by_every_rung(models, views):
    objective = Objective.build(
        [Term(loss="feature_mse", student="image.embedding", teacher="text.embedding", projection=LADDER)],
        models,
        views,
    )
    assert objective.taps()["student"] == ("image.embedding", "image.hidden.1", "image.hidden.-1")
    features = run(models, views, objective)
    value = objective(features)["feature_mse"]
    (ladder,) = objective.terms["feature_mse"].projections.values()
    rungs = [features["student"][tap] for tap in LADDER["taps"]]
    expected = (ladder(features["student"]["image.embedding"], rungs) - features["teacher"]["text.embedding"]).square()
    torch.testing.assert_close(value, expected.mean())
    value.backward()
    assert models["student"].token.weight.grad.abs().sum() > 0  # through the rungs alone


@pytest.mark.parametrize(
    ("projection", "path", "said"),
    [
        ("ladder", "projection.taps", "needs a list"),
        ({"name": "ladder", "taps": []}, "projection.taps", "needs a list"),
        ({"name": "ladder", "taps": ["teacher:text.tokens"]}, "projection.taps.0", "a tap of the student"),
        ({"name": "ladder", "taps": ["nobody:image.map"]}, "projection.taps.0", "nobody"),
        (
            {"name": "ladder", "taps": ["image.map"], "hiden": 3},
            "projection.hiden",
            "Nearest: objective.0.projection.hidden",
        ),
        ({"name": "conv", "in_places": [2]}, "projection.in_places", "no such option"),
        ("pca", "side", "add `side: teacher`"),
        ({"name": "random_orthogonal", "learning_rate_factor": 2}, "projection.learning_rate_factor", "not trained"),
    ],
)
def test_a_projection_that_cannot_be_is_told_before_anything_loads(projection, path, said):
    found = wrong({"loss": "feature_mse", "projection": projection})
    assert said in found[f"objective.0.{path}"]


def test_fixed_maps_may_stand_on_the_teachers_side_and_trained_ones_may_not():
    assert not wrong({"loss": "feature_mse", "projection": "pca", "side": "teacher"})
    trained = wrong({"loss": "feature_mse", "projection": "linear", "side": "teacher"})
    assert "`projection: pca`" in trained["objective.0.side"]
    rungs = wrong({"loss": "feature_mse", "projection": LADDER, "side": "teacher"})
    assert "fed by layers of the student" in rungs["objective.0.side"]
    both = wrong({"loss": "feature_mse", "projection": "pca", "side": "teacher", "standardize": "phi_s"})
    assert "leave out either" in both["objective.0.standardize"]


@pytest.mark.parametrize(("name", "of"), [("standardize", "phi_s"), ("standardize", "whitening")])
def test_a_measured_standardisation_waits_for_its_samples(models, views, name, of):
    term = Term(
        loss="feature_mse",
        student="image.embedding",
        teacher="text.embedding",
        projection="linear",
        **{name: {"method": of, "samples": 20}},
    )
    objective = Objective.build([term], models, views)
    assert objective.samples_to_measure == 20
    assert not objective.standardizes
    features = run(models, views, objective)
    with pytest.raises(RunError, match="before its statistics were measured"):
        objective(features)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        teacher = models["teacher"]({"x": torch.randn(5, 6, generator=generator)}, ["text.embedding"])
        objective.measure({"teacher": teacher})
    objective.fit()
    (module,) = objective.terms["feature_mse"].standardisers.values()
    (linear,) = objective.terms["feature_mse"].projections.values()
    expected = linear(features["student"]["image.embedding"]) - module(features["teacher"]["text.embedding"])
    torch.testing.assert_close(objective(features)["feature_mse"], expected.square().mean())
    assert bool(module.fitted)
    assert not set(objective.parameters()) & set(module.parameters())


def test_pca_brings_a_wide_teacher_to_the_students_width_measured_on_valid_items_alone(models, views, make_encoder):
    models["student"] = make_encoder("image (narrow)", "image", 8, token_dim=2)
    term = Term(
        loss="feature_mse",
        student="image.tokens",
        teacher="text.tokens",
        mask="teacher:text.mask",
        projection={"name": "pca", "samples": 5},
        side="teacher",
    )
    objective = Objective.build([term], models, views)
    features = run(models, views, objective)
    objective.measure(features)
    objective.fit()
    (module,) = objective.terms["feature_mse"].projections.values()
    valid = features["teacher"]["text.tokens"][features["teacher"]["text.mask"].bool()]
    expected = PCA(6, 2)
    expected.observe(valid)
    expected.fit()
    torch.testing.assert_close(module.matrix, expected.matrix)
    error = features["student"]["image.tokens"] - module(features["teacher"]["text.tokens"])
    kept = error[features["teacher"]["text.mask"].bool()]
    torch.testing.assert_close(objective(features)["feature_mse"], kept.square().mean())


def test_rows_that_lack_the_teachers_tap_are_not_measured(models, views):
    term = Term(
        loss="feature_mse",
        student="image.embedding",
        teacher="text.embedding",
        projection="linear",
        standardize="whitening",
    )
    objective = Objective.build([term], models, views)
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(4))
    there = torch.arange(30) % 3 > 0
    blank = torch.where(there[:, None], rows, 0)
    objective.measure({"teacher": {"text.embedding": blank}}, present={"teacher": {"text.embedding": there}})
    objective.fit()
    expected = Whitening(4)
    expected.observe(rows[there])
    expected.fit()
    (module,) = objective.terms["feature_mse"].standardisers.values()
    torch.testing.assert_close(module.mean, expected.mean)
    torch.testing.assert_close(module.matrix, expected.matrix)


def test_idle_options_of_a_standardisation_are_refused():
    for given in ({"method": "phi_s", "momentum": 0.5}, {"samples": 9}):
        with pytest.raises(RecipeError, match="does nothing with method"):
            Term(loss="feature_mse", student="a.b", teacher="a.b", standardize=given)


def test_tokens_of_unlike_number_meet_through_a_resampler_and_maps_through_a_conv(
    models, views, make_encoder, monkeypatch
):
    unpadded = [tap for tap in models["student"].taps() if tap != "image.mask"]
    monkeypatch.setattr(make_encoder, "taps", lambda self: unpadded)
    models["teacher"] = make_encoder("timm (teacher)", "image", 4).freeze()
    views = {name: {**view, "map": True} for name, view in views.items()}
    terms = [
        Term(
            loss="feature_mse",
            student="image.hidden.1",
            teacher="image.map",
            projection={"name": "resampler", "heads": 2},
        ),
        Term(loss="feature_mse", student="image.map", teacher="image.map", projection="conv", label="maps"),
        Term(
            loss="gram_matrix", student="image.map", teacher="image.map", projection={"name": "conv", "kernel_size": 3}
        ),
    ]
    objective = Objective.build(terms, models, views)
    features = run(models, views, objective)
    values = objective(features)
    (resampler,) = objective.terms["feature_mse"].projections.values()
    wanted = features["teacher"]["image.map"].permute(0, 2, 3, 1)
    expected = (resampler(features["student"]["image.hidden.1"]) - wanted).square().mean()
    torch.testing.assert_close(values["feature_mse"], expected)
    (conv,) = objective.terms["maps"].projections.values()
    expected = (conv(features["student"]["image.map"].permute(0, 2, 3, 1)) - wanted).square().mean()
    torch.testing.assert_close(values["maps"], expected)
    objective.total(values).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_sequences_as_long_as_their_batch_have_no_places_to_map(models, views):
    term = Term(
        loss="feature_mse",
        student="image.tokens",
        teacher="text.tokens",
        mask="teacher:text.mask",
        projection="resampler",
    )
    with pytest.raises(RecipeError, match="as long as the longest of its batch"):
        Objective.build([term], models, views)
