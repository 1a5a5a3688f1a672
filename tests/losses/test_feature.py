"""Losses on features against torch's own functions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from xmodal.errors import LossError
from xmodal.losses.feature import feature_cosine, feature_cosine_smooth_l1, feature_mse, feature_smooth_l1


@pytest.fixture(params=[(8, 5), (2, 4, 5)], ids=str)
def features(request):
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, *request.param, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def check_against(ours, theirs, student):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    ours_grad, theirs_grad = (torch.autograd.grad(value, student)[0] for value in (ours, theirs))
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-9, atol=1e-14)


def test_feature_mse_is_torchs_mean_squared_error(features):
    student, teacher = features
    check_against(feature_mse(student, teacher), functional.mse_loss(student, teacher), student)


def test_normalized_feature_mse_is_two_minus_two_cosines(features):
    student, teacher = features
    theirs = (2 - 2 * functional.cosine_similarity(student, teacher, dim=-1)).mean()
    check_against(feature_mse(student, teacher, normalize=True), theirs, student)


def test_feature_cosine_is_torchs_cosine_embedding_loss(features):
    student, teacher = features
    rows, target = student.reshape(-1, 5), torch.ones(8)
    theirs = functional.cosine_embedding_loss(rows, teacher.reshape(-1, 5), target)
    check_against(feature_cosine(student, teacher), theirs, student)


def test_width_does_not_scale_the_normalized_loss():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    narrow, wide = (feature_mse(student.repeat(1, n), teacher.repeat(1, n), normalize=True) for n in (1, 7))
    torch.testing.assert_close(narrow, wide)


def test_length_is_free_under_the_cosine():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(feature_cosine(3 * student, teacher), feature_cosine(student, 0.1 * teacher))


def test_directions_that_nearly_agree_are_told_apart_in_float32():
    teacher = torch.nn.functional.normalize(torch.randn(16, 512), dim=-1)
    student = teacher + 1e-6 * torch.randn(16, 512)
    wanted = feature_cosine(student.double(), teacher.double())
    assert wanted > 0
    torch.testing.assert_close(feature_cosine(student, teacher).double(), wanted, rtol=0.02, atol=0)


@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_a_row_of_zeros_counts_as_cosine_zero_and_gets_no_gradient(which):
    student, teacher = torch.randn(2, 2, 3, dtype=torch.float64)
    if which in ("student", "both"):
        student[0] = 0
    if which in ("teacher", "both"):
        teacher[0] = 0
    student.requires_grad_()
    value = feature_cosine(student, teacher)
    other = 1 - functional.cosine_similarity(student[1], teacher[1], dim=0)
    torch.testing.assert_close(value, (1 + other) / 2)
    (gradient,) = torch.autograd.grad(value, student)
    assert (gradient[0] == 0).all()
    assert gradient[1].abs().sum() > 0


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.5])
def test_feature_smooth_l1_is_torchs(features, beta):
    student, teacher = features
    check_against(
        feature_smooth_l1(student, teacher, beta=beta), functional.smooth_l1_loss(student, teacher, beta=beta), student
    )


def test_smooth_l1_is_the_mean_square_over_two_beta_where_differences_are_small(features):
    student, teacher = features
    near = teacher + student.detach() / 100
    torch.testing.assert_close(feature_smooth_l1(near, teacher, beta=3.0), feature_mse(near, teacher) / 6)


def test_an_entry_far_off_pulls_no_harder_than_one_at_beta():
    teacher = torch.zeros(1, 4, dtype=torch.float64)
    student = torch.tensor([[0.5, 1.0, -1000.0, 1e30]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(feature_smooth_l1(student, teacher), student)
    assert (gradient * 4).flatten().tolist() == [0.5, 1.0, -1.0, 1.0]


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (0.5, 0.3), (0.9, 1.0), (1.0, 1.0)])
def test_feature_cosine_smooth_l1_is_torchs_two_losses_mixed(features, alpha, beta):
    student, teacher = features
    flat = student.reshape(-1, 5), teacher.reshape(-1, 5)
    cosine = functional.cosine_embedding_loss(*flat, torch.ones(8))
    length = functional.smooth_l1_loss(*flat, beta=beta)
    ours = feature_cosine_smooth_l1(student, teacher, alpha=alpha, beta=beta)
    check_against(ours, alpha * cosine + (1 - alpha) * length, student)


def test_theias_share_of_the_cosine_is_the_default(features):
    student, teacher = features
    wanted = 0.9 * feature_cosine(student, teacher) + 0.1 * feature_smooth_l1(student, teacher)
    torch.testing.assert_close(feature_cosine_smooth_l1(student, teacher), wanted)


def test_a_row_of_zeros_keeps_its_smooth_l1_beside_a_cosine_of_zero():
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    value = feature_cosine_smooth_l1(student, torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    assert value.item() == pytest.approx(0.9 * 1 + 0.1 * 2.5 / 2)
    assert torch.autograd.grad(value, student)[0].flatten().tolist() == pytest.approx([-0.05, 0])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_no_fraction_is_refused(alpha):
    with pytest.raises(LossError, match="alpha must be a number from 0 to 1"):
        feature_cosine_smooth_l1(torch.zeros(1, 2), torch.zeros(1, 2), alpha=alpha)


@pytest.mark.parametrize("loss", [feature_smooth_l1, feature_cosine_smooth_l1])
def test_a_beta_that_is_not_above_zero_is_refused(loss):
    with pytest.raises(LossError, match="beta must be a number above 0"):
        loss(torch.zeros(1, 2), torch.zeros(1, 2), beta=0.0)
