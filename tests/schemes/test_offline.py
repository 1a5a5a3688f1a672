import copy
import math

import pytest
import torch

from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline, Progress
from xmodal.train.distributed import World

CPU = World(torch.device("cpu"))
EMBEDDING = Term(loss="feature_mse", student="image.embedding", teacher="image.embedding")
TOKENS = Term(loss="feature_mse", student="image.tokens", teacher="image.tokens", mask="image.mask", weight=0.5)


@pytest.fixture
def make_scheme(make_encoder):
    def make(*terms, norm=False, **settings):
        teacher = make_encoder(seed=1, norm=norm).freeze()
        options = {"max_steps": 1, "learning_rate": 0.1, "clip_grad": None, **settings}
        return Offline(make_encoder(norm=norm), {"teacher": teacher}, Objective(terms), Train(**options), CPU)

    return make


def gradients(scheme):
    return {name: parameter.grad.clone() for name, parameter in scheme.trainee.named_parameters()}


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_parts_have_the_gradient_and_terms_of_the_whole_batch(make_scheme, batch, parts):
    """Masked tokens are spread unevenly over the parts, so a mean of the parts' means would be another number."""
    whole, cut = make_scheme(EMBEDDING, TOKENS), make_scheme(EMBEDDING, TOKENS, accumulate=parts)
    in_one, in_parts = whole.step(batch, Progress()), cut.step(batch, Progress())
    torch.testing.assert_close(gradients(cut), gradients(whole), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(in_parts.terms, in_one.terms, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(in_parts.loss, in_one.loss, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_that_of_the_formula_written_out(make_scheme, batch):
    scheme = make_scheme(EMBEDDING)
    student, teacher = scheme.trainee.student, scheme.teachers["teacher"]
    x = batch["views"]["student"]["x"]
    expected = (student.model(x) - teacher.model(x).detach()).pow(2).mean()
    expected.backward()
    by_hand = student.model[0].weight.grad.clone()
    result = scheme.step(batch, Progress(learning_rate_factor=0.0))
    torch.testing.assert_close(student.model[0].weight.grad, by_hand)
    torch.testing.assert_close(result.loss, expected.detach())


def test_the_teacher_is_bit_for_bit_what_it_was(make_scheme, batch):
    scheme = make_scheme(EMBEDDING, norm=True)
    teacher = scheme.teachers["teacher"]
    before = teacher.state_hash()
    for _ in range(3):
        scheme.step(batch, Progress())
    assert teacher.state_hash() == before
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("parts", [1, 2])
def test_masks_are_taken_without_a_step_of_the_students_statistics_or_a_random_number(make_scheme, batch, parts):
    """A student that computes all of itself for its mask, as a model with one output does."""
    scheme = make_scheme(TOKENS, norm=True, accumulate=parts)
    student = scheme.trainee.student
    drawn = []

    def compute(inputs, taps):
        if student.training:
            drawn.append(torch.rand(1))
        student.model(inputs["x"])
        return type(student).compute(student, inputs, taps)

    student.compute = compute
    norm = student.model[1]
    scheme.step(batch, Progress())
    assert norm.num_batches_tracked == parts
    assert len(drawn) == parts
    assert all(module.training for module in student.modules())


def test_learning_goes_down_hill(make_scheme, batch):
    scheme = make_scheme(EMBEDDING)
    losses = [scheme.step(batch, Progress()).loss.item() for _ in range(200)]
    assert losses[-1] < 0.05 * losses[0]


def test_a_step_that_is_not_finite_names_its_term_and_changes_nothing(make_scheme, batch):
    scheme = make_scheme(EMBEDDING, Term(**{**EMBEDDING.model_dump(), "label": "second"}), norm=True, ema=0.9)
    scheme.step(batch, Progress())
    before = {name: tensor.clone() for name, tensor in scheme.trainee.state_dict().items()}
    average = scheme.average.state_hash()
    batch["views"]["student"] = {**batch["views"]["student"], "x": torch.full((8, 4), math.nan)}
    result = scheme.step(batch, Progress())
    assert result.skipped == ("feature_mse", "second")
    torch.testing.assert_close(dict(scheme.trainee.state_dict()), before, rtol=0, atol=0)
    assert scheme.average.state_hash() == average


def test_a_gradient_that_is_not_finite_is_a_skipped_step_too(make_scheme, batch):
    scheme = make_scheme(EMBEDDING)
    scheme.trainee.student.model[0].weight.register_hook(lambda gradient: gradient * math.inf)
    before = scheme.trainee.student.state_hash()
    assert scheme.step(batch, Progress()).skipped == ("gradient",)
    assert scheme.trainee.student.state_hash() == before


def test_in_float16_a_gradient_that_overflows_is_a_skipped_step_like_any_other(make_scheme, batch):
    scheme = make_scheme(EMBEDDING, norm=True, ema=0.9, precision="float16")
    scheme.step(batch, Progress())
    handle = scheme.trainee.student.model[0].weight.register_hook(lambda gradient: gradient * math.inf)
    before = {name: tensor.clone() for name, tensor in scheme.trainee.state_dict().items()}
    average, scale, taken = scheme.average.state_hash(), scheme.scaler.get_scale(), scheme.steps_taken
    assert scheme.step(batch, Progress()).skipped == ("gradient",)
    torch.testing.assert_close(dict(scheme.trainee.state_dict()), before, rtol=0, atol=0)
    assert (scheme.average.state_hash(), scheme.steps_taken) == (average, taken)
    assert scheme.scaler.get_scale() == scale / 2
    handle.remove()
    assert scheme.step(batch, Progress()).skipped == ()


def test_gradients_are_clipped_to_the_global_norm(make_scheme, batch):
    scheme = make_scheme(EMBEDDING, clip_grad=1e-3)
    result = scheme.step(batch, Progress())
    norm = torch.cat([gradient.flatten() for gradient in gradients(scheme).values()]).norm()
    assert result.grad_norm > 1e-3
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_the_average_is_what_is_evaluated_and_exported(make_scheme, batch):
    scheme = make_scheme(EMBEDDING, ema=0.99)
    for _ in range(3):
        scheme.step(batch, Progress())
    assert scheme.students["student"] is scheme.average
    assert scheme.average.state_hash() != scheme.trainee.student.state_hash()


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"accumulate": 2}])
def test_a_scheme_restored_from_its_state_goes_on_bit_for_bit(make_scheme, batch, settings):
    first = make_scheme(EMBEDDING, TOKENS, norm=True, **settings)
    for _ in range(2):
        first.step(batch, Progress())
    second = make_scheme(EMBEDDING, TOKENS, norm=True, **settings)
    second.load_state_dict(
        copy.deepcopy(first.state_dict())
    )  # as from disk: an optimizer keeps the tensors it is given
    for scheme in (first, second):
        scheme.step(batch, Progress(learning_rate_factor=0.5))
    torch.testing.assert_close(second.trainee.state_dict(), first.trainee.state_dict(), rtol=0, atol=0)
    assert second.students["student"].state_hash() == first.students["student"].state_hash()


def test_bfloat16_runs_the_models_and_leaves_losses_and_weights_in_float32(make_scheme, batch):
    scheme = make_scheme(EMBEDDING, precision="bfloat16")
    result = scheme.step(batch, Progress())
    assert result.loss.dtype == torch.float32
    assert scheme.trainee.student.model[0].weight.dtype == torch.float32
    exact = make_scheme(EMBEDDING).step(batch, Progress()).loss
    assert result.loss != exact
    torch.testing.assert_close(result.loss, exact, rtol=0.05, atol=0.05)
