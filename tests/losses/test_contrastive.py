"""Contrastive losses, dense and in tiles, against open_clip's losses, torch's binary cross-entropy and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from xmodal.errors import LossError
from xmodal.losses import LOSSES, clip_contrastive, siglip, soft_contrastive, soft_sigmoid

pytestmark = pytest.mark.filterwarnings("error")
in_both_forms = pytest.mark.parametrize("tile", [None, 3])


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def number(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def entropy(image, text):
    """Of open_clip's teacher at a scale of 20, the mean over rows and ways."""
    logits = 20 * (image @ text.T).numpy()
    return sum(scipy.stats.entropy(scipy.special.softmax(z, -1), axis=-1).mean() for z in (logits, logits.T)) / 2


def gradients(value, *tensors):
    return torch.autograd.grad(value, tensors)


def assert_same_value_and_gradients(ours, theirs, *tensors):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for mine, other in zip(gradients(ours, *tensors), gradients(theirs, *tensors), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@in_both_forms
def test_clip_contrastive_is_open_clips(open_clip_loss, tile):
    image, text, scale = rows(7, 5), rows(7, 5, seed=1), number(14.3)
    ours = clip_contrastive(image, text, logit_scale=scale, tile=tile)
    theirs = open_clip_loss.ClipLoss()(normalize(image, dim=-1), normalize(text, dim=-1), scale)
    assert_same_value_and_gradients(ours, theirs, image, text, scale)


@in_both_forms
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (3.0, 1.0), (100.0, -20.0)])
def test_siglip_is_open_clips(open_clip_loss, scale, bias, tile):
    image, text, scale, bias = rows(7, 5), rows(7, 5, seed=1), number(scale), number(bias)
    ours = siglip(image, text, logit_scale=scale, logit_bias=bias, tile=tile)
    theirs = open_clip_loss.SigLipLoss()(normalize(image, dim=-1), normalize(text, dim=-1), scale, bias)
    assert_same_value_and_gradients(ours, theirs, image, text, scale, bias)


@in_both_forms
def test_soft_contrastive_is_open_clips_distillation_minus_the_teachers_entropy(open_clip_loss, tile):
    image, text, scale = rows(7, 5), rows(7, 5, seed=1), number(14.3)
    teacher_image, teacher_text = rows(7, 9, seed=2).detach(), rows(7, 9, seed=3).detach()
    scales = {"student_scale": scale, "teacher_scale": 20.0}
    ours = soft_contrastive(image, text, teacher_image, teacher_text, **scales, tile=tile)
    units = [normalize(x, dim=-1) for x in (image, text, teacher_image, teacher_text)]
    _, theirs = open_clip_loss.DistillClipLoss()(*units[:2], scale, *units[2:], 20.0)
    assert_same_value_and_gradients(ours, theirs - entropy(*units[2:]), image, text, scale)


@in_both_forms
@pytest.mark.parametrize("hard_weight", [0.25, 1.0])
def test_a_hard_weight_mixes_open_clips_two_parts(open_clip_loss, hard_weight, tile):
    image, text, scale = rows(7, 5), rows(7, 5, seed=1), number(14.3)
    teacher = [rows(7, 9, seed=2).detach(), rows(7, 9, seed=3).detach()]
    scales = {"student_scale": scale, "teacher_scale": 20.0}
    ours = soft_contrastive(image, text, *teacher, **scales, hard_weight=hard_weight, tile=tile)
    units = [normalize(x, dim=-1) for x in (image, text, *teacher)]
    hard, soft = open_clip_loss.DistillClipLoss()(*units[:2], scale, *units[2:], 20.0)
    theirs = hard_weight * hard + (1 - hard_weight) * (soft - entropy(*units[2:]))
    assert_same_value_and_gradients(ours, theirs, image, text, scale)


@in_both_forms
def test_several_teachers_give_the_mean_of_their_losses(tile):
    image, text = rows(6, 4), rows(6, 4, seed=1)
    teachers = [(rows(6, width, seed=2).detach(), rows(6, width, seed=3).detach()) for width in (3, 8)]
    images, texts = zip(*teachers, strict=True)
    both = soft_contrastive(image, text, images, texts, student_scale=5.0, teacher_scale=[10.0, 30.0], tile=tile)
    each = [
        soft_contrastive(image, text, *teacher, student_scale=5.0, teacher_scale=scale)
        for teacher, scale in zip(teachers, (10.0, 30.0), strict=True)
    ]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


