"""What every formula leans on: enough precision, masks that hide what they should, directions, soft distributions."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from xmodal.errors import LossError

Number = TypeVar("Number", float, Tensor)


def raise_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 rise to float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def keep_valid(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x`` ``[*items, D]`` with zeros at items that ``mask`` ``[*items]`` calls invalid.

    Done before any formula: masked only afterwards, a NaN at an invalid item would come back as a gradient of 0 · NaN.
    """
    if mask is None:
        return x
    if mask.dtype != torch.bool or mask.shape != x.shape[:-1]:
        raise LossError(
            f"mask must be boolean, one entry an item: {list(x.shape[:-1])}; given {mask.dtype} {list(mask.shape)}"
        )
    return torch.where(mask.unsqueeze(-1), x, 0)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` over the valid items; 0 where none is."""
    if mask is None:
        return values.mean()
    # where, not multiplication: 0 * inf at an invalid item would be NaN
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def directions(x: Tensor) -> Tensor:
    """Rows divided by their length. A row of zeros has no direction: it stays zero and gets no gradient."""
    # By the largest entry first: squares of short or long rows would leave the range of numbers, most of all in the
    # gradient, which holds the length's third power. What scales a row does not change its direction.
    largest = x.detach().abs().amax(-1, keepdim=True)
    has_length = largest != 0  # so also where it is NaN, which must not pass for a row of zeros
    scaled = x / torch.where(has_length, largest, 1)
    squared = scaled.square().sum(-1, keepdim=True)
    # the inner where keeps 1/sqrt(0) out of the graph: where() alone would pass 0 * inf back
    return torch.where(has_length, scaled * torch.where(has_length, squared, 1).rsqrt(), 0)


def unit_rows(x: Tensor) -> Tensor:
    """Directions, in enough precision."""
    return directions(raise_precision(x))


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 − cos of matching rows, the cosine of a row of zeros taken as 0.

    As half the squared distance of the two directions: exactly 0 at equality, never below, where 1 − cos cancels.
    """
    a, b = directions(first), directions(second)
    both = (a != 0).any(-1) & (b != 0).any(-1)
    return torch.where(both, (a - b).square().sum(-1) / 2, 1)


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """Every row's product with every column: ``[…, N, D]``, ``[…, M, D]`` → ``[…, N, M]``; of directions, cosines."""
    with torch.autocast(rows.device.type, enabled=False):  # autocast would take even float32 operands to half
        dtype = torch.promote_types(rows.dtype, columns.dtype)
        return rows.to(dtype) @ columns.to(dtype).mT


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of logits divided by the temperature."""
    return (logits / temperature).log_softmax(-1)


def log_softmax_over(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Log-softmax over the valid columns; −inf at the others.

    A row without a valid column has no distribution: it is taken over all, finite, for the caller to leave out.
    """
    if valid is None:
        return logits.log_softmax(-1)
    valid = valid | ~valid.any(-1, keepdim=True)
    return logits.masked_fill(~valid, float("-inf")).log_softmax(-1)


def relative_entropy(first_log: Tensor, second_log: Tensor) -> Tensor:
    """KL(first ‖ second) over the last axis, both as log-probabilities, in nats, with gradient to both.

    What the first gives no probability adds 0, whatever the second says; what only the second rules out is infinite.
    """
    first = first_log.exp()
    # inside the product: −inf − (−inf) outside of it would come back through first's gradient as NaN
    return (first * torch.where(first == 0, 0, first_log - second_log)).sum(-1)


def log_mass(log_probs: Tensor, keep: Tensor) -> Tensor:
    """Log of the probability that the ``keep`` entries of the last axis have together; −inf where there are none.

    Never as log(1 − the others' mass), which has no digits left where they have nearly all of it.
    """
    kept = torch.where(keep, log_probs, -torch.inf)
    none = (kept == -torch.inf).all(-1)
    # the inner where keeps logsumexp from rows of −inf alone, whose gradient is NaN
    return torch.where(none, -torch.inf, torch.where(none.unsqueeze(-1), 0, kept).logsumexp(-1))


def smooth_l1(first: Tensor, second: Tensor, beta: float = 1.0) -> Tensor:
    """Per entry, with d the difference: d² / 2β where abs(d) < β, else abs(d) − β/2."""
    dtype = torch.promote_types(first.dtype, second.dtype)
    return functional.smooth_l1_loss(first.to(dtype), second.to(dtype), reduction="none", beta=beta)


def pool_to(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """A map adaptively average-pooled to a height and width; as it is where it has them."""
    if tuple(feature_map.shape[2:]) == tuple(size):
        return feature_map
    return functional.adaptive_avg_pool2d(feature_map, size)
