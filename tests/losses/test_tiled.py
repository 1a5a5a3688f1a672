"""Tiles change neither value nor gradient, whatever the sizes; siglip and soft_sigmoid against code of others."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from xmodal.errors import LossError
from xmodal.losses import clip_contrastive, siglip, soft_contrastive, soft_sigmoid


def rows(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def leaf(x):
    return torch.as_tensor(x, dtype=torch.float64).clone().requires_grad_()


def call(name, batch, dim, *, scale=7.0, num_teachers=1, hard_weight=0.0, dtype=torch.float64, **tiling):
    """Value, and gradients to both embeddings, scale and bias, of one of the four."""
    image, text = (leaf(rows(batch, dim, seed=seed)).to(dtype).detach().requires_grad_() for seed in (0, 1))
    s, b = (leaf(number).to(dtype).detach().requires_grad_() for number in (scale, -3.0))
    teachers = [
        [rows(batch, dim + k + 1, seed=10 * side + k, dtype=dtype) for k in range(num_teachers)] for side in (1, 2)
    ]
    leaves = [image, text, s]
    if name == "clip_contrastive":
        value = clip_contrastive(image, text, logit_scale=s, **tiling)
    elif name == "siglip":
        value = siglip(image, text, logit_scale=s, logit_bias=b, **tiling)
    elif name == "soft_contrastive":
        value = soft_contrastive(
            image, text, *teachers, student_scale=s, teacher_scale=9.0, hard_weight=hard_weight, **tiling
        )
    else:
        first = [side[0] for side in teachers]
        scales = {"student_scale": s, "student_bias": b, "teacher_scale": 9.0, "teacher_bias": -2.0}
        value = soft_sigmoid(image, text, *first, **scales, **tiling)
    if "sig" in name:
        leaves.append(b)
    return [value, *torch.autograd.grad(value, leaves)]


NAMES = ["clip_contrastive", "siglip", "soft_contrastive", "soft_sigmoid"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 13),
    dim=st.integers(1, 6),
    tile=st.integers(1, 15),
    scale=st.sampled_from([0.5, 14.0, 100.0, 1e4]),
    num_teachers=st.integers(1, 3),
    hard_weight=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_tiled_is_dense(name, batch, dim, tile, scale, num_teachers, hard_weight):
    options = {"scale": scale, "num_teachers": num_teachers, "hard_weight": hard_weight}
    dense, tiled = call(name, batch, dim, **options), call(name, batch, dim, tile=tile, **options)
    for x, y in zip(tiled, dense, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11 * max(1.0, scale))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [14.0, 100.0, 1000.0])
def test_float32_tiles_agree_with_float64_to_a_hundred_thousandth(name, scale):
    exact = call(name, 70, 16, scale=scale)
    found = call(name, 70, 16, scale=scale, dtype=torch.float32, tile=32)
    for x, y in zip(found, exact, strict=True):
        assert (x.double() - y).norm() <= 2e-5 * y.norm() + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_products_come_near(name):
    exact = call(name, 70, 64, scale=14.0)
    found = call(name, 70, 64, scale=14.0, dtype=torch.float32, tile=32, products="bfloat16")
    for x, y in zip(found, exact, strict=True):
        assert x.dtype == torch.float32
        assert (x.double() - y).norm() <= 0.03 * y.norm() + 1e-4


def test_no_common_shift_that_would_underflow():
    """At a scale of 1000, rows whose best cosine is below 0 would sum to nothing under a fixed one."""
    image = torch.tensor([[1.0, 0.0], [1.0, 0.1]]).requires_grad_()
    text = torch.tensor([[-1.0, 0.2], [-1.0, -0.3]]).requires_grad_()
    for tile in (None, 1, 2):
        value = clip_contrastive(image, text, logit_scale=1000.0, tile=tile)
        assert value.isfinite()
        assert all(gradient.any() for gradient in torch.autograd.grad(value, [image, text]))


@pytest.mark.parametrize("tile", [None, 3])
def test_siglip_is_open_clips(open_clip_loss, tile):
    image, text, scale, bias = leaf(rows(7, 5)), leaf(rows(7, 5, seed=1)), leaf(10.0), leaf(-8.0)
    leaves = [image, text, scale, bias]
    ours = siglip(image, text, logit_scale=scale, logit_bias=bias, tile=tile)
    theirs = open_clip_loss.SigLipLoss()(normalize(image, dim=-1), normalize(text, dim=-1), scale, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for mine, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tile", [None, 3])
def test_soft_sigmoid_is_torchs_cross_entropy_less_the_teachers_entropy(tile):
    image, text, scale, bias = leaf(rows(6, 5)), leaf(rows(6, 5, seed=1)), leaf(10.0), leaf(-4.0)
    leaves = [image, text, scale, bias]
    teacher = rows(6, 4, seed=2), rows(6, 4, seed=3)
    options = {"teacher_scale": 20.0, "teacher_bias": -6.0, "tile": tile}
    ours = soft_sigmoid(image, text, *teacher, student_scale=scale, student_bias=bias, **options)
    logits = scale * normalize(image, dim=-1) @ normalize(text, dim=-1).T + bias
    target = torch.sigmoid(20 * normalize(teacher[0], dim=-1) @ normalize(teacher[1], dim=-1).T - 6)
    cross = binary_cross_entropy_with_logits(logits, target, reduction="sum") / 6
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in target.flatten().tolist()) / 6
    torch.testing.assert_close(ours, cross - entropy, rtol=1e-9, atol=1e-12)
    for mine, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(cross, leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tile", [None, 2])
def test_only_what_asks_for_gradient_gets_it(tile):
    image, text = leaf(rows(5, 3)), rows(5, 3, seed=1)
    value = soft_contrastive(image, text, text, text, student_scale=5.0, teacher_scale=5.0, tile=tile)
    value.backward()
    assert image.grad.any()
    assert text.grad is None


@pytest.mark.parametrize(
    ("tiling", "message"), [({"tile": 0}, "tile"), ({"tile": -1}, "tile"), ({"products": "bfloat16"}, "give a tile")]
)
def test_a_tiling_that_cannot_be_is_refused(unchecked, tiling, message):
    with pytest.raises(LossError, match=message):
        unchecked(clip_contrastive)(rows(3, 2), rows(3, 2), logit_scale=1.0, **tiling)
