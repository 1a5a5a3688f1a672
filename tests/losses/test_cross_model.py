"""CLIP-KD's interactive contrast, gradients and fused features, against open_clip's loss and what autograd says."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from xmodal.errors import LossError
from xmodal.losses.cross_model import _row_gradients, augmented_feature, gradient_matching, interactive_contrastive
from xmodal.losses.state import Fusion

SHAPES = [(7, 5), (2, 3), (4, 9)]


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def four(num, student_dim, teacher_dim=None):
    student = [rows(num, student_dim, seed=seed) for seed in (0, 1)]
    return *student, *(rows(num, teacher_dim or student_dim, seed=seed).detach() for seed in (2, 3))


def scale_of(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def assert_same(ours, theirs, tensors):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for mine, other in zip(torch.autograd.grad(ours, tensors), torch.autograd.grad(theirs, tensors), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)


def fusions(student_dim, teacher_dim):
    torch.manual_seed(0)
    return [Fusion(student_dim, teacher_dim).double() for _ in range(2)]


# interactive_contrastive


@pytest.mark.parametrize("shape", SHAPES)
def test_interactive_contrastive_sets_each_student_row_against_the_teachers_other_modality(shape):
    inputs = four(*shape)
    image, text, other_image, other_text = (normalize(x.detach(), dim=-1).numpy() for x in inputs)
    total = 0.0
    for i in range(shape[0]):
        to_texts = np.array([6.0 * image[i] @ other_text[j] for j in range(shape[0])])
        to_images = np.array([6.0 * text[i] @ other_image[j] for j in range(shape[0])])
        total += scipy.special.logsumexp(to_texts) - to_texts[i] + scipy.special.logsumexp(to_images) - to_images[i]
    ours = interactive_contrastive(*inputs, logit_scale=6.0)
    assert ours.item() == pytest.approx(total / 2 / shape[0], rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_interactive_contrastive_is_that_of_two_classifications(shape):
    inputs, scale = four(*shape), scale_of(14.3)
    image, text, other_image, other_text = (normalize(x, dim=-1) for x in inputs)
    own = torch.arange(shape[0])
    theirs = cross_entropy(scale * image @ other_text.T, own) / 2 + cross_entropy(scale * text @ other_image.T, own) / 2
    assert_same(interactive_contrastive(*inputs, logit_scale=scale), theirs, [*inputs[:2], scale])


def test_a_teacher_against_itself_pays_its_own_contrastive_loss(open_clip_loss):
    teacher = [rows(6, 4, seed=seed).detach() for seed in (2, 3)]
    ours = interactive_contrastive(*teacher, *teacher, logit_scale=9.0)
    theirs = open_clip_loss.ClipLoss()(*(normalize(x, dim=-1) for x in teacher), 9.0)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert ours.item() > 0


# gradient_matching


def pulls(image, text, scale):
    """Gradients of one-way contrastive losses by rows that are normalised and held free: autograd's."""
    found = []
    for anchors, keys in ((image, text), (text, image)):
        loss = cross_entropy(scale * anchors @ keys.T, torch.arange(len(anchors)))
        found += torch.autograd.grad(loss, [anchors, keys], create_graph=True)
    return found


def matched_gradients(inputs, student_scale, teacher_scale):
    student = [normalize(x, dim=-1) for x in inputs[:2]]
    teacher = [normalize(x, dim=-1).requires_grad_() for x in inputs[2:]]
    num = len(inputs[0])
    total = 0.0
    for ours, theirs in zip(pulls(*student, student_scale), pulls(*teacher, teacher_scale), strict=True):
        total = total + (ours - theirs.detach()).square().sum(-1).mean() * num**2
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_matching_compares_the_gradients_that_autograd_gives(shape):
    inputs, scale = four(*shape), scale_of(4.0)
    ours = gradient_matching(*inputs, student_scale=scale, teacher_scale=7.0)
    # and autograd once more, through those gradients: what the student's probabilities change is part of it
    assert_same(ours, matched_gradients(inputs, scale, 7.0), [*inputs[:2], scale])


