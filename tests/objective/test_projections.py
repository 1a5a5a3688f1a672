"""Projections between real taps: what is fed by several, what changes places, what is measured on the teacher."""

from __future__ import annotations

import pytest
import torch

from xmodal.adapters.projections.measured import PCA, Whitening
from xmodal.errors import RecipeError, RunError
from xmodal.losses import LOSSES
from xmodal.objective import Objective, check_terms
from xmodal.recipe import Term
from xmodal.train.build import inherit


def run(models, views, objective):
    return {name: models[name](views[name], taps) for name, taps in objective.taps().items()}


def wrong(given, **more):
    _, mistakes = check_terms([Term(**{"student": "image.embedding", "teacher": "text.embedding", **given, **more})])
    return {mistake.path: mistake.message for mistake in mistakes}


TEXT_TAPS = ("text.embedding", "text.tokens", "text.mask")
LADDER = {"name": "ladder", "taps": ["image.hidden.1", "image.hidden.-1"]}


def test_a_ladder_is_fed_by_its_own_tap_and_by_every_rung(models, views, make_encoder, monkeypatch):
    unpadded = [tap for tap in models["student"].taps() if tap != "image.mask"]
    monkeypatch.setattr(make_encoder, "taps", lambda self: unpadded if self.modality == "image" else TEXT_TAPS)
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
    assert objective.samples_to_measure == 4096 - 20
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


def test_a_pooled_ladder_over_padded_layers_is_refused_for_it_would_average_the_padding(models, views):
    term = Term(loss="feature_mse", student="image.embedding", teacher="text.embedding", projection=LADDER)
    with pytest.raises(RecipeError, match=r"projection\.taps\.0 .*image.hidden.1 is padded to the longest"):
        Objective.build([term], models, views)


@pytest.mark.parametrize("width", [4, 3])
@pytest.mark.parametrize("projection", ["pca", "random_orthogonal"])
def test_a_teachers_tap_is_mapped_beside_the_student_and_not_among_the_teachers(
    models, views, make_encoder, projection, width
):
    models["student"] = make_encoder("image (narrow)", "image", width)
    term = Term(
        loss="soft_contrastive",
        student=["image.embedding", "teacher:text.embedding"],
        teacher=["teacher:text.tokens_mean", "text.embedding"],
        student_scale=10,
        teacher_scale=10,
        projection=projection,
        side="teacher",
    )
    teacher = models["teacher"]
    compute = type(teacher).compute
    turn = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))

    def with_another(inputs, taps):
        found = compute(teacher, inputs, ["text.embedding"])
        return {tap: found["text.embedding"] @ (turn if "mean" in tap else torch.eye(4)) for tap in taps}

    teacher.compute = with_another
    teacher.taps = lambda: ("text.embedding", "text.tokens_mean")
    objective = Objective.build([term], models, views)
    features = run(models, views, objective)
    if projection == "pca":
        many = {"x": torch.randn(50, 6, generator=torch.Generator().manual_seed(2))}
        objective.measure({"student": {}, "teacher": teacher(many, ["text.embedding", "text.tokens_mean"])})
        objective.fit()
    (module,) = objective.terms["soft_contrastive"].projections.values()
    image, text = (features["teacher"][tap] for tap in ("text.tokens_mean", "text.embedding"))
    direct = LOSSES["soft_contrastive"].function(
        features["student"]["image.embedding"], module(text), image, text, student_scale=10, teacher_scale=10
    )
    torch.testing.assert_close(objective(features)["soft_contrastive"], direct)


def test_one_tap_meets_maps_of_two_resolutions_in_two_terms(models, views, make_encoder):
    maps = {
        "student": {"image.hidden.1": torch.randn(5, 8, 4, 4)},
        "teacher": {"image.hidden.0": torch.randn(5, 3, 4, 4), "image.hidden.1": torch.randn(5, 3, 2, 2)},
    }
    models = {name: make_encoder(name, "image", 8) for name in maps}
    for name, model in models.items():
        model.compute = lambda inputs, taps, name=name: {tap: maps[name][tap] for tap in taps}
    term = {"loss": "flow_of_solution", "teacher": ["image.hidden.0", "image.hidden.1"]}
    twice = Term(**term, student=["image.hidden.1", "image.hidden.1"], projection="conv")
    with pytest.raises(RecipeError, match=r"student.1 .*meets places of \[4, 4\] and \[2, 2\] in one term"):
        Objective.build([twice], models, {"student": {}, "teacher": {}})


def test_a_width_without_a_hadamard_matrix_is_told_under_the_standardisation(models, views, make_encoder):
    models["teacher"] = make_encoder("sentence (odd)", "text", 6).freeze()
    term = {"student": "image.embedding", "teacher": "text.embedding", "standardize": "phi_s"}
    with pytest.raises(RecipeError, match=r"objective\.0\.standardize .*no Hadamard matrix 6 wide"):
        Objective.build([Term(loss="feature_mse", **term, projection="linear")], models, views)


def test_what_cannot_be_measured_says_of_which_term(models, views):
    term = {"student": "image.embedding", "teacher": "text.embedding", "projection": "linear", "label": "mine"}
    objective = Objective.build([Term(loss="feature_mse", **term, standardize="whitening")], models, views)
    with pytest.raises(RunError, match=r"objective\.0 \(mine\): .*NaN or infinity"):
        objective.measure({"teacher": {"text.embedding": torch.full((5, 4), torch.nan)}})
    with pytest.raises(RunError, match=r"objective\.0 \(mine\): .*0 were seen"):
        objective.fit()


def test_a_later_stage_keeps_what_was_measured_for_the_same_and_measures_the_rest_again(models, views):
    def build(method, label="mine", **more):
        term = {"student": "image.embedding", "teacher": "text.embedding", "projection": "linear", "label": label}
        return Objective.build([Term(loss="feature_mse", **term, standardize=method, **more)], models, views)

    before = build("phi_s")
    before.measure({"teacher": {"text.embedding": torch.randn(30, 4, generator=torch.Generator().manual_seed(4))}})
    before.fit()
    expected = before.state_dict()
    cases = [
        (build("phi_s", weight=2), ["teacher"], 0),
        (build("phi_s"), [], 4096),  # another teacher of that name
        (build("whitening"), ["teacher"], 4096),
        (build({"method": "phi_s", "samples": 50}), ["teacher"], 50),
        (build("phi_s", label="another"), ["teacher"], 4096),
    ]
    for after, teachers, left in cases:
        inherit(after, before)
        after.measure_anew(before, teachers)
        assert after.samples_to_measure == left
    kept = cases[0][0]
    kept.fit()
    assert all(torch.equal(value, expected[name]) for name, value in kept.state_dict().items())
