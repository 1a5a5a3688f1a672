"""What becomes of a tap before it is stored: views side by side, padding, half precision, the likeliest classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xmodal.data.cache.contract import TopK
from xmodal.errors import DataError

LARGEST_HALF = 65504.0
SMALLEST_HALF = 2.0**-14
"""The largest number that float16 holds, and the smallest that it holds with all of its digits."""

TOP = ("values", "indices", "tail")
_PART = re.compile(r"\.part\.\d+\.")
"""What stands in the taps of one of a teacher's several parts: ``text.part.0.hidden.3``."""
_ALONG_TOKENS = {"hidden": 1, "tokens": 1, "mask": 1, "query": 1, "key": 1, "value": 1, "attention": 2, "scores": 2}
"""Part of a tap's name → along how many axes tokens lie; where two, they are the last ones (``[B, H, L, L]``)."""


def is_logits(tap: str) -> bool:
    """Whether a tap may be kept as its likeliest classes.

    >>> is_logits("logits"), is_logits("text.logits"), is_logits("image.embedding")
    (True, True, False)
    """
    return tap.rpartition(".")[2] == "logits"


def parent_of_top(tap: str) -> str | None:
    """The logits that ``logits.values``, ``logits.indices`` and ``logits.tail`` are of; None for other taps.

    >>> parent_of_top("text.logits.tail"), parent_of_top("text.hidden.3")
    ('text.logits', None)
    """
    stem, _, last = tap.rpartition(".")
    return stem if last in TOP and is_logits(stem) else None


def token_axes(tap: str, ndim: int) -> tuple[int, ...]:
    """The axes of one sample's tensor along which tokens lie, as far as the tap's name says it.

    >>> token_axes("text.hidden.3", 2), token_axes("text.attention.0", 3), token_axes("image.tokens", 2)
    ((0,), (1, 2), ())
    >>> token_axes("text.part.1.hidden.3", 2), token_axes("text.part.1", 1)
    ((0,), ())
    """
    head, _, rest = _PART.sub(".", tap).partition(".")
    kind = rest.partition(".")[0]
    if head == "image":
        return ()
    if kind == "logits":  # of a language model, [L, V]; of a classifier, [C]
        return (0,) if ndim >= (1 if tap.endswith(".tail") else 2) else ()
    count = _ALONG_TOKENS.get(kind, 0)
    return (0,) if count == 1 else tuple(range(ndim - count, ndim))


def mask_of(tap: str, available: Sequence[str]) -> str | None:
    """The mask that says which tokens of ``tap`` are real, where the model has one.

    >>> mask_of("text.part.1.hidden.3", ["text.part.0.mask", "text.part.1.mask"])
    'text.part.1.mask'
    """
    part = _PART.search(tap)  # a member's taps have its own mask
    mask = f"{tap.partition('.')[0]}{part[0] if part else '.'}mask"
    return mask if mask in available and token_axes(tap, 3) else None


def keep_top(logits: Tensor, tap: str, top: TopK) -> dict[str, Tensor]:
    """``[*items, V]`` → the k largest log-probabilities, their classes (int32), and the log of what the others have."""
    if not 0 < top.k <= logits.shape[-1]:
        raise DataError(f"Of {tap} the top {top.k} were to be kept, but it has {logits.shape[-1]} classes.")
    log_probs = (logits.float() / top.temperature).log_softmax(-1)
    values, indices = log_probs.topk(top.k, dim=-1)
    tail = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1)
    return {f"{tap}.values": values, f"{tap}.indices": indices.int(), f"{tap}.tail": tail}


def not_finite(tap: str, tensor: Tensor) -> Tensor:
    """Rows ``[B]`` that hold NaN or infinity; a log-probability may be −inf, which is a probability of 0."""
    if not tensor.is_floating_point():
        return torch.zeros(len(tensor), dtype=torch.bool)
    bad = tensor.isnan() | (tensor == torch.inf)
    if parent_of_top(tap) is None and not is_logits(tap):
        bad |= tensor == -torch.inf
    return bad.flatten(1).any(1) if tensor.ndim > 1 else bad


def peak(tensor: Tensor) -> float:
    """The largest finite magnitude, 0 for what is not a fraction."""
    if not tensor.is_floating_point() or not tensor.numel():
        return 0.0
    magnitude = tensor.abs()
    return float(magnitude.masked_fill(magnitude == torch.inf, 0).max())


def blank_padding(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zero where there is no token: what a model computes there depends on the rest of the batch."""
    blanked = {}
    for tap, tensor in features.items():
        mask = features.get(mask_of(tap, list(features)) or "")
        if mask is not None and tensor is not mask:
            for axis in token_axes(tap, tensor.ndim - 1):
                if tensor.shape[axis + 1] == mask.shape[1]:
                    shape = [len(mask), *(mask.shape[1] if at == axis else 1 for at in range(tensor.ndim - 1))]
                    tensor = torch.where(mask.bool().view(shape), tensor, torch.zeros_like(tensor))
        blanked[tap] = tensor
    return blanked


def pad_to(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros on the right of every axis, up to ``shape``."""
    if list(tensor.shape) == list(shape):
        return tensor
    grown = tensor.new_zeros(tuple(shape))
    grown[tuple(slice(size) for size in tensor.shape)] = tensor
    return grown


def side_by_side(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Tensors of one number of axes put together along ``dim``, padded along the others."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded = [pad_to(t, [t.shape[axis] if axis == dim else size for axis, size in enumerate(largest)]) for t in tensors]
    return torch.cat(padded, dim)


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """Samples' tensors as a batch, padded where they differ, in the widest of their types."""
    dtype = rows[0].dtype
    for row in rows:
        dtype = torch.promote_types(dtype, row.dtype)
    largest = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    return torch.stack([pad_to(row.to(dtype), largest) for row in rows])