def test_the_two_ways_make_up_the_gradient_of_open_clips_loss(open_clip_loss):
    image, text = (normalize(rows(6, 4, seed=seed).detach(), dim=-1).requires_grad_() for seed in (0, 1))
    theirs = torch.autograd.grad(open_clip_loss.ClipLoss()(image, text, 8.0), [image, text])
    image_anchor, image_key, text_anchor, text_key = (g / 6 for g in _row_gradients(image, text, 8.0, None))
    torch.testing.assert_close((image_anchor + image_key) / 2, theirs[0], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close((text_anchor + text_key) / 2, theirs[1], rtol=1e-10, atol=1e-14)


def test_gradient_matching_by_hand():
    """Loops over rows, in numpy, as the formula is written."""
    inputs = four(5, 3)
    per_model = []
    for image, text, scale in ((*inputs[:2], 3.0), (*inputs[2:], 5.0)):
        x, y = (normalize(z.detach(), dim=-1).numpy() for z in (image, text))
        gradients = []
        for anchors, keys in ((x, y), (y, x)):
            by_anchor, by_key = np.zeros((5, 3)), np.zeros((5, 3))
            for i in range(5):
                probability = scipy.special.softmax(scale * keys @ anchors[i])
                for j in range(5):
                    error = probability[j] - (i == j)
                    by_anchor[i] += scale * error * keys[j] / 5
                    by_key[j] += scale * error * anchors[i] / 5
            gradients += [by_anchor, by_key]
        per_model.append(gradients)
    wanted = sum(5 * ((s - t) ** 2).sum() for s, t in zip(*per_model, strict=True))  # mean over 5 rows, times 5²
    ours = gradient_matching(*inputs, student_scale=3.0, teacher_scale=5.0)
    assert ours.item() == pytest.approx(wanted, rel=1e-12)


def test_clip_kds_own_figure_has_no_batch_size_and_averages_over_the_width():
    inputs = four(6, 4)
    ours = gradient_matching(*inputs, student_scale=3.0, teacher_scale=5.0)
    student, teacher = ([normalize(x, dim=-1).requires_grad_() for x in pair] for pair in (inputs[:2], inputs[2:]))
    # There, cosines are divided by what its caller passes, the scale: our scales are the inverse of its.
    theirs = sum(
        nn.functional.mse_loss(s, t)
        for s, t in zip(pulls(*student, 1 / (1 / 3.0)), pulls(*teacher, 1 / (1 / 5.0)), strict=True)
    )
    assert ours.item() == pytest.approx(theirs.item() * 4 * 6**2, rel=1e-10)


def test_gradient_matching_sees_no_difference_in_a_batch_of_one():
    inputs = four(1, 4)
    value = gradient_matching(*inputs, student_scale=3.0, teacher_scale=5.0)
    assert value.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, inputs[:2]))


def test_gradient_matching_tells_scales_apart():
    image, text = rows(5, 3).detach(), rows(5, 3, seed=1).detach()
    assert gradient_matching(image, text, image, text, student_scale=5.0, teacher_scale=5.0).item() == 0
    assert gradient_matching(image, text, image, text, student_scale=5.0, teacher_scale=6.0).item() > 1e-3


# augmented_feature


@pytest.mark.parametrize("shape", SHAPES)
def test_augmented_feature_is_open_clips_loss_on_fused_rows(open_clip_loss, shape):
    num, dim = shape
    inputs, scale = four(num, dim, 6), scale_of(10.0)
    image_fusion, text_fusion = fusions(dim, 6)
    ours = augmented_feature(*inputs, image_fusion=image_fusion, text_fusion=text_fusion, logit_scale=scale)
    image, text, teacher_image, teacher_text = (normalize(x, dim=-1) for x in inputs)
    fused = [
        torch.cat([student, teacher], -1) @ fusion.weight.T + fusion.bias
        for student, teacher, fusion in ((image, teacher_image, image_fusion), (text, teacher_text, text_fusion))
    ]
    theirs = open_clip_loss.ClipLoss()(*(normalize(x, dim=-1) for x in fused), scale)
    trained = [*inputs[:2], scale, *image_fusion.parameters(), *text_fusion.parameters()]
    assert_same(ours, theirs, trained)


def test_any_function_fuses():
    image, text = rows(5, 4), rows(5, 4, seed=1)
    add = lambda pair: pair[:, :4] + pair[:, 4:]  # noqa: E731
    ours = augmented_feature(image, text, image, text, image_fusion=add, text_fusion=add, logit_scale=4.0)
    logits = 4 * normalize(image, dim=-1) @ normalize(text, dim=-1).T
    wanted = (cross_entropy(logits, torch.arange(5)) + cross_entropy(logits.T, torch.arange(5))) / 2
    torch.testing.assert_close(ours, wanted)


