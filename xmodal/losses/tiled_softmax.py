"""Softmax contrastive losses in tiles: exact, in memory that grows with the batch, not with its square.

The first pass sums, per row and per column, the exponentials of the logits and, for a teacher, these weighted by how
far its logit is from the student's; for a cross-entropy, by the student's logit. From these sums come the values; they
and the bases that they stand on, together the log-sum-exps of each model's rows and columns, are kept. The second pass
makes each tile of logits again, and from it and them its part of the gradient.

All in bits: scales are multiplied by log₂ e, and values by ln 2, for 2ˣ takes a fraction of the time of eˣ.
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
from xmodal.losses.tiled_statistics import both_softmaxes, common_bases, in_range, merged, rebased, take_in
from xmodal.losses.tiles import Cosines, Gradient, as_scalar, opaque

LN_2 = math.log(2)
Teacher = tuple[Tensor, Tensor, "float | Tensor"]


def tiled_softmax(
    image: Tensor,
    text: Tensor,
    scale: float | Tensor,
    teachers: Sequence[Teacher] = (),
    *,
    tile: int,
    products: str,
    group: ProcessGroup | None,
    cross_entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """The soft and the hard loss of the same logits, both the mean of the two ways over rows, in nats.

    Soft: the mean over teachers (image rows, text rows, scale) of KL(teacher's softmax ‖ student's), 0 without any;
    with ``cross_entropy`` plus the teacher's entropy. Hard: −log of the student's softmax at the own pair. Rows of this
    rank against columns of all, with gradient to ``image``, ``text`` and ``scale`` as
    :mod:`xmodal.losses.distributed` has it.
    """
    dtype = torch.promote_types(torch.float32, torch.promote_types(image.dtype, text.dtype))
    for rows, columns, _ in teachers:
        dtype = torch.promote_types(dtype, torch.promote_types(rows.dtype, columns.dtype))
    sides: list[Tensor] = []
    for rows, columns, given in ((image, text, scale), *teachers):
        sides += [rows.to(dtype), gather_rows(columns.to(dtype), group), as_scalar(given, image, dtype) / LN_2]
    # what the backward pass would make again is kept for the first rows: where memory costs less than products
    keep = image.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in sides[:3])
    options = (tile, products == "bfloat16", keep, cross_entropy)
    soft, hard = _TiledSoftmax.apply(options, group, *sides)  # type: ignore[no-untyped-call]
    return mean_over_ranks(soft, group), mean_over_ranks(hard, group)


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: tuple[int, bool, bool, bool], group: ProcessGroup | None, *sides: Tensor
    ) -> tuple[Tensor, Tensor]:
        num, first = len(sides[0]), first_row(len(sides[0]), group)
        rows, columns, own, kept = tiled_softmax_statistics(sides, first, *options)
        columns = merged(columns, group)
        # logarithms of large sums and the bases that they stand on nearly cancel; other devices may lack float64
        wide = torch.float64 if own.device.type == "cpu" else own.dtype
        soft, hard = own.new_zeros((), dtype=wide), own.new_zeros((), dtype=wide)
        for stats in (rows, columns[..., first : first + num]):
            base, total, weighted = stats.to(wide)
            log = total.log2()
            hard = hard + ((base[0] - own) + log[0]).mean()
            if len(log) > 1 and options[-1]:
                soft = soft + (weighted[1:] / total[1:] + base[0] + log[0]).mean()
            elif len(log) > 1:
                soft = soft + (weighted[1:] / total[1:] - (base[1:] - base[0]) - (log[1:] - log[0])).mean()
        ctx.save_for_backward(rows[:2].clone(), columns[:2].clone(), kept, *sides)
        ctx.options = (first, *options[:2])
        return (soft * (LN_2 / 2)).to(own.dtype), (hard * (LN_2 / 2)).to(own.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, kept, *sides = ctx.saved_tensors
        want = ctx.needs_input_grad[2:5]
        # of the mean over this rank's rows, not over all: data-parallel training takes the mean over ranks
        weights = torch.stack(gradients)
        found = tiled_softmax_gradients(sides, rows, columns, weights, kept, *ctx.options, *want)
        wanted = (gradient if w else None for gradient, w in zip(found, want, strict=True))
        return None, None, *wanted, *(None for _ in sides[3:])


def _empty_statistics(
    sides: Sequence[Tensor], first: int, tile: int, halve: bool, keep: bool, cross_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (image, text), num_models = sides[:2], len(sides) // 3
    rows, columns = (image.new_empty(3, num_models, len(side)) for side in (image, text))
    kept = image.new_empty(num_models, min(tile, len(image)) if keep else 0, len(text))
    return rows, columns, image.new_empty(len(image)), kept


@opaque(
    "(Tensor[] sides, SymInt first, int tile, bool halve, bool keep, bool cross_entropy) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _empty_statistics,
)
def tiled_softmax_statistics(
    sides: Sequence[Tensor], first: int, tile: int, halve: bool, keep: bool, cross_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of rows and of columns base, sum and weighted sum, ``[3, 1 + teachers, number]``; own logits; logits kept.

    Kept are the logits of the first tile's rows, of each model, for the backward pass.
    """
    models, num = _models(sides, first, tile, halve), len(sides[1])
    rows, columns, own, kept = found = _empty_statistics(sides, first, tile, halve, keep, cross_entropy)
    if keep:
        for model, logits in zip(models, kept, strict=True):
            model.keep = logits
    bases = common_bases(sides[2::3], num)
    _find_statistics(rows, columns, own, models, bases, cross_entropy)
    if bases is not None and not in_range(rows[1], columns[1], num=num):
        _find_statistics(rows, columns, own, models, None, cross_entropy)
    return found


