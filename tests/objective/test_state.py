"""What terms learn and keep beside projections: memory banks, fusions, running statistics, scales and biases."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from xmodal.errors import RecipeError, RunError
from xmodal.losses import LOSSES, loss
from xmodal.objective import Objective, check_terms
from xmodal.recipe import Term

FUSED = {
    "loss": "augmented_feature",
    "student": ["image.embedding", "image.embedding"],
    "teacher": ["text.embedding", "text.embedding"],
    "logit_scale": {"learn": 5},
}
SIGMOID = {"loss": "siglip", "student": ["image.embedding", "text.embedding"], "logit_scale": 10}
TOKENS = {"loss": "feature_mse", "student": "image.tokens", "teacher": "text.tokens"}


@pytest.fixture
def contrast(embedding_term):
    return embedding_term("contrastive_representation", bank=8)


def run(models, views, objective):
    return {name: models[name](views[name], taps) for name, taps in objective.taps().items()}


def wrong(term, teachers=("teacher",)):
    return {mistake.path: mistake.message for mistake in check_terms([Term(**term)], teachers)[1]}


# memory banks


def test_a_bank_holds_nothing_of_the_dry_run_and_is_as_wide_as_the_teacher(models, views, contrast):
    bank = Objective.build([contrast], models, views).terms["contrastive_representation"].bank
    assert bank.rows.shape == (8, 4)
    assert not bank.rows.any()
    assert bank.next_row == 0


def test_a_step_compares_with_the_rows_of_steps_before_and_then_leaves_its_own(models, views, contrast):
    objective = Objective.build([contrast], models, views)
    term = objective.terms["contrastive_representation"]
    given = run(models, views, objective)
    (layer,) = term.projections.values()
    student, teacher = layer(given["student"]["image.embedding"]), given["teacher"]["text.embedding"]
    formula = LOSSES["contrastive_representation"].function
    first, before = objective(given)["contrastive_representation"], torch.zeros(8, 4)
    torch.testing.assert_close(first, formula(student, teacher, bank=before))
    assert not term.bank.rows.any()  # not before the backward pass, which may need the bank as it was
    first.backward()
    objective.settle()
    torch.testing.assert_close(term.bank.rows[:5], teacher)
    before = term.bank.rows.clone()
    second = objective(given)["contrastive_representation"]
    torch.testing.assert_close(second, formula(student, teacher, bank=before))
    assert second > first


def test_a_step_that_is_not_taken_leaves_no_row_and_its_end_comes_once(models, views, contrast):
    objective = Objective.build([contrast], models, views)
    bank = objective.terms["contrastive_representation"].bank
    given = run(models, views, objective)
    objective(given)
    objective.settle(taken=False)
    objective.settle()
    assert bank.next_row == 0
    objective(given)
    objective.settle()
    objective.settle()
    assert bank.next_row == 5


def test_a_bank_is_left_alone_in_eval_mode_and_is_in_the_checkpoint(models, views, contrast):
    objective = Objective.build([contrast], models, views)
    given = run(models, views, objective)
    objective.eval()(given)
    objective.settle()
    assert not objective.terms["contrastive_representation"].bank.rows.any()
    objective.train()(given)
    objective.settle()
    assert objective.terms["contrastive_representation"].bank.rows.any()
    other = Objective.build([contrast], models, views)
    other.load_state_dict(objective.state_dict())
    torch.testing.assert_close(other(given), objective(given), rtol=0, atol=0)


@pytest.mark.parametrize("bank", [0, -3, 2.5, True, "many", {"learn": 3}, [4]])
def test_a_bank_that_is_no_positive_whole_number_is_refused(bank):
    term = {"loss": "contrastive_representation", "student": "image.embedding", "teacher": "text.embedding"}
    found = wrong({**term, "bank": bank})
    assert list(found) == ["objective.0.bank"]
    assert "expected a whole number, at least 1" in found["objective.0.bank"]
    assert "Nearest: objective.0.bank" in wrong({**term, "bnak": 8})["objective.0.bnak"]
    assert "no such option" in wrong({**TOKENS, "bank": 8})["objective.0.bank"]


# fusions


def test_fusions_are_made_for_the_widths_of_both_sides_alike_whatever_the_generators_say(models, views):
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        objective = Objective.build([Term(**FUSED)], models, views)
        states.append(objective.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    fusions = objective.terms["augmented_feature"].fusions
    assert {name: tuple(fusion.weight.shape) for name, fusion in fusions.items()} == {
        "image_fusion": (8, 12),
        "text_fusion": (8, 12),
    }
    assert not torch.equal(fusions["image_fusion"].weight, fusions["text_fusion"].weight)
    other = Objective.build([Term(**FUSED)], models, views, seed=1).terms["augmented_feature"].fusions
    assert not torch.equal(fusions["image_fusion"].weight, other["image_fusion"].weight)


def test_fusions_are_trained(models, views):
    objective = Objective.build([Term(**FUSED)], models, views)
    objective.total(objective(run(models, views, objective))).backward()
    assert len(list(objective.parameters())) == 5
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())


def test_fusions_are_no_option():
    assert "leave it out" in wrong({**FUSED, "image_fusion": "linear"})["objective.0.image_fusion"]


def test_what_no_recipe_can_hold_is_told(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))

    @loss(kind="per_item")
    def with_critic(student: Tensor, teacher: Tensor, *, critic: Callable[[Tensor], Tensor]) -> Tensor:
        return critic(student).mean()

    term = {"loss": "with_critic", "student": "image.embedding", "teacher": "text.embedding"}
    for more in ({}, {"critic": "linear"}):
        assert "takes it as an object, which a recipe cannot hold" in wrong({**term, **more})["objective.0.critic"]


# running statistics


def test_standardised_features_are_what_the_loss_gets_and_the_mask_says_which_count(models, views):
    objective = Objective.build([Term(**TOKENS, mask="teacher:text.mask", standardize=True)], models, views)
    given = run(models, views, objective)
    given["teacher"]["text.tokens"] = 5 * given["teacher"]["text.tokens"] + 3
    objective.observe([given])
    valid = given["teacher"]["text.mask"] == 1
    tokens = given["teacher"]["text.tokens"][valid]
    wanted = (tokens - tokens.mean(0)) / tokens.std(0, correction=0)
    value = objective(given)["feature_mse"]
    torch.testing.assert_close(value, (given["student"]["image.tokens"][valid] - wanted).square().mean())


def test_the_parts_of_a_batch_are_one_batch_for_the_statistics(models, views):
    term = Term(**TOKENS, mask="teacher:text.mask", standardize={"momentum": 0.3})
    states = []
    for bounds in ([0, 5], [0, 1, 4, 5]):
        objective = Objective.build([term], models, views)
        for factor in (1, 2):
            given = {"teacher": run(models, views, objective)["teacher"]}
            given["teacher"]["text.tokens"] = factor * given["teacher"]["text.tokens"]
            parts = [
                {"teacher": {tap: tensor[start:stop] for tap, tensor in given["teacher"].items()}}
                for start, stop in pairwise(bounds)
            ]
            objective.observe(parts)
        states.append(objective.state_dict())
    torch.testing.assert_close(states[0], states[1])


def test_one_tap_on_both_sides_is_standardised_alike_and_learned_from_once(models, views):
    term = Term(
        loss="soft_contrastive",
        student=["image.embedding", "teacher:text.embedding"],
        teacher=["text.embedding", "text.embedding"],
        student_scale=5,
        teacher_scale=5,
        projection="linear",
        standardize=True,
    )
    objective = Objective.build([term], models, views)
    objective.observe([run(models, views, objective)])
    (standardiser,) = objective.terms["soft_contrastive"].standardisers.values()
    assert standardiser.num_batches == 1


def test_statistics_are_left_alone_by_the_dry_run_and_in_eval_mode(models, views):
    objective = Objective.build([Term(**TOKENS, standardize=True, mask="image.mask")], models, views)
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    assert before["terms.feature_mse.standardisers.teacher/text/tokens.num_batches"] == 0
    objective.eval().observe([run(models, views, objective)])
    objective(run(models, views, objective))
    torch.testing.assert_close(dict(objective.state_dict()), before, rtol=0, atol=0)


def test_the_channels_of_maps_are_standardised(make_encoder):
    maps = {"student": torch.randn(3, 4, 2, 2), "teacher": 7 + 3 * torch.randn(3, 4, 5, 5)}
    models = {name: make_encoder(name, "image", 8) for name in maps}
    for name, model in models.items():
        model.compute = lambda inputs, taps, name=name: dict.fromkeys(taps, maps[name])
    term = Term(loss="gram_matrix", student="image.map", teacher="image.map", standardize=True)
    objective = Objective.build([term], models, {"student": {}, "teacher": {}})
    given = {name: {"image.map": tensor} for name, tensor in maps.items()}
    objective.observe([given])
    teacher = maps["teacher"].movedim(1, -1)
    wanted = (teacher - teacher.mean((0, 1, 2))) / teacher.flatten(0, 2).std(0, correction=0)
    direct = LOSSES["gram_matrix"].function(maps["student"], wanted.movedim(-1, 1))
    torch.testing.assert_close(objective(given)["gram_matrix"], direct, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_standardised_is_refused(models, views):
    own = {**TOKENS, "teacher": "student:image.hidden.2", "standardize": True}
    assert "no tap of a teacher here to standardise" in wrong(own)["objective.0.standardize"]
    term = Term(
        loss="layer_graph",
        student=["image.tokens", "image.hidden.1"],
        teacher=["text.tokens", "text.hidden.1"],
        standardize=True,
    )
    with pytest.raises(RecipeError, match="teacher_layers of layer_graph has no axis of features"):
        Objective.build([term], models, views)


# scales and biases


def test_a_bias_is_learned_as_it_is_and_a_scale_as_its_logarithm():
    term = Term(**{**SIGMOID, "logit_scale": {"learn": 10, "max": 20}, "logit_bias": {"learn": -10}})
    objective = Objective([term], teachers=())
    state = objective.state_dict()
    assert list(state) == [f"terms.siglip.learned.logit_{name}" for name in ("scale.log_scale", "bias.bias")]
    assert [value.item() for value in state.values()] == pytest.approx([math.log(10), -10])
    rows = {"student": {name: torch.randn(4, 3, requires_grad=True) for name in ("image.embedding", "text.embedding")}}
    value = objective(rows)["siglip"]
    direct = LOSSES["siglip"].function(*rows["student"].values(), logit_scale=10.0, logit_bias=-10.0)
    torch.testing.assert_close(value, direct)
    value.backward()
    assert all(parameter.grad != 0 for parameter in objective.parameters())


@pytest.mark.parametrize(
    ("bias", "path", "message"),
    [
        ({"learn": -10, "max": 3}, ".max", "a learned bias takes learn, its first value"),
        ({"learn": "low"}, ".learn", "expected a number"),
        ({"learn": float("inf")}, ".learn", "expected a number; given inf"),
        ("low", "", "expected a number or {learn: NUMBER}; given the text 'low'"),
    ],
)
def test_a_bias_that_cannot_be_learned_is_refused(bias, path, message):
    found = wrong({**SIGMOID, "logit_bias": bias}, teachers=())
    assert list(found) == [f"objective.0.logit_bias{path}"]
    assert message in found[f"objective.0.logit_bias{path}"]


def test_a_teachers_bias_cannot_be_learned():
    term = {
        "loss": "soft_sigmoid",
        "student": ["image.embedding", "text.embedding"],
        "teacher": ["image.embedding", "text.embedding"],
        "student_scale": {"learn": 10},
        "student_bias": {"learn": -10},
        "teacher_scale": 10,
        "teacher_bias": {"learn": -10},
    }
    found = wrong(term)
    assert list(found) == ["objective.0.teacher_bias"]
    assert "cannot learn" in found["objective.0.teacher_bias"]


# all of it


def test_what_needs_widths_says_how_to_get_them(contrast):
    for term in (contrast.model_copy(update={"projection": None}), Term(**FUSED), Term(**TOKENS, standardize=True)):
        with pytest.raises(RunError, match=r"Objective\.build"):
            Objective([term])({})


def test_a_projection_has_a_learning_rate_of_its_own(models, views, embedding_term):
    slow = embedding_term(projection={"name": "mlp", "layers": 3, "learning_rate_factor": 0.1})
    objective = Objective.build([slow, embedding_term("feature_mse")], models, views)
    factors = objective.learning_rate_factors()
    assert set(factors.values()) == {0.1}
    assert {id(p) for p in factors} == {id(p) for p in objective.terms["feature_cosine"].projections.parameters()}
    assert "learning_rate_factor" not in objective.terms["feature_cosine"].checked.projection_options
