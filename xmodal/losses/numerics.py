"""What every formula leans on: enough precision, masks that hide what they should, directions, soft distributions."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

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
    squared = x.square().sum(-1, keepdim=True)
    has_length = squared > 0
    # the inner where keeps 1/sqrt(0) out of the graph: where() alone would pass 0 * inf back
    return torch.where(has_length, x * torch.where(has_length, squared, 1).rsqrt(), 0)


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 − cos of matching rows, the cosine of a row of zeros taken as 0.

    As half the squared distance of the two directions: exactly 0 at equality, never below, where 1 − cos cancels.
    """
    a, b = directions(first), directions(second)
    both = (a != 0).any(-1) & (b != 0).any(-1)
    return torch.where(both, (a - b).square().sum(-1) / 2, 1)


def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Every row's product with every column, directions given: ``[N, D]``, ``[M, D]`` → ``[N, M]``."""
    with torch.autocast(rows.device.type, enabled=False):  # autocast would take even float32 operands to half
        dtype = torch.promote_types(rows.dtype, columns.dtype)
        return rows.to(dtype) @ columns.to(dtype).mT


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of logits divided by the temperature."""
    return (logits / temperature).log_softmax(-1)


def kl_rows(target_log: Tensor, log: Tensor) -> Tensor:
    """KL(target ‖ other) over the last axis, both as log-probabilities, in nats."""
    target = target_log.exp()
    # a target of probability 0 adds 0, also where its log is −inf
    return torch.where(target > 0, target * (target_log - log), 0).sum(-1)


def check_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse what broadcasting would silently accept."""
    if student.shape != teacher.shape:
        raise LossError(
            f"student and teacher must have one shape; given {list(student.shape)} and {list(teacher.shape)}"
        )


def check_positive(name: str, value: object) -> None:
    """Refuse an option that is not above zero. Tensors are taken as they are: looking would wait for the device."""
    if isinstance(value, (int, float)) and not 0 < value < float("inf"):
        raise LossError(f"{name} must be a number above 0; given {value!r}")
