"""clip_contrastive and soft_contrastive against open_clip's losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.nn.functional import normalize

from xmodal.errors import LossError
from xmodal.losses import clip_contrastive, soft_contrastive


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def gradients(value, *tensors):
    return torch.autograd.grad(value, tensors)


def test_clip_contrastive_is_open_clips(open_clip_loss):
    image, text = rows(7, 5), rows(7, 5, seed=1)
    scale = torch.tensor(14.3, dtype=torch.float64, requires_grad=True)
    ours = clip_contrastive(image, text, logit_scale=scale)
    theirs = open_clip_loss.ClipLoss()(normalize(image, dim=-1), normalize(text, dim=-1), scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for mine, other in zip(gradients(ours, image, text, scale), gradients(theirs, image, text, scale), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_soft_contrastive_is_open_clips_distillation_minus_the_teachers_entropy(open_clip_loss):
    image, text = rows(7, 5), rows(7, 5, seed=1)
    teacher_image, teacher_text = rows(7, 9, seed=2).detach(), rows(7, 9, seed=3).detach()
    scale = torch.tensor(14.3, dtype=torch.float64, requires_grad=True)
    ours = soft_contrastive(image, text, teacher_image, teacher_text, student_scale=scale, teacher_scale=20.0)
    units = [normalize(x, dim=-1) for x in (image, text, teacher_image, teacher_text)]
    _, theirs = open_clip_loss.DistillClipLoss()(*units[:2], scale, *units[2:], 20.0)
    logits = 20 * (units[2] @ units[3].T).numpy()
    entropy = sum(scipy.stats.entropy(scipy.special.softmax(z, -1), axis=-1).mean() for z in (logits, logits.T)) / 2
    assert ours.item() == pytest.approx(theirs.item() - entropy, rel=1e-10)
    for mine, other in zip(gradients(ours, image, text, scale), gradients(theirs, image, text, scale), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_several_teachers_give_the_mean_of_their_losses():
    image, text = rows(6, 4), rows(6, 4, seed=1)
    teachers = [(rows(6, width, seed=2).detach(), rows(6, width, seed=3).detach()) for width in (3, 8)]
    images, texts = zip(*teachers, strict=True)
    both = soft_contrastive(image, text, images, texts, student_scale=5.0, teacher_scale=[10.0, 30.0])
    each = [
        soft_contrastive(image, text, *teacher, student_scale=5.0, teacher_scale=scale)
        for teacher, scale in zip(teachers, (10.0, 30.0), strict=True)
    ]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


def test_gradient_of_several_teachers_is_that_of_their_mean_distribution():
    image, text = rows(5, 4), rows(5, 4, seed=1)
    images, texts = ([rows(5, 3, seed=seed + k).detach() for k in range(3)] for seed in (10, 20))
    ours = soft_contrastive(image, text, images, texts, student_scale=5.0, teacher_scale=10.0)
    similarities = [10 * normalize(x, dim=-1) @ normalize(y, dim=-1).T for x, y in zip(images, texts, strict=True)]
    student = 5 * normalize(image, dim=-1) @ normalize(text, dim=-1).T
    wanted = 0.0
    for way in (lambda z: z, lambda z: z.T):
        mean = torch.stack([way(z).softmax(-1) for z in similarities]).mean(0)
        wanted = wanted + torch.nn.functional.cross_entropy(way(student), mean) / 2
    for mine, other in zip(gradients(ours, image, text), gradients(wanted, image, text), strict=True):
        torch.testing.assert_close(mine, other)


def test_one_scale_serves_all_teachers_but_counts_must_agree(unchecked):
    x = rows(3, 2).detach()
    loss = unchecked(soft_contrastive)
    loss(x, x, [x, x], [x, x], student_scale=1.0, teacher_scale=2.0)
    with pytest.raises(LossError, match="2 images, 1 texts, 2 scales"):
        loss(x, x, [x, x], [x], student_scale=1.0, teacher_scale=2.0)


def test_rows_that_tell_nothing_cost_ln_b():
    same = torch.ones(8, 4, dtype=torch.float64)
    assert clip_contrastive(same, same, logit_scale=50.0).item() == pytest.approx(math.log(8))


def test_order_of_the_samples_does_not_matter():
    inputs = [rows(7, 5, seed=seed).detach() for seed in range(4)]
    order = torch.randperm(7)
    value = soft_contrastive(*inputs, student_scale=5.0, teacher_scale=9.0)
    again = soft_contrastive(*(x[order] for x in inputs), student_scale=5.0, teacher_scale=9.0)
    torch.testing.assert_close(value, again)


def test_a_scale_of_ten_thousand_keeps_value_and_gradient_finite():
    image, text = rows(6, 4), rows(6, 4, seed=1)
    value = soft_contrastive(image, text, text.detach(), image.detach(), student_scale=1e4, teacher_scale=1e4)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(value, image, text))


def test_cosines_are_taken_in_full_precision_under_autocast(open_clip_loss):
    image, text = rows(64, 32).float().detach(), rows(64, 32, seed=1).float().detach()
    wanted = open_clip_loss.ClipLoss()(normalize(image.double(), dim=-1), normalize(text.double(), dim=-1), 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = clip_contrastive(image, text, logit_scale=100.0)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value.item(), wanted.item(), rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((3, 2), (4, 2)), ((3, 2), (3, 5)), ((3, 2), (1, 2)), ((2,), (2,)), ((0, 2), (0, 2))]
)
def test_rows_that_are_no_pairs_are_refused(unchecked, shapes):
    with pytest.raises(LossError, match=r"image and text must be \[B, D\]"):
        unchecked(clip_contrastive)(torch.zeros(shapes[0]), torch.zeros(shapes[1]), logit_scale=1.0)


def test_a_teacher_with_other_rows_is_refused(unchecked):
    with pytest.raises(LossError, match=r"\[3, D\]"):
        unchecked(soft_contrastive)(*torch.zeros(2, 3, 2), *torch.zeros(2, 6, 2), student_scale=1.0, teacher_scale=1.0)
