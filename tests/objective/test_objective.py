"""The objective at work: values, gradients, weights, masks, projections and learned scales."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss, normalize

from xmodal.errors import RunError
from xmodal.objective import Objective
from xmodal.recipe import Term

TOKENS = {"student": "image.tokens", "teacher": "text.tokens"}
PLAIN = Term(loss="feature_mse", **TOKENS)
MASKED = Term(loss="feature_cosine", **TOKENS, mask="teacher:text.mask")
CLIP = Term(
    loss="clip_contrastive", student="image.embedding", teacher="text.embedding", logit_scale={"learn": 10, "max": 20}
)


def features(num_rows=5, seed=0, dtype=torch.float32):
    """Features as two models would give them; the teacher's want gradient, to see that none comes."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(num_rows, *shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    mask = torch.rand(num_rows, 3, generator=generator) < 0.6
    return {
        "student": {"image.embedding": random(4), "image.tokens": random(3, 6)},
        "teacher": {"text.embedding": random(4), "text.tokens": random(3, 6), "text.mask": mask.long()},
    }


def test_each_terms_value_is_its_losses_and_the_total_is_weighted():
    objective = Objective([PLAIN, MASKED.model_copy(update={"weight": 0.25}), CLIP.model_copy(update={"weight": 3.0})])
    given = features()
    student, teacher = given["student"], given["teacher"]
    values = objective(given)
    valid = teacher["text.mask"].bool()
    cosines = cosine_similarity(student["image.tokens"], teacher["text.tokens"], dim=-1)
    logits = 10 * normalize(student["image.embedding"], dim=-1) @ normalize(teacher["text.embedding"], dim=-1).T
    wanted = {
        "feature_mse": mse_loss(student["image.tokens"], teacher["text.tokens"]),
        "feature_cosine": (1 - cosines)[valid].mean(),
        "clip_contrastive": (cross_entropy(logits, torch.arange(5)) + cross_entropy(logits.T, torch.arange(5))) / 2,
    }
    assert tuple(values) == objective.labels == tuple(wanted)
    for label in wanted:
        torch.testing.assert_close(values[label], wanted[label])
    total = wanted["feature_mse"] + 0.25 * wanted["feature_cosine"] + 3 * wanted["clip_contrastive"]
    torch.testing.assert_close(objective.total(values), total)


def test_it_says_which_taps_it_wants_of_which_model():
    terms = [MASKED, CLIP, Term(loss="feature_mse", student="image.tokens", teacher="other:text.tokens")]
    terms[1] = terms[1].model_copy(update={"teacher": "clip:text.embedding"})
    terms[0] = terms[0].model_copy(update={"teacher": "clip:text.tokens", "mask": "clip:text.mask"})
    objective = Objective(terms, teachers=("clip", "other"))
    assert objective.taps() == {
        "student": ("image.tokens", "image.embedding"),
        "clip": ("text.tokens", "text.mask", "text.embedding"),
        "other": ("text.tokens",),
    }
    assert objective.mask_taps() == {"clip": ("text.mask",)}


def test_it_is_relational_when_a_term_is():
    assert not Objective([PLAIN, MASKED]).relational
    assert Objective([PLAIN, CLIP]).relational


def test_no_gradient_reaches_the_teacher_and_all_of_the_student_gets_some():
    objective, given = Objective([PLAIN, MASKED, CLIP]), features()
    objective.total(objective(given)).backward()
    assert given["teacher"]["text.embedding"].grad is None
    assert given["teacher"]["text.tokens"].grad is None
    assert all(tensor.grad.abs().sum() > 0 for tensor in given["student"].values())


def test_a_tap_of_the_students_own_can_be_its_teacher():
    term = Term(loss="feature_mse", student="image.shallow", teacher="student:image.deep")
    shallow, deep = (torch.randn(3, 2, requires_grad=True) for _ in range(2))
    Objective([term], teachers=())({"student": {"image.shallow": shallow, "image.deep": deep}})[
        "feature_mse"
    ].backward()
    assert shallow.grad is not None
    assert deep.grad is None


@given(cuts=st.lists(st.integers(1, 11), max_size=4, unique=True), seed=st.integers(0, 99))
def test_parts_of_a_batch_combine_exactly_by_their_counts(cuts, seed):
    objective, whole = Objective([PLAIN, MASKED]), features(12, seed, torch.float64)
    wanted = objective(whole)
    wanted_gradient = torch.autograd.grad(objective.total(wanted), list(whole["student"].values()), allow_unused=True)
    bounds = [0, *sorted(cuts), 12]
    parts = [
        {model: {tap: tensor[start:stop] for tap, tensor in taps.items()} for model, taps in whole.items()}
        for start, stop in pairwise(bounds)
    ]
    counts = [objective.counts(part, len(part["student"]["image.tokens"])) for part in parts]
    total = {label: max(sum(int(count[label]) for count in counts), 1) for label in objective.labels}
    sums = dict.fromkeys(objective.labels, 0.0)
    for part, count in zip(parts, counts, strict=True):
        for label, value in objective(part).items():
            sums[label] = sums[label] + value * count[label] / total[label]
    gradient = torch.autograd.grad(objective.total(sums), list(whole["student"].values()), allow_unused=True)
    for label in objective.labels:
        torch.testing.assert_close(sums[label], wanted[label], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(gradient[1], wanted_gradient[1], rtol=1e-10, atol=1e-14)


def test_counts_are_valid_entries_where_there_is_a_mask_and_rows_elsewhere():
    masks = {"teacher": {"text.mask": torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])}}
    counts = Objective([PLAIN, MASKED, CLIP]).counts(masks, 3)
    assert {label: int(count) for label, count in counts.items()} == {
        "feature_mse": 3,
        "feature_cosine": 3,
        "clip_contrastive": 3,
    }
    assert int(Objective([MASKED]).counts({"teacher": {"text.mask": torch.ones(4, 3)}}, 4)["feature_cosine"]) == 12


