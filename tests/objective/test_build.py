"""The dry run: all mistakes at once, projections sized by real features, and nothing else changed."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xmodal.adapters.projections import PROJECTIONS, Sizes
from xmodal.errors import RecipeError
from xmodal.losses import LOSSES, loss
from xmodal.objective import BoundTerm, Objective, check_terms
from xmodal.objective.widths import Plan
from xmodal.recipe import Term

TOKENS = {"student": "image.tokens", "teacher": "text.tokens"}


def mistakes(terms, models, views):
    with pytest.raises(RecipeError) as error:
        Objective.build(terms, models, views)
    assert "nothing was trained" in str(error.value)
    return {mistake.path: mistake.message for mistake in error.value.mistakes}


def test_every_mistake_of_every_term_comes_at_once(models, views, embedding_term):
    found = mistakes(
        [
            embedding_term(student="image.embeding"),
            embedding_term(projection=None),
            embedding_term("feature_mse", normalise=True, teacher="text.hidden.7"),
            embedding_term("clip_contrastive", logit_scale=-1.0),
            embedding_term(projection="identity"),
            embedding_term(teacher="text.attention"),
            embedding_term("kl_divergence", student="image.tokens", projection=None),
            embedding_term("soft_contrastive", teacher="text.embedding"),
            Term(loss="feature_cosine", student="image.tokens", teacher="text.tokens", mask="teacher:text.hidden.0"),
        ],
        models,
        views,
    )
    assert found.keys() == {
        "objective.0.student",
        "objective.1.projection",
        "objective.2.normalise",
        "objective.2.teacher",
        "objective.3.logit_scale",
        "objective.4.projection",
        "objective.5.teacher",
        "objective.6.projection",
        "objective.6.mask",
        "objective.7.student",
        "objective.7.teacher",
        "objective.7.student_scale",
        "objective.7.teacher_scale",
        "objective.8.mask",
    }
    assert "is not a tap of student image (small), which has image.embedding" in found["objective.0.student"]
    assert "Nearest: image.embedding" in found["objective.0.student"]
    widths = "student's image.embedding (8 wide) and teacher's text.embedding (4 wide): add `projection: linear`"
    assert widths in found["objective.1.projection"]
    assert "expected a number above 0 or {learn: NUMBER" in found["objective.3.logit_scale"]
    assert "widths differ: 8 and 4" in found["objective.4.projection"]
    assert "gave nothing for text.attention" in found["objective.5.teacher"]
    assert "one entry an item: [5, 3] for student's image.tokens" in found["objective.8.mask"]


def test_mistakes_come_in_the_order_of_the_terms(models, views, embedding_term):
    terms = [embedding_term(student="image.nothing"), embedding_term(loss="nothing"), embedding_term(teacher="text.no")]
    assert [path.split(".")[1] for path in mistakes(terms, models, views)] == ["0", "1", "2"]


def test_student_teacher_and_generators_are_left_as_they_were(models, views, embedding_term):
    terms = [embedding_term(), embedding_term("clip_contrastive", logit_scale={"learn": 10}, projection="mlp")]
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    states = {name: {key: value.clone() for key, value in model.state_dict().items()} for name, model in models.items()}
    generators = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    Objective.build(terms, models, views)
    assert random.getstate() == generators[0]
    assert (np.random.get_state()[1] == generators[1]).all()
    assert torch.equal(torch.get_rng_state(), generators[2])
    for name, model in models.items():
        assert all(torch.equal(value, states[name][key]) for key, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    assert models["student"].training
    assert not models["teacher"].training


def test_a_failed_dry_run_leaves_the_student_as_it_was_too(models, views, embedding_term):
    torch.manual_seed(3)
    before, generator = models["student"].state_hash(), torch.get_rng_state()
    mistakes([embedding_term(), embedding_term(projection=None)], models, views)
    assert models["student"].state_hash() == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_even_a_buffer_that_the_model_replaces_is_put_back(models, views, embedding_term):
    student = models["student"]
    student.register_buffer("seen", torch.zeros(()))
    buffer, compute = student.seen, student.compute

    def counting(inputs, taps):
        student.seen = student.seen + 1
        return compute(inputs, taps)

    student.compute = counting
    Objective.build([embedding_term()], models, views)
    assert student.seen is buffer
    assert student.seen == 0


def test_each_model_runs_once_for_the_taps_asked_for_alone(models, views, embedding_term):
    tokens = Term(loss="feature_mse", **TOKENS, mask="image.mask")
    Objective.build([embedding_term(), embedding_term("feature_mse"), tokens], models, views)
    assert models["student"].num_calls == 1
    assert models["student"].asked == ("image.embedding", "image.tokens", "image.mask")
    assert models["teacher"].asked == ("text.embedding", "text.tokens")


def test_projections_map_the_student_to_the_teachers_width(models, views, embedding_term):
    objective = Objective.build([embedding_term()], models, views)
    (projection,) = objective.terms["feature_cosine"].projections.values()
    assert (projection.in_features, projection.out_features) == (8, 4)


def test_on_the_teachers_side_they_map_the_teacher_to_the_students(models, views, embedding_term):
    objective = Objective.build([embedding_term("clip_contrastive", logit_scale=5, side="teacher")], models, views)
    (projection,) = objective.terms["clip_contrastive"].projections.values()
    assert (projection.in_features, projection.out_features) == (4, 8)


def test_a_term_with_the_teachers_own_text_projects_the_students_image_alone(models, views, embedding_term):
    term = embedding_term(
        "soft_contrastive",
        student=["image.embedding", "teacher:text.embedding"],
        teacher=["text.embedding", "text.embedding"],
        student_scale=20,
        teacher_scale=20,
    )
    objective = Objective.build([term], models, views)
    assert list(objective.terms["soft_contrastive"].projections) == ["student/image/embedding"]


def test_a_tap_that_is_its_own_teacher_is_projected_on_the_students_side_alone(models, views):
    tap = "image.tokens"
    term = Term(loss="feature_mse", student=tap, teacher=f"student:{tap}", projection="linear", mask="image.mask")
    objective = Objective.build([term], {"student": models["student"]}, views)
    layer = objective.terms["feature_mse"].projections["student/image/tokens"]
    tokens = torch.randn(5, 3, 6)
    values = objective({"student": {"image.tokens": tokens, "image.mask": torch.ones(5, 3)}})
    torch.testing.assert_close(values["feature_mse"], nn.functional.mse_loss(layer(tokens), tokens))


def test_a_projection_that_would_map_nothing_is_refused(models, views, make_encoder, embedding_term):
    towers = {"student": ["image.embedding", "image.embedding"], "teacher": ["text.embedding", "text.embedding"]}
    found = mistakes([embedding_term("soft_contrastive", **towers, student_scale=1, teacher_scale=1)], models, views)
    assert "nothing to project" in found["objective.0.projection"]


def test_two_towers_of_unequal_width_cannot_be_mended_by_a_projection(models, views):
    term = Term(loss="clip_contrastive", student=["image.embedding", "image.tokens"], logit_scale=1)
    only = {"student": models["student"]}
    assert "takes [batch, dim]" in mistakes([term], only, views)["objective.0.student.1"]
    kl = Term(loss="kl_divergence", student="image.embedding", teacher="student:image.hidden.-1")
    assert "add `projection: linear`" in mistakes([kl], only, views)["objective.0.projection"]


@pytest.mark.parametrize("tap", ["map", "hidden.0"])
def test_a_map_is_compared_place_by_place_along_its_channels(make_encoder, tap):
    maps = {"student": torch.randn(2, 8, 3, 5), "teacher": torch.randn(2, 4, 3, 5)}
    models = {"student": make_encoder("student", "image", 8), "teacher": make_encoder("teacher", "image", 4).freeze()}
    for name, model in models.items():
        model.compute = lambda inputs, taps, name=name: dict.fromkeys(taps, maps[name])
    terms = [Term(loss="feature_cosine", student=f"image.{tap}", teacher=f"image.{tap}", projection="linear")]
    objective = Objective.build(terms, models, {"student": {}, "teacher": {}})
    layer = objective.terms["feature_cosine"].projections[f"student/image/{tap.replace('.', '/')}"]
    # a linear map of the channels is a convolution of one pixel
    projected = nn.functional.conv2d(maps["student"], layer.weight[:, :, None, None], layer.bias)
    wanted = 1 - nn.functional.cosine_similarity(projected, maps["teacher"], dim=1).mean()
    values = objective({name: {f"image.{tap}": tensor} for name, tensor in maps.items()})
    torch.testing.assert_close(values["feature_cosine"], wanted)


def test_what_a_model_says_of_a_tap_it_cannot_give_is_passed_on(models, views):
    found = mistakes([Term(loss="feature_cosine", student="image.map", teacher="text.embedding")], models, views)
    assert found == {"student": "image (small) gives maps for pictures only"}


@pytest.fixture
def own_losses(monkeypatch):
    """Losses of a user's that go wrong in their own ways."""
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))

    @loss(kind="per_item")
    def constant(student: Tensor, teacher: Tensor) -> Tensor:
        return (student.detach() - teacher).square().mean()

    @loss(kind="per_item")
    def not_a_number(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).mean() / 0

    @loss(kind="per_item")
    def one_each(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean(-1)

    @loss(kind="per_item")
    def ignores_scale(student: Tensor, teacher: Tensor, *, scale: float | Tensor) -> Tensor:
        return (student - teacher).square().mean()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("constant", {}, "gives no gradient to the student's taps"),
        ("not_a_number", {}, "no finite number"),
        ("one_each", {}, r"is of shape \[5\] on the first batch"),
        ("ignores_scale", {"scale": {"learn": 2}}, r"gives no gradient to the term's own learned\.scale\.log_scale"),
    ],
)
def test_a_loss_that_cannot_teach_is_found_out(models, views, own_losses, name, options, message, embedding_term):
    found = mistakes([embedding_term(name, **options)], models, views)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found["objective.0"])


