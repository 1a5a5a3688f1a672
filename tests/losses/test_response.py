"""kl_divergence against scipy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses import kl_divergence


@pytest.fixture(params=[(7, 11), (2, 3, 11), (11,)], ids=str)
def logits(request):
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(request.param, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_divergence_is_hintons(temperature, logits):
    student, teacher = logits
    p, q = (scipy.special.softmax(z.numpy() / temperature, -1) for z in (teacher, student))
    wanted = temperature**2 * scipy.special.rel_entr(p, q).sum(-1).mean()
    assert kl_divergence(student, teacher, temperature=temperature).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_is_the_difference_of_the_softened_distributions(temperature, logits):
    student, teacher = logits
    student.requires_grad_()
    kl_divergence(student, teacher, temperature=temperature).backward()
    p, q = (scipy.special.softmax(z.detach().numpy() / temperature, -1) for z in (teacher, student))
    np.testing.assert_allclose(student.grad, temperature * (q - p) / max(1, p[..., 0].size), rtol=1e-9, atol=1e-15)


def test_a_row_weighs_the_same_in_two_dimensions_as_torchs_batchmean():
    student, teacher = torch.randn(2, 9, 1000, dtype=torch.float64)
    wanted = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(kl_divergence(student, teacher), wanted)


def test_length_does_not_scale_the_loss():
    student, teacher = torch.randn(2, 4, 1, 6, dtype=torch.float64)
    once, tenfold = (kl_divergence(student.repeat(1, n, 1), teacher.repeat(1, n, 1)) for n in (1, 10))
    torch.testing.assert_close(once, tenfold)


def test_logits_of_a_thousand_neither_overflow_nor_vanish():
    student = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    value = kl_divergence(student, torch.tensor([[0.0, 1000.0, 0.0]]))
    assert value.item() == pytest.approx(1000)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0]]))


def test_a_word_that_is_ruled_out_on_both_sides_adds_nothing():
    some = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    other = torch.tensor([[1.3, 0.0, -2.0]], dtype=torch.float64)
    out = torch.full((1, 2), -torch.inf, dtype=torch.float64)
    student = torch.cat([some, out], -1).requires_grad_()
    value = kl_divergence(student, torch.cat([other, out], -1))
    torch.testing.assert_close(value, kl_divergence(some, other))
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.isfinite().all()
    assert (gradient[:, 3:] == 0).all()


def test_a_word_that_only_the_teacher_rules_out_leaves_a_finite_loss():
    teacher = torch.tensor([[0.0, 1.0, -torch.inf]], dtype=torch.float64)
    student = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64)
    p, q = (scipy.special.softmax(z.numpy(), -1) for z in (teacher, student))
    assert kl_divergence(student, teacher).item() == pytest.approx(scipy.special.rel_entr(p, q).sum(), rel=1e-12)


def test_half_precision_is_as_good_as_float32_on_the_same_logits():
    student, teacher = (4 * torch.randn(64, 512)).bfloat16(), (4 * torch.randn(64, 512)).bfloat16()
    near = teacher + 0.03 * student
    wanted = kl_divergence(near.double(), teacher.double())
    torch.testing.assert_close(kl_divergence(near, teacher).double(), wanted, rtol=1e-3, atol=0)


@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50), temperature=st.floats(0.1, 20))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_all_logits_changes_nothing(seed, shift, temperature):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    value = kl_divergence(student, teacher, temperature=temperature)
    assert value >= 0
    torch.testing.assert_close(kl_divergence(student + shift, teacher - shift, temperature=temperature), value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(LossError, match="temperature must be a number above 0"):
        kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)
