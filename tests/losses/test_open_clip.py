"""The drop-in for open_clip's DistillClipLoss against the original, one process; test_cross_model_ranks has two."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

import xmodal.losses.open_clip
from xmodal.errors import LossError
from xmodal.losses.contrastive import siglip, soft_contrastive, soft_sigmoid
from xmodal.losses.open_clip import DistillClipLoss

TERMS = ["contrastive_loss", "distill_loss"]


def rows(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(x, dim=-1)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def model_out(num=7, dim=5, teacher_dim=9, **more):
    """What the training loop hands over, the student's part with gradient."""
    return {
        "image_features": rows(num, dim).requires_grad_(),
        "text_features": rows(num, dim, seed=1).requires_grad_(),
        "logit_scale": number(14.3).requires_grad_(),
        "dist_image_features": rows(num, teacher_dim, seed=2),
        "dist_text_features": rows(num, teacher_dim, seed=3),
        "dist_logit_scale": number(20.0),
        **more,
    }


def features(out):
    return tuple(out[f"{side}{name}_features"] for side in ("", "dist_") for name in ("image", "text"))


def tangent(gradient, features):
    """Of a gradient by normalised features, what reaches what they were normalised from."""
    return gradient - (gradient * features).sum(-1, keepdim=True) * features


@pytest.mark.parametrize("tile", [None, 3, 64])
@pytest.mark.parametrize("shape", [(7, 5, 9), (1, 4, 4), (8, 16, 3)])
def test_values_and_gradients_are_open_clips(open_clip_loss, shape, tile):
    out = model_out(*shape)
    student = [out["image_features"], out["text_features"], out["logit_scale"]]
    ours = DistillClipLoss(tile=tile)(**out, output_dict=True)
    theirs = open_clip_loss.DistillClipLoss()(**out, output_dict=True)
    assert list(ours) == list(theirs) == TERMS
    for term in TERMS:
        torch.testing.assert_close(ours[term], theirs[term], rtol=1e-10, atol=1e-12)
    # apart, and weighed as nobody's trainer weighs them
    for weights in ((1, 0), (0, 1), (0.3, 2.5)):
        mine, other = (
            torch.autograd.grad(
                sum(weight * losses[term] for weight, term in zip(weights, TERMS, strict=True)),
                student,
                retain_graph=True,
            )
            for losses in (ours, theirs)
        )
        for gradient, wanted, given in zip(mine[:2], other[:2], student[:2], strict=True):
            torch.testing.assert_close(gradient, tangent(wanted, given), rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(mine[2], other[2], rtol=1e-8, atol=1e-12)


def test_gradients_before_normalisation_are_open_clips_to_the_digit(open_clip_loss):
    raw = [torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    out = model_out(6, 4, image_features=normalize(raw[0], dim=-1), text_features=normalize(raw[1], dim=-1))
    for term in TERMS:
        ours, theirs = (
            torch.autograd.grad(loss(**out, output_dict=True)[term], raw, retain_graph=True)
            for loss in (DistillClipLoss(), open_clip_loss.DistillClipLoss())
        )
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-14)


def test_it_takes_what_open_clips_takes(open_clip_loss):
    for method in ("__init__", "forward"):
        theirs = list(inspect.signature(getattr(open_clip_loss.DistillClipLoss, method)).parameters.values())
        ours = list(inspect.signature(getattr(DistillClipLoss, method)).parameters.values())
        assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
        assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    out = model_out()
    pair = DistillClipLoss(False, False, True, 0, 1, False)(*out.values())
    named = DistillClipLoss()(**out, output_dict=True)
    assert [value.item() for value in pair] == [named[term].item() for term in TERMS]


def test_scales_may_be_numbers_or_lie_in_one_element():
    out = model_out()
    plain = DistillClipLoss()(**out)
    one_element = model_out(logit_scale=number([14.3]).requires_grad_(), dist_logit_scale=20.0)
    for mine, other in zip(DistillClipLoss()(**one_element), plain, strict=True):
        assert mine.shape == ()
        torch.testing.assert_close(mine, other)
        assert torch.autograd.grad(mine, one_element["logit_scale"], retain_graph=True)[0].shape == (1,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_cached_teacher_of_any_dtype_and_length_will_do(dtype):
    out = model_out()
    cached = {name: (3 * out[name]).to(dtype) for name in ("dist_image_features", "dist_text_features")}
    for mine, other in zip(DistillClipLoss()(**{**out, **cached}), DistillClipLoss()(**out), strict=True):
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0)


def test_no_gradient_reaches_the_teacher():
    out = model_out(dist_image_features=rows(7, 9, seed=2).requires_grad_())
    total = sum(DistillClipLoss()(**out))
    assert torch.autograd.grad(total, out["dist_image_features"], allow_unused=True) == (None,)


def test_half_precision_features_are_compared_in_full_precision(open_clip_loss):
    out = {name: value.detach().bfloat16() for name, value in model_out(32, 16, 16).items()}
    with torch.autocast("cpu", torch.bfloat16):
        ours = DistillClipLoss()(**out)
    exact = {name: value.double() for name, value in out.items()}
    exact |= {name: normalize(value, dim=-1) for name, value in exact.items() if name.endswith("features")}
    for mine, other in zip(ours, open_clip_loss.DistillClipLoss()(**exact), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=0)


def test_products_in_bfloat16_are_near(open_clip_loss):
    out = {name: value.detach().float() for name, value in model_out(64, 32, 32).items()}
    for mine, other in zip(
        DistillClipLoss(tile=16, products="bfloat16")(**out), open_clip_loss.DistillClipLoss()(**out), strict=True
    ):
        assert mine != other
        torch.testing.assert_close(mine, other, rtol=0.01, atol=0)


def test_products_in_bfloat16_want_a_tile():
    with pytest.raises(LossError, match="give a tile too"):
        DistillClipLoss(products="bfloat16")


class CountProducts(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten.mm.out
        return function(*arguments, **(keywords or {}))


def test_tiles_are_made_once_for_both_losses():
    """The cross-entropy is summed as such: no pass over the teacher's logits for the entropy in it."""
    out = {name: value.detach() for name, value in model_out(12).items()}
    with CountProducts() as products:
        DistillClipLoss(tile=4)(**out)
    assert products.count == 2 * 3 * 3  # student and teacher


# SigLIP

BIASES = {"logit_bias": number(-3.0), "dist_logit_bias": number(-4.0)}


def test_open_clips_own_loss_fails_on_a_student_with_a_bias(open_clip_loss):
    with pytest.raises(TypeError, match="logit_bias"):
        open_clip_loss.DistillClipLoss()(**model_out(**BIASES), output_dict=True)


@pytest.mark.parametrize("tile", [None, 3])
def test_a_student_with_a_bias_is_trained_by_open_clips_sigmoid_loss(open_clip_loss, tile):
    bias = number(-3.0).requires_grad_()
    out = model_out(logit_bias=bias)
    ours = DistillClipLoss(tile=tile)(**out, output_dict=True)["contrastive_loss"]
    student = [out[name] for name in ("image_features", "text_features", "logit_scale", "logit_bias")]
    theirs = open_clip_loss.SigLipLoss()(*student)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    mine, other = torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    for gradient, wanted in zip(mine[2:], other[2:], strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-12)
    for gradient, wanted, given in zip(mine[:2], other[:2], student[:2], strict=True):
        torch.testing.assert_close(gradient, tangent(wanted, given), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tile", [None, 3])
def test_sigmoids_learn_from_sigmoids(tile):
    out = model_out(**BIASES)
    ours = DistillClipLoss(tile=tile)(**out, output_dict=True)
    scales = {"student_scale": 14.3, "student_bias": -3.0, "teacher_scale": 20.0, "teacher_bias": -4.0}
    torch.testing.assert_close(ours["distill_loss"], soft_sigmoid(*features(out), **scales))
    hard = siglip(*features(out)[:2], logit_scale=14.3, logit_bias=-3.0)
    torch.testing.assert_close(ours["contrastive_loss"], hard)


def test_a_student_with_a_bias_learns_a_softmax_from_a_teacher_without_one(open_clip_loss):
    out = model_out(logit_bias=BIASES["logit_bias"])
    _, theirs = open_clip_loss.DistillClipLoss()(**model_out())
    torch.testing.assert_close(DistillClipLoss()(**out, output_dict=True)["distill_loss"], theirs)


def test_a_teachers_bias_alone_changes_nothing():
    for mine, other in zip(
        DistillClipLoss()(**model_out(dist_logit_bias=number(-4.0))), DistillClipLoss()(**model_out()), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_every_parameter_of_a_student_gets_a_gradient():
    """DistributedDataParallel would refuse the next step otherwise."""
    for teacher in ({}, {"dist_logit_bias": number(-4.0)}):
        out = model_out(logit_bias=number(-3.0).requires_grad_(), **teacher)
        student = [out[name] for name in ("image_features", "text_features", "logit_scale", "logit_bias")]
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(sum(DistillClipLoss()(**out)), student))


# what it says


def test_the_distillation_loss_at_equality_is_the_teachers_entropy():
    teacher = [rows(6, 4, seed=seed) for seed in (2, 3)]
    _, soft = DistillClipLoss()(*teacher, 20.0, *teacher, 20.0)
    log = 20 * teacher[0] @ teacher[1].T
    entropy = sum(torch.distributions.Categorical(logits=z).entropy().mean() for z in (log, log.T)) / 2
    torch.testing.assert_close(soft, entropy)
    assert soft_contrastive(*teacher, *teacher, student_scale=20.0, teacher_scale=20.0).item() == 0


def test_horovod_is_refused():
    with pytest.raises(LossError, match="torchrun"):
        DistillClipLoss(use_horovod=True)


def test_many_ranks_without_a_group_are_refused():
    with pytest.raises(LossError, match="made for rank 1 of 2; this process is without a group"):
        DistillClipLoss(rank=1, world_size=2)(**model_out())


def test_rows_that_are_no_pairs_are_refused():
    with pytest.raises(LossError, match=r"must be \[7, D\] both"):
        DistillClipLoss()(**model_out(dist_image_features=rows(6, 9), dist_text_features=rows(6, 9)))


def test_the_example_of_the_docstring_holds():
    done = doctest.testmod(xmodal.losses.open_clip)
    assert (done.failed, done.attempted > 0) == (0, True)


def test_open_clip_is_not_imported_with_the_losses():
    code = "import sys, xmodal.losses, xmodal.losses.open_clip; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