@in_both_forms
def test_gradient_of_several_teachers_is_that_of_their_mean_distribution(tile):
    image, text = rows(5, 4), rows(5, 4, seed=1)
    images, texts = ([rows(5, 3, seed=seed + k).detach() for k in range(3)] for seed in (10, 20))
    ours = soft_contrastive(image, text, images, texts, student_scale=5.0, teacher_scale=10.0, tile=tile)
    similarities = [10 * normalize(x, dim=-1) @ normalize(y, dim=-1).T for x, y in zip(images, texts, strict=True)]
    student = 5 * normalize(image, dim=-1) @ normalize(text, dim=-1).T
    wanted = 0.0
    for way in (lambda z: z, lambda z: z.T):
        mean = torch.stack([way(z).softmax(-1) for z in similarities]).mean(0)
        wanted = wanted + cross_entropy(way(student), mean) / 2
    for mine, other in zip(gradients(ours, image, text), gradients(wanted, image, text), strict=True):
        torch.testing.assert_close(mine, other)


@in_both_forms
def test_soft_sigmoid_is_the_divergence_of_every_pairs_yes_and_no(tile):
    image, text, teacher_image, teacher_text = (
        normalize(rows(5, width, seed=seed).detach(), dim=-1) for seed, width in enumerate((4, 4, 3, 3))
    )
    options = {"student_scale": 5.0, "student_bias": -2.0, "teacher_scale": 9.0, "teacher_bias": -4.0}
    total = 0.0
    for i in range(5):
        for j in range(5):
            q = scipy.special.expit(5.0 * float(image[i] @ text[j]) - 2.0)
            p = scipy.special.expit(9.0 * float(teacher_image[i] @ teacher_text[j]) - 4.0)
            total += scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    ours = soft_sigmoid(3 * image, text, teacher_image, teacher_text, **options, tile=tile)
    assert ours.item() == pytest.approx(total / 5, rel=1e-12)


@in_both_forms
def test_gradient_of_soft_sigmoid_is_that_of_the_binary_cross_entropy_with_soft_labels(tile):
    image, text, scale, bias = rows(7, 5), rows(7, 5, seed=1), number(5.0), number(-2.0)
    teacher = [rows(7, 9, seed=2).detach(), rows(7, 9, seed=3).detach()]
    options = {"student_scale": scale, "student_bias": bias, "teacher_scale": 9.0, "teacher_bias": -4.0}
    ours = soft_sigmoid(image, text, *teacher, **options, tile=tile)
    x, y, u, v = (normalize(z, dim=-1) for z in (image, text, *teacher))
    labels = (9 * u @ v.T - 4).sigmoid()
    theirs = binary_cross_entropy_with_logits(scale * x @ y.T + bias, labels, reduction="sum") / 7
    entropy = -(labels * labels.log() + (1 - labels) * (1 - labels).log()).sum() / 7
    assert_same_value_and_gradients(ours, theirs - entropy, image, text, scale, bias)


