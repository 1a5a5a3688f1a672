"""A batch in parts: what says which items of a part are valid, and what each part weighs in the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from xmodal.adapters.encoder import Encoder, Features
from xmodal.objective import Objective
from xmodal.objective.references import BATCH
from xmodal.train.batches import Batch, num_rows, take_fields


@torch.no_grad()
def masks_of(part: Batch, models: Mapping[str, Encoder], objective: Objective) -> dict[str, Features]:
    """The taps of each model that are masks, and the fields that the objective asks for."""
    masks = {name: models[name](part["views"][name], taps) for name, taps in objective.mask_taps().items()}
    return {**masks, BATCH: take_fields(part, objective.fields())}


def shares_of(
    parts: Sequence[Batch],
    masks: Sequence[Mapping[str, Features]],
    objective: Objective,
    sum_over_ranks: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """For each part, what each term's mean weighs in the whole batch, over all ranks."""
    counts = []
    for part, mask in zip(parts, masks, strict=True):
        counted = objective.counts(mask, num_rows(part))
        row = [torch.as_tensor(counted[label], dtype=torch.float32, device=device) for label in objective.labels]
        counts.append(torch.stack(row))
    table = torch.stack(counts)  # [parts, terms]
    total = sum_over_ranks({"counts": table.sum(0)})["counts"].clamp(min=1)
    return [dict(zip(objective.labels, row / total, strict=True)) for row in table]
