"""Sums of powers of two over the rows and columns of tiles, never beyond the range of numbers, and shares of them.

Statistics of some rows or columns are ``[3, …]``: a base, the sum of 2 to the logits less their base, and that sum
weighted. The base is each one's own maximum so far, which takes two powers for every logit, one below its row's maximum
and one below its column's. On a CPU one base for all is tried first, which halves the work, and taken where every sum
turns out to be in range; the choice looks at numbers, for which another device would have to be waited for. A fixed
base without that look would underflow: at a scale of 100, where a row's best cosine is below −0.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from xmodal.losses.distributed import num_ranks
from xmodal.losses.tiles import Buffer


def common_bases(scales: Sequence[Tensor], num: int) -> Tensor | None:
    """For each model's scale the least whole base ≥ 0 under which no sum of ``num`` overflows; None off the CPU."""
    if scales[0].device.type != "cpu":
        return None
    highest = torch.stack(list(scales)).abs() * 1.01  # rounded to bfloat16 a cosine may be above 1
    # a weight is the difference of two models' logits
    room = math.log2(torch.finfo(highest.dtype).max) - math.log2(num) - (4 * highest.max() + 1).log2()
    return (highest - room).ceil().clamp(min=0)


def in_range(*totals: Tensor, num: int) -> bool:
    """Whether sums of ``num`` powers below a common base lost nothing to underflow that they could hold."""
    info = torch.finfo(totals[0].dtype)
    return all(bool(total.min() > num * info.tiny / info.eps) and bool(total.max() < info.max) for total in totals)


def rebased(stats: Tensor, bases: Tensor) -> Tensor:
    """Base and sum of ``[models, number]``, with a base for each model in place of each one's own."""
    bases = bases.unsqueeze(1).expand_as(stats[0])
    return torch.stack([bases, stats[1] * (stats[0] - bases).exp2()])


def take_in(
    rows: Tensor, columns: Tensor, logits: Tensor, ahead: Tensor | None, base: Tensor | None, work: Buffer
) -> None:
    """Add a tile to the statistics of its rows and columns, weighted by ``ahead``; ``logits`` are used up."""
    if base is None:
        _take_in_own(rows, logits, ahead, 1, work)
        _take_in_own(columns, logits, ahead, 0, work)
        return
    share = logits.sub_(base).exp2_()
    rows[1] += share.sum(1)
    columns[1] += share.sum(0)
    if ahead is not None:
        share.mul_(ahead)
        rows[2] += share.sum(1)
        columns[2] += share.sum(0)


def _take_in_own(stats: Tensor, logits: Tensor, ahead: Tensor | None, dim: int, work: Buffer) -> None:
    highest = torch.maximum(stats[0], logits.amax(dim))
    stats[1:] *= (stats[0] - highest).exp2_()  # 0 at the first tile, where the base is −inf
    stats[0] = highest
    share = torch.sub(logits, highest.unsqueeze(dim), out=work.view(*logits.shape)).exp2_()
    stats[1] += share.sum(dim)
    if ahead is not None:
        stats[2] += share.mul_(ahead).sum(dim)


def both_softmaxes(logits: Tensor, rows: Tensor, columns: Tensor, base: Tensor | None, work: Buffer) -> Tensor:
    """Softmax over all columns, plus softmax over all rows, in place of the logits.

    ``rows`` and ``columns`` are base and 1 / sum, ``[2, …]``; ``base`` is theirs where they have one in common.
    """
    other = work.view(*logits.shape)
    if base is None:
        over_rows = torch.sub(logits, columns[0], out=other).exp2_()
        highest, inverse = rows.unsqueeze(-1)
        return logits.sub_(highest).exp2_().mul_(inverse).addcmul_(over_rows, columns[1])
    return logits.sub_(base).exp2_().mul_(torch.add(rows[1].unsqueeze(1), columns[1], out=other))


def merged(columns: Tensor, group: ProcessGroup | None) -> Tensor:
    """Statistics of columns over the rows of all ranks: sums are rescaled to the highest base before they add up."""
    if num_ranks(group) == 1:
        return columns
    highest = columns[0].clone()
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
    sums = columns[1:] * (columns[0] - highest).exp2()
    dist.all_reduce(sums, group=group)
    return torch.cat([highest.unsqueeze(0), sums])
