"""What the loop does to a batch: move it to a device and cut it into parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import DataError

Batch = dict[str, Any]
"""``key``: list of str; ``text``, ``label`` where the data has them; ``views``: model → input → tensor."""


def num_rows(batch: Batch) -> int:
    """How many samples a batch holds."""
    return len(batch["key"])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on ``device``."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        return {name: move(entry) for name, entry in value.items()} if isinstance(value, dict) else value

    return {name: move(value) for name, value in batch.items()}


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch in ``parts`` of consecutive rows, sizes differing by at most one; fewer where it has fewer rows."""
    rows = num_rows(batch)
    parts = min(parts, rows)
    bounds = [part * rows // parts for part in range(parts + 1)]

    def cut(value: Any, start: int, stop: int) -> Any:
        if isinstance(value, dict):
            return {name: cut(entry, start, stop) for name, entry in value.items()}
        return value[start:stop] if isinstance(value, Tensor | Sequence) else value

    return [cut(batch, start, stop) for start, stop in pairwise(bounds)]


def tensor_fields(batch: Batch) -> dict[str, Tensor]:
    """The batch's own fields that are tensors, such as ``label``."""
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


def take_fields(batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
    """The fields of those names, without what a batch of several sources says that it lacks.

    Raises :class:`DataError` where the batch lacks one: not every sample has it.
    """
    fields = tensor_fields(batch)
    names = [name for name in names if name in fields or name not in batch.get("present", {})]
    missing = [name for name in names if name not in fields]
    if missing:
        raise DataError(
            f"The objective needs {', '.join(missing)} of every sample, but one of {batch['key'][0]} … "
            f"{batch['key'][-1]} has none."
        )
    return {name: fields[name] for name in names}
