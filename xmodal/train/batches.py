"""What the loop does to a batch: move it to a device and cut it into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

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
