"""What every formula leans on."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from xmodal.losses.numerics import directions, masked_mean, relative_entropy


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1.0, 1e18])
def test_a_direction_does_not_depend_on_the_length_even_where_squares_leave_float32(size):
    row = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    pull = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    x = (row * size).requires_grad_()
    found = directions(x)
    (gradient,) = torch.autograd.grad((found * pull).sum(), x)
    y = row.double().requires_grad_()
    (expected,) = torch.autograd.grad((normalize(y, dim=-1) * pull).sum(), y)
    torch.testing.assert_close(found.double(), normalize(y, dim=-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double() * size, expected, rtol=1e-4, atol=1e-5)


def test_a_row_of_zeros_has_no_direction_and_gets_no_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    assert not directions(x).any()
    assert (torch.autograd.grad(directions(x).sum(), x)[0] == 0).all()


def test_what_the_target_rules_out_adds_nothing_whatever_the_other_says():
    target = torch.tensor([[0.0, -float("inf")]])
    assert relative_entropy(target, torch.tensor([[0.0, -float("inf")]])).item() == 0
    assert relative_entropy(target, torch.tensor([[-1.0, 5.0]])).item() == 1


def test_a_mean_over_nothing_is_zero():
    assert masked_mean(torch.tensor([float("nan")]), torch.tensor([False])).item() == 0