@in_both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("teacher_bias", [-1e4, 1e4])
def test_a_sigmoid_teacher_that_is_certain_costs_what_the_student_denies(dtype, teacher_bias, tile):
    image, text = (rows(5, 4, seed=seed).detach().to(dtype).requires_grad_() for seed in (0, 1))
    options = {"student_scale": 5.0, "student_bias": 3.0, "teacher_scale": 1.0, "teacher_bias": teacher_bias}
    value = soft_sigmoid(image, text, image.detach(), text.detach(), **options, tile=tile)
    logits = 5 * normalize(image, dim=-1) @ normalize(text, dim=-1).T + 3
    wanted = binary_cross_entropy_with_logits(logits, torch.full_like(logits, teacher_bias > 0), reduction="sum") / 5
    torch.testing.assert_close(value, wanted, rtol=1e-3 if dtype == torch.float32 else 1e-10, atol=0)
    for mine, other in zip(gradients(value, image, text), gradients(wanted, image, text), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_one_scale_serves_all_teachers_but_counts_must_agree(unchecked):
    x = rows(3, 2).detach()
    loss = unchecked(soft_contrastive)
    loss(x, x, [x, x], [x, x], student_scale=1.0, teacher_scale=2.0)
    with pytest.raises(LossError, match="2 images, 1 texts, 2 scales"):
        loss(x, x, [x, x], [x], student_scale=1.0, teacher_scale=2.0)


def test_no_gradient_reaches_a_teachers_scale_or_bias():
    image, text, scale, bias = rows(5, 4), rows(5, 4, seed=1), number(5.0), number(-2.0)
    for tile in (None, 2):
        soft = soft_contrastive(image, text, image, text, student_scale=3.0, teacher_scale=scale, tile=tile)
        options = {"student_scale": 3.0, "student_bias": 0.0, "teacher_scale": scale, "teacher_bias": bias}
        sigmoid = soft_sigmoid(image, text, image, text, **options, tile=tile)
        found = torch.autograd.grad(soft + sigmoid, (image, scale, bias), allow_unused=True)
        assert [gradient is None for gradient in found] == [False, True, True]


@in_both_forms
def test_rows_that_tell_nothing_cost_ln_b(tile):
    same = torch.ones(8, 4, dtype=torch.float64)
    assert clip_contrastive(same, same, logit_scale=50.0, tile=tile).item() == pytest.approx(math.log(8))


@in_both_forms
def test_siglip_at_no_scale_is_what_its_bias_says_of_one_yes_and_the_noes(tile):
    x, y = rows(8, 4).detach(), rows(8, 4, seed=1).detach()
    value = siglip(x, y, logit_scale=1e-12, logit_bias=-3.0, tile=tile)
    assert value.item() == pytest.approx(math.log1p(math.exp(3)) + 7 * math.log1p(math.exp(-3)))


@in_both_forms
def test_order_of_the_samples_does_not_matter(tile):
    inputs = [rows(7, 5, seed=seed).detach() for seed in range(4)]
    order = torch.randperm(7)
    value = soft_contrastive(*inputs, student_scale=5.0, teacher_scale=9.0)
    again = soft_contrastive(*(x[order] for x in inputs), student_scale=5.0, teacher_scale=9.0, tile=tile)
    torch.testing.assert_close(value, again)


@in_both_forms
def test_a_scale_of_ten_thousand_keeps_value_and_gradient_finite(tile):
    image, text = rows(6, 4), rows(6, 4, seed=1)
    scales = {"student_scale": 1e4, "teacher_scale": 1e4}
    value = soft_contrastive(image, text, text.detach(), image.detach(), **scales, tile=tile)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(value, image, text))


@in_both_forms
def test_cosines_are_taken_in_full_precision_under_autocast(open_clip_loss, tile):
    image, text = rows(64, 32).float().detach(), rows(64, 32, seed=1).float().detach()
    wanted = open_clip_loss.ClipLoss()(normalize(image.double(), dim=-1), normalize(text.double(), dim=-1), 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = clip_contrastive(image, text, logit_scale=100.0, tile=tile)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value.item(), wanted.item(), rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((3, 2), (4, 2)), ((3, 2), (3, 5)), ((3, 2), (1, 2)), ((2,), (2,)), ((0, 2), (0, 2))]
)
def test_rows_that_are_no_pairs_are_refused(unchecked, shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    for loss, options in ((clip_contrastive, {}), (siglip, {"logit_bias": 0.0})):
        with pytest.raises(LossError, match=r"image and text must be \[B, D\]"):
            unchecked(loss)(first, second, logit_scale=1.0, **options)


def test_a_teacher_with_other_rows_is_refused(unchecked):
    for loss, biases in ((soft_contrastive, {}), (soft_sigmoid, {"student_bias": 0.0, "teacher_bias": 0.0})):
        with pytest.raises(LossError, match=r"\[3, D\]"):
            unchecked(loss)(
                *torch.zeros(2, 3, 2), *torch.zeros(2, 6, 2), student_scale=1.0, teacher_scale=1.0, **biases
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be a whole number of at least 1; given 0"),
        ({"tile": True}, "tile must be a whole number"),
        ({"tile": 2.5}, "tile must be a whole number"),
        ({"tile": 4, "products": "float16"}, "products must be 'float32' or 'bfloat16'; given 'float16'"),
        ({"products": "bfloat16"}, "give a tile too"),
        ({"hard_weight": 1.5}, "hard_weight must be a number from 0 to 1; given 1.5"),
        ({"student_scale": 0.0}, "student_scale must be a number above 0; given 0.0"),
        ({"teacher_scale": -1.0}, "teacher_scale must be a number above 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(unchecked, options, message):
    with pytest.raises(LossError, match=message):
        unchecked(soft_contrastive)(
            *torch.eye(2).expand(4, 2, 2), **{"student_scale": 1.0, "teacher_scale": 1.0, **options}
        )


@pytest.mark.parametrize("name", ["clip_contrastive", "siglip", "soft_contrastive", "soft_sigmoid"])
def test_student_scales_and_biases_may_be_trained_in_a_recipe_and_teachers_not(name):
    options = LOSSES[name].options
    learnable = {key for key, option in options.items() if option.learnable}
    assert learnable == {key for key in options if key.endswith(("_scale", "_bias")) and not key.startswith("teacher")}