def _find_statistics(
    rows: Tensor,
    columns: Tensor,
    own: Tensor,
    models: Sequence[Cosines],
    bases: Tensor | None,
    cross_entropy: bool,
) -> None:
    student, *teachers = models
    for stats in (rows, columns):
        stats.zero_()[0] = -torch.inf if bases is None else bases.unsqueeze(1)
    base = [None] * len(models) if bases is None else bases
    buffer, other, difference, work = (student.buffer() for _ in range(4))
    for part in student.rows.parts():
        for model in models:
            model.take(part)
        for across in student.columns.parts():
            logits = student.logits(across, buffer)
            where, on_diagonal = student.own(logits, part, across)
            own[where] = on_diagonal
            for k, teacher in enumerate(teachers, start=1):
                target = teacher.logits(across, other)
                ahead = difference.view(*logits.shape)
                if cross_entropy:
                    torch.neg(logits, out=ahead)
                else:
                    torch.sub(target, logits, out=ahead)
                take_in(rows[:, k, part], columns[:, k, across], target, ahead, base[k], work)
            take_in(rows[:, 0, part], columns[:, 0, across], logits, None, base[0], work)


def _empty_gradients(
    sides: Sequence[Tensor],
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    kept: Tensor,
    first: int,
    tile: int,
    halve: bool,
    want_rows: bool,
    want_columns: bool,
    want_scale: bool,
) -> tuple[Tensor, ...]:
    return Gradient.fake(sides, want_rows, want_columns, want_scale)


@opaque(
    "(Tensor[] sides, Tensor rows, Tensor columns, Tensor weights, Tensor kept, SymInt first, int tile, "
    "bool halve, bool want_rows, bool want_columns, bool want_scale) -> (Tensor, Tensor, Tensor)",
    _empty_gradients,
)
def tiled_softmax_gradients(
    sides: Sequence[Tensor],
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    kept: Tensor,
    first: int,
    tile: int,
    halve: bool,
    want_rows: bool,
    want_columns: bool,
    want_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of image rows, text rows and scale, the soft and the hard loss weighted by the two ``weights``.

    ``rows`` and ``columns``: base and sum from the first pass, ``[2, 1 + teachers, number]``; ``kept``: its logits.
    """
    models, num = _models(sides, first, tile, halve), len(sides[1])
    if kept.shape[1]:
        for model, logits in zip(models, kept, strict=True):
            model.kept = logits
    student, *teachers = models
    bases = common_bases(sides[2::3], num)
    if bases is not None:
        by_row, by_column = rebased(rows, bases), rebased(columns, bases)
        if in_range(by_row[1], by_column[1], num=num):
            rows, columns = by_row, by_column
        else:
            bases = None
    base = [None] * len(models) if bases is None else bases
    rows, columns = (torch.stack([stats[0], stats[1].reciprocal()]) for stats in (rows, columns))
    gradient = Gradient(student, want_rows, want_columns, want_scale)
    by_student, by_teacher, by_own = weights.sum(), weights[0] / max(1, len(teachers)), 2 * weights[1]
    buffer, other, work = (student.buffer() for _ in range(3))
    for part in student.rows.parts():
        for model in models:
            model.take(part)
        for across in student.columns.parts():
            logits = student.logits(across, buffer)
            tile_gradient = both_softmaxes(logits, rows[:, 0, part], columns[:, 0, across], base[0], work)
            tile_gradient.mul_(by_student)
            for k, teacher in enumerate(teachers, start=1):
                logits = teacher.logits(across, other)
                target = both_softmaxes(logits, rows[:, k, part], columns[:, k, across], base[k], work)
                tile_gradient.addcmul_(target, by_teacher, value=-1)
            student.own(tile_gradient, part, across)[1].sub_(by_own)
            gradient.add(tile_gradient, part, across)
    return gradient.finish(LN_2 / (2 * len(sides[0])))


def _models(sides: Sequence[Tensor], first: int, tile: int, halve: bool) -> list[Cosines]:
    """Of the student and of each teacher, from their rows, columns and scales, one after another."""
    triples = zip(sides[::3], sides[1::3], sides[2::3], strict=True)
    return [Cosines(rows, columns, scale, first=first, tile=tile, halve=halve) for rows, columns, scale in triples]