def test_fusions_keep_their_precision_and_the_value_that_of_the_rows():
    image_fusion, text_fusion = (fusion.float() for fusion in fusions(4, 3))
    inputs = four(5, 4, 3)
    value = augmented_feature(*inputs, image_fusion=image_fusion, text_fusion=text_fusion, logit_scale=4.0)
    assert value.dtype == torch.float64
    halves = [x.bfloat16() for x in inputs]
    value = augmented_feature(*halves, image_fusion=image_fusion, text_fusion=text_fusion, logit_scale=4.0)
    assert value.dtype == torch.float32


def test_fusions_run_in_full_precision_under_autocast():
    image_fusion, text_fusion = (fusion.float() for fusion in fusions(64, 32))
    inputs = [x.detach().float() for x in four(16, 64, 32)]
    options = {"image_fusion": image_fusion, "text_fusion": text_fusion, "logit_scale": 100.0}
    with torch.autocast("cpu", torch.bfloat16):
        value = augmented_feature(*inputs, **options)
    assert value.item() == augmented_feature(*inputs, **options).item()


def test_a_fusion_that_changes_the_number_of_rows_is_refused(unchecked):
    inputs = four(3, 2)
    with pytest.raises(LossError, match=r"text_fusion must map \[B, D_S \+ D_T\].*given \[3, 4\] it made \[12\]"):
        unchecked(augmented_feature)(
            *inputs, image_fusion=Fusion(2, 2), text_fusion=lambda pair: pair.flatten(), logit_scale=1.0
        )


def test_fusions_to_unlike_widths_are_refused(unchecked):
    with pytest.raises(LossError, match=r"\[3, 2\] and \[3, 5\]"):
        unchecked(augmented_feature)(
            *four(3, 2), image_fusion=Fusion(2, 2), text_fusion=lambda x: x.repeat(1, 2)[:, :5], logit_scale=1.0
        )


# all three

LOSSES = {
    "interactive": partial(interactive_contrastive, logit_scale=5.0),
    "gradient": partial(gradient_matching, student_scale=5.0, teacher_scale=7.0),
    "augmented": partial(
        augmented_feature,
        image_fusion=lambda pair: pair[:, :3] + 2 * pair[:, 3:],
        text_fusion=lambda pair: pair[:, 3:],
        logit_scale=5.0,
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@given(lengths=st.lists(st.floats(1e-3, 1e3), min_size=20, max_size=20), order=st.permutations(range(5)))
def test_neither_lengths_of_rows_nor_the_order_of_samples_matter(loss, lengths, order):
    inputs = [x.detach() for x in four(5, 3)]
    stretched = [
        (x * length[:, None])[order]
        for x, length in zip(inputs, torch.tensor(lengths, dtype=torch.float64).reshape(4, 5), strict=True)
    ]
    torch.testing.assert_close(loss(*stretched), loss(*inputs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_scale_of_ten_thousand_and_opposed_rows_stay_finite(loss):
    image = torch.eye(3, dtype=torch.float32).requires_grad_()
    text = (-1e4 * torch.eye(3)).requires_grad_()
    value = loss(image, text, text.detach(), image.detach())
    assert value.isfinite()
    assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(value, [image, text], allow_unused=True))


@pytest.mark.parametrize("name", ["interactive", "gradient"])
def test_a_teacher_of_another_width_is_refused(unchecked, name):
    with pytest.raises(LossError, match=r"equally wide; given \[3, 2\] and \[3, 4\]"):
        unchecked(LOSSES[name].func)(*four(3, 2, 4), **LOSSES[name].keywords)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_teacher_with_other_rows_is_refused(unchecked, loss):
    with pytest.raises(LossError, match=r"must be \[3, D\] both"):
        unchecked(loss.func)(*torch.zeros(2, 3, 3), *torch.zeros(2, 6, 3), **loss.keywords)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_not_above_zero_is_refused(unchecked, scale):
    inputs = four(3, 2)
    with pytest.raises(LossError, match="logit_scale must be a number above 0"):
        unchecked(interactive_contrastive)(*inputs, logit_scale=scale)
    with pytest.raises(LossError, match="teacher_scale must be a number above 0"):
        unchecked(gradient_matching)(*inputs, student_scale=1.0, teacher_scale=scale)
