"""feature_mse and feature_cosine against torch's own functions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from xmodal.losses import feature_cosine, feature_mse


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