def test_projections_start_alike_whatever_the_generators_say_and_apart_by_seed_and_label(models, views, embedding_term):
    def weights(seed=0, **more):
        torch.manual_seed(random.randrange(1000))
        objective = Objective.build([embedding_term(**more)], models, views, seed=seed)
        return next(objective.parameters()).detach()

    first = weights()
    assert torch.equal(first, weights())
    assert not torch.equal(first, weights(seed=1))
    assert not torch.equal(first, weights(label="other"))
    assert first.std() > 0


def test_making_a_projection_consumes_no_random_number(embedding_term):
    (checked,), _ = check_terms([embedding_term()])
    term = BoundTerm(checked)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    term.size(Plan(projections={checked.references[0]: Sizes(8, 4)}), seed=0)
    assert next(term.parameters()).shape == (4, 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_repeated_terms_have_projections_of_their_own(models, views, embedding_term):
    objective = Objective.build([embedding_term(), embedding_term()], models, views)
    first, second = (objective.terms[label].projections["student/image/embedding"].weight for label in objective.labels)
    assert not torch.equal(first, second)


def test_another_packages_projection_needs_no_generator_of_ours(models, views, embedding_term, monkeypatch):
    monkeypatch.setattr(PROJECTIONS, "_entries", dict(PROJECTIONS._entries))

    @PROJECTIONS.register("noisy")
    def noisy(in_dim, out_dim, *, scale: float = 1.0):
        layer = nn.Linear(in_dim, out_dim)
        nn.init.normal_(layer.weight, std=scale)
        return layer

    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        objective = Objective.build([embedding_term(projection={"name": "noisy", "scale": 3})], models, views)
        states.append(objective.state_dict())
    assert all(
        torch.equal(a, b) for one, two in pairwise(states) for a, b in zip(one.values(), two.values(), strict=True)
    )


def test_a_projection_that_cannot_be_made_is_a_mistake_of_its_own_key(models, views, embedding_term):
    found = mistakes([embedding_term(projection={"name": "mlp", "layers": 1})], models, views)
    assert "at least 2 layers" in found["objective.0.projection"]


def test_errors_of_the_students_own_code_are_not_swallowed(models, views, embedding_term):
    def broken(inputs, taps):
        raise ZeroDivisionError("a bug")

    models["student"].compute = broken
    with pytest.raises(ZeroDivisionError, match="a bug"):
        Objective.build([embedding_term()], models, views)
