"""What holds for every registered loss."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from xmodal.errors import LossError
from xmodal.losses import LOSSES


def test_every_registered_loss_has_a_case_here(cases):
    assert {case.name for case in cases} == set(LOSSES)


def leaves(inputs):
    return [x.requires_grad_() for x in inputs]


def test_gradient_agrees_with_finite_differences(case):
    inputs = case.inputs()
    num_student = case.loss.num_student
    student, teacher = leaves(inputs[:num_student]), inputs[num_student:]
    assert torch.autograd.gradcheck(lambda *x: case([*x, *teacher]), student)


def test_no_gradient_reaches_the_teacher(case):
    inputs = leaves(case.inputs())
    gradients = torch.autograd.grad(case(inputs), inputs, allow_unused=True)
    for given, gradient in zip(case.loss.inputs, gradients, strict=True):
        assert (gradient is None) == given.name.startswith("teacher"), given.name


def test_zero_with_no_gradient_where_the_student_says_what_the_teacher_says(case):
    if not case.zero_at_equality:
        return
    inputs = case.equal_inputs()
    same = {name: 7.0 for name in case.options if name.endswith("_scale")}
    student = leaves(inputs[: case.loss.num_student])
    value = case(inputs, **same)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, student):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32(case, dtype):
    halves = leaves(case.inputs(dtype=dtype))
    floats = leaves([x.detach().float() for x in halves])
    value, wanted = case(halves), case(floats)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wanted, rtol=0, atol=0)
    num = case.loss.num_student
    for half, full in zip(
        torch.autograd.grad(value, halves[:num]), torch.autograd.grad(wanted, floats[:num]), strict=True
    ):
        torch.testing.assert_close(half, full.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float64])
def test_inputs_of_unlike_precision_are_taken(case, first):
    mixed = [*case.inputs(dtype=first)[:1], *case.inputs(dtype=torch.float32)[1:]]
    assert case(mixed).dtype == torch.promote_types(first, torch.float32)
    torch.testing.assert_close(case(mixed).double(), case([x.double() for x in mixed]), rtol=1e-5, atol=1e-7)


def test_float64_stays_float64(case):
    assert case(case.inputs()).dtype == torch.float64


def test_autocast_changes_nothing(case):
    inputs = case.inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = case(inputs)
    torch.testing.assert_close(value, case(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["duplicates", "zeros", "all zeros"])
def test_duplicates_and_rows_of_zeros_leave_value_and_gradient_finite(case, kind):
    inputs = case.inputs(dtype=torch.float32)
    for x in inputs:
        if kind == "duplicates":
            x[1] = x[0]
        else:
            x[: 1 if kind == "zeros" else None] = 0
    student = leaves(inputs[: case.loss.num_student])
    value = case(inputs)
    assert value.isfinite()
    for gradient in torch.autograd.grad(value, student):
        assert gradient.abs().max() < 1e3


def test_inputs_stay_as_they_were(case):
    inputs = case.inputs()
    before = [x.clone() for x in inputs]
    case(inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_an_invalid_item_changes_neither_value_nor_gradient(case, rubbish):
    if not case.loss.takes_mask:
        return
    inputs = case.inputs()
    mask = torch.tensor([True, False, True, True, False, True])
    kept = leaves([x[mask] for x in inputs[:1]])
    wanted = case([*kept, *(x[mask] for x in inputs[1:])])
    broken = [torch.where(mask[:, None], x, rubbish) for x in inputs]
    student = leaves(broken[:1])
    value = case(broken, mask=mask)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    (gradient,), (expected,) = torch.autograd.grad(value, student), torch.autograd.grad(wanted, kept)
    torch.testing.assert_close(gradient[mask], expected, rtol=1e-12, atol=1e-16)
    assert (gradient[~mask] == 0).all()


def test_a_mask_over_positions_is_the_mean_over_the_valid_ones(case):
    if not case.loss.takes_mask:
        return
    student, teacher = (x.reshape(2, 3, -1) for x in case.inputs())
    mask = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(case([student, teacher], mask=mask), case([student[mask], teacher[mask]]))


def test_nothing_valid_is_zero_and_teaches_nothing(case):
    if not case.loss.takes_mask:
        return
    inputs = case.inputs()
    student = leaves(inputs[:1])
    value = case(inputs, mask=torch.zeros(6, dtype=torch.bool))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize("mask", [torch.ones(6, 1, dtype=torch.bool), torch.ones(6), torch.ones(5, dtype=torch.bool)])
def test_a_mask_of_another_shape_or_type_is_refused(case, mask, unchecked):
    if case.loss.takes_mask:
        with pytest.raises(LossError, match="mask must be boolean"):
            unchecked(case.loss.function)(*case.inputs(), **case.options, mask=mask)


def test_shapes_that_would_broadcast_are_refused(case, unchecked):
    inputs = case.inputs()
    inputs[-1] = inputs[-1][:1]
    with pytest.raises(LossError):
        unchecked(case.loss.function)(*inputs, **case.options)


def test_annotations_say_the_shapes_and_the_scalar_that_comes_back(case):
    checked = jaxtyped(inspect.unwrap(case.loss.function), typechecker=beartype)
    inputs = case.inputs()
    assert checked(*inputs, **case.options).shape == ()
    wrong = [*inputs[:-1], inputs[-1][:, :-1]]
    with pytest.raises(TypeCheckError):
        checked(*wrong, **case.options)


def test_the_docstring_says_formula_and_an_example_that_holds(case):
    doc = inspect.getdoc(case.loss.function)
    # run here, for doctest does not look into functions that the shape checks have wrapped
    globs = {case.name: case.loss.function}
    example = doctest.DocTestParser().get_doctest(doc, globs, case.name, None, None)
    assert doctest.DocTestRunner().run(example).failed == 0
    assert ".. math::" in doc
    assert ">>>" in doc
    assert "arXiv" in doc
