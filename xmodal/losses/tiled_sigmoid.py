"""Sigmoid contrastive losses in tiles. No sum over a row or a column is needed, so that one pass does it all.

Value and gradient come from each tile as it is made; the backward pass only multiplies what the forward pass found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from xmodal.losses.distributed import first_row, gather_rows, mean_over_ranks
from xmodal.losses.tiles import Cosines, Gradient, as_scalar, opaque

LN_2 = math.log(2)
Side = tuple[Tensor, Tensor, "float | Tensor", "float | Tensor"]


def tiled_sigmoid(
    student: Side, teacher: Side | None = None, *, tile: int, products: str, group: ProcessGroup | None
) -> Tensor:
    """Mean over rows of the sum over columns of KL(σ(teacher's logit) ‖ σ(student's)), of each pair a yes or no.

    A side is image rows, text rows, scale and bias. Without a teacher, a row's own column is a yes and the others are
    noes. Rows of this rank against columns of all, with gradient to all four of the student's as
    :mod:`xmodal.losses.distributed` has it.
    """
    given = (student,) if teacher is None else (student, teacher)
    image, dtype = student[0], torch.float32
    for rows in (rows for side in given for rows in side[:2]):
        dtype = torch.promote_types(dtype, rows.dtype)
    sides: list[Tensor] = []
    for rows, columns, *numbers in given:
        sides += [rows.to(dtype), gather_rows(columns.to(dtype), group)]
        sides += [as_scalar(x, image, dtype) for x in numbers]
    want = tuple(torch.is_grad_enabled() and x.requires_grad for x in sides[:4])
    options = (first_row(len(image), group), tile, products == "bfloat16")
    value: Tensor = _TiledSigmoid.apply(options, want, *sides)  # type: ignore[no-untyped-call]
    return mean_over_ranks(value, group)


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[int, int, bool], want: tuple[bool, ...], *sides: Tensor) -> Tensor:
        values, *gradients = tiled_sigmoid_pass(sides, *options, *want)
        ctx.save_for_backward(*gradients)
        ctx.want, ctx.num_sides = want, len(sides)
        return values.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # of the mean over this rank's rows, not over all: data-parallel training takes the mean over ranks
        found = [g * gradient if w else None for g, w in zip(ctx.saved_tensors, ctx.want, strict=True)]
        return None, None, *found, *(None for _ in range(ctx.num_sides - 4))


def _empty_pass(
    sides: Sequence[Tensor],
    first: int,
    tile: int,
    halve: bool,
    want_rows: bool,
    want_columns: bool,
    want_scale: bool,
    want_bias: bool,
) -> tuple[Tensor, ...]:
    gradients = Gradient.fake(sides, want_rows, want_columns, want_scale)
    return sides[0].new_empty(len(sides[0])), *gradients, torch.empty_like(sides[3])


@opaque(
    "(Tensor[] sides, SymInt first, int tile, bool halve, bool want_rows, bool want_columns, bool want_scale, "
    "bool want_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _empty_pass,
)
def tiled_sigmoid_pass(
    sides: Sequence[Tensor],
    first: int,
    tile: int,
    halve: bool,
    want_rows: bool,
    want_columns: bool,
    want_scale: bool,
    want_bias: bool,
) -> tuple[Tensor, ...]:
    """The sum over each row's pairs; of these sums' mean the gradient of image rows, text rows, scale and bias."""
    models = [
        Cosines(*sides[start : start + 4], first=first, tile=tile, halve=halve) for start in range(0, len(sides), 4)
    ]
    student, wants_any = models[0], want_rows or want_columns or want_scale or want_bias
    gradient = Gradient(student, want_rows, want_columns, want_scale)
    values, by_bias = sides[0].new_zeros(len(sides[0])), torch.zeros_like(sides[3])
    buffers = [student.buffer() for _ in range(1 + 2 * len(models))]
    for part in student.rows.parts():
        for model in models:
            model.take(part)
        for across in student.columns.parts():
            tiles = [model.logits(across, buffer) for model, buffer in zip(models, buffers, strict=False)]
            work = [buffer.view(*tiles[0].shape) for buffer in buffers[len(models) :]]
            if len(models) == 1:
                own = student.own(tiles[0], part, across)[1]
                tile_gradient = _own_or_not(values[part], *tiles, own, *work)
            else:
                tile_gradient = _divergence(values[part], *tiles, *work)
            if wants_any:
                by_bias += tile_gradient.sum()
                gradient.add(tile_gradient, part, across)
    weight = 1 / len(values)
    return values, *gradient.finish(weight), by_bias * weight


def _own_or_not(values: Tensor, logits: Tensor, own: Tensor, *work: Tensor) -> Tensor:
    """Add −log σ(±logit) of each pair to the rows' values; return its gradient, in place of the logits.

    ``own``: a view of the logits of own pairs, the ones that count with a plus.
    """
    own.neg_()
    values += _softplus(logits, *work).sum(1)
    logits.sigmoid_()
    own.neg_()
    return logits


def _divergence(values: Tensor, logits: Tensor, targets: Tensor, *work: Tensor) -> Tensor:
    """Add KL(σ(target) ‖ σ(logit)) of each pair to the rows' values; return its gradient, in place of the logits."""
    pairs, other, third = work
    # cross-entropy less entropy: softplus(z) − softplus(t) − p (z − t), exactly 0 where z = t
    _softplus(logits, pairs, other).sub_(_softplus(targets, other, third))
    ahead, probability = torch.sub(logits, targets, out=other), targets.sigmoid_()
    values += pairs.addcmul_(ahead, probability, value=-1).sum(1)
    return logits.sigmoid_().sub_(probability)


def _softplus(x: Tensor, out: Tensor, work: Tensor) -> Tensor:
    """log(1 + eˣ), written to ``out``: max(x, 0) + log(1 + e), with e = exp(−abs(x)).

    log1p is several times as slow. log(w), with w what is left of 1 + e in so many digits, lacks (e − (w − 1)) / w.
    """
    torch.abs(x, out=out).mul_(-1 / LN_2).exp2_()
    torch.add(out, 1, out=work)
    out.sub_(work.sub_(1)).div_(work.add_(1))
    out.add_(work.log2_(), alpha=LN_2)
    return out.add_(torch.clamp(x, min=0, out=work))