def test_a_learned_scale_is_kept_as_a_logarithm_and_passed_exponentiated():
    objective, given = Objective([CLIP]), features()
    assert list(objective.state_dict()) == ["terms.clip_contrastive.learned.logit_scale.log_scale"]
    (scale,) = objective.parameters()
    assert scale.item() == pytest.approx(math.log(10))
    fixed = Objective([CLIP.model_copy(update={}, deep=True)])
    with torch.no_grad():
        next(iter(fixed.parameters())).fill_(math.log(3))
    plain = Objective(
        [Term(loss="clip_contrastive", student="image.embedding", teacher="text.embedding", logit_scale=3)]
    )
    torch.testing.assert_close(fixed(given), plain(given))


def test_a_learned_scale_stays_below_its_maximum_and_can_come_back():
    objective = Objective([CLIP])
    (scale,) = objective.parameters()
    image = torch.eye(4)
    wrong = {"student": {"image.embedding": image}, "teacher": {"text.embedding": image.roll(1, 0)}}
    with torch.no_grad():
        scale.fill_(math.log(1000.0))
    value = objective(wrong)["clip_contrastive"]
    at_most = Objective(
        [Term(loss="clip_contrastive", student="image.embedding", teacher="text.embedding", logit_scale=20)]
    )
    torch.testing.assert_close(value, at_most(wrong)["clip_contrastive"])
    value.backward()
    assert scale.grad > 0, "a scale at its maximum that does harm must be told to fall"
    torch.optim.SGD([scale], 0.1).step()
    assert scale.item() < math.log(20)


def test_two_parts_may_run_before_either_goes_backward():
    objective = Objective([CLIP])
    values = [objective(features(seed=seed))["clip_contrastive"] for seed in (1, 2)]
    sum(values).backward()
    assert next(objective.parameters()).grad.isfinite()


def test_projections_reach_parameters_checkpoint_and_gradient(models, views, embedding_term):
    objective = Objective.build([embedding_term(), embedding_term("feature_mse", projection="mlp")], models, views)
    names = [name for name, _ in objective.named_parameters()]
    assert names == list(objective.state_dict())
    assert names[:2] == [
        f"terms.feature_cosine.projections.student/image/embedding.{part}" for part in ("weight", "bias")
    ]
    objective.total(objective(run(models, views, objective))).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())
    other = Objective.build([embedding_term(), embedding_term("feature_mse", projection="mlp")], models, views, seed=1)
    other.load_state_dict(objective.state_dict())
    models["student"].eval()
    given = run(models, views, objective)
    torch.testing.assert_close(other(given), objective(given))


def run(models, views, objective):
    return {name: models[name](views[name], taps) for name, taps in objective.taps().items()}


def test_the_projected_student_is_what_the_loss_compares(models, views, embedding_term):
    objective = Objective.build([embedding_term("feature_mse")], models, views)
    given = run(models, views, objective)
    layer = objective.terms["feature_mse"].projections["student/image/embedding"]
    projected = given["student"]["image.embedding"] @ layer.weight.T + layer.bias
    torch.testing.assert_close(objective(given)["feature_mse"], mse_loss(projected, given["teacher"]["text.embedding"]))


def test_a_projection_on_the_teachers_side_learns_and_the_teacher_does_not(models, views, embedding_term):
    term = embedding_term("clip_contrastive", logit_scale=5, side="teacher")
    objective = Objective.build([term], models, views)
    given = run(models, views, objective)
    text = given["teacher"]["text.embedding"].detach().requires_grad_()
    given["teacher"]["text.embedding"] = text
    objective.total(objective(given)).backward()
    layer = objective.terms["clip_contrastive"].projections["teacher/text/embedding"]
    assert layer.weight.grad.abs().sum() > 0
    assert text.grad is None


def test_features_from_inference_mode_can_be_projected(models, views, embedding_term):
    term = embedding_term("clip_contrastive", logit_scale=5, side="teacher", projection="mlp")
    objective = Objective.build([term], models, views)
    given = run(models, views, objective)
    with torch.inference_mode():
        given["teacher"] = models["teacher"](views["teacher"], ("text.embedding",))
    objective.total(objective(given)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_meet_projections_in_float32(models, views, embedding_term, dtype):
    objective = Objective.build([embedding_term(), embedding_term("feature_mse")], models, views)
    given = run(models, views, objective)
    halves = {model: {tap: tensor.to(dtype) for tap, tensor in taps.items()} for model, taps in given.items()}
    for label, value in objective(halves).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, objective(given)[label], rtol=0.05, atol=0.01)


def test_a_projection_without_sizes_says_how_to_get_them(embedding_term):
    objective = Objective([embedding_term()])
    with pytest.raises(RunError, match=r"Objective\.build"):
        objective(features())


def test_a_copy_is_independent(models, views, embedding_term):
    objective = Objective.build([embedding_term()], models, views)
    twin = copy.deepcopy(objective)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert next(objective.parameters()).abs().sum() > 0
