"""Rows of all ranks, and values of the whole batch, with the gradient that an average over ranks makes right.

A relational loss on one rank compares its own rows with the rows of all. Its value is the whole batch's, on every rank.
Gradients are such that their average over ranks, which is what data-parallel training takes, is the gradient of one
process that holds the whole batch. Every rank must pass equally many rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup


def num_ranks(group: ProcessGroup | None) -> int:
    """Ranks of ``group``; without one, this process stands alone, whatever else is running."""
    return 1 if group is None else dist.get_world_size(group)


def first_row(num_rows: int, group: ProcessGroup | None) -> int:
    """Where this rank's rows begin among the gathered ones."""
    return 0 if group is None else dist.get_rank(group) * num_rows


def gather_rows(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """``[B, …]`` of every rank → ``[ranks · B, …]``, in the order of ranks, with gradient to every rank's rows.

    The backward pass sums what all ranks ask of a row: every rank must therefore run it, as often as the others.
    """
    if num_ranks(group) == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, group)  # type: ignore[no-untyped-call]
    return gathered


def mean_over_ranks(value: Tensor, group: ProcessGroup | None) -> Tensor:
    """The ranks' mean of a value, on every rank; the gradient stays this rank's own."""
    if num_ranks(group) == 1:
        return value
    mean: Tensor = _MeanOverRanks.apply(value, group)  # type: ignore[no-untyped-call]
    return mean


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = rows.new_empty(num_ranks(group) * rows.shape[0], *rows.shape[1:])
        # The newer name where there is one: the older then warns that it is deprecated.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(gathered, rows.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # A sum and a slice where reduce_scatter would do: it exists for every backend, and the tensor is small.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        num_rows = total.shape[0] // num_ranks(ctx.group)
        return total.narrow(0, first_row(num_rows, ctx.group), num_rows), None


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        mean = value.detach().clone()
        dist.all_reduce(mean, group=group)
        return mean / num_ranks(group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
