"""A batch in parts: what says which items of a part are valid, and what each part weighs in the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.modes import in_eval_mode
from xmodal.objective import Objective
from xmodal.objective.presence import Presence
from xmodal.objective.references import BATCH
from xmodal.schemes.presence import features_of, presence_of
from xmodal.train.batches import Batch, num_rows, take_fields


@torch.no_grad()
def masks_of(part: Batch, models: Mapping[str, Encoder], objective: Objective) -> dict[str, Features]:
    """The taps of each model that are masks, and the fields that the objective asks for."""
    present, wanted = part.get("present", {}), objective.mask_taps()
    with in_eval_mode(*(models[name] for name in wanted)):
        masks = {name: features_of(models[name], part["views"][name], taps, present) for name, taps in wanted.items()}
    return {**masks, BATCH: take_fields(part, objective.fields())}


def presence_in(part: Batch, models: Mapping[str, Encoder], objective: Objective) -> Presence:
    """Which rows of a part have the taps of each model and the fields that the objective asks for."""
    present = part.get("present", {})
    taps, fields = objective.taps(), objective.fields()
    known = {name: presence_of(model, taps.get(name, ()), present) for name, model in models.items()}
    return {**known, BATCH: {name: rows for name, rows in present.items() if name in fields}}


def shares_of(
    parts: Sequence[Batch],
    masks: Sequence[Mapping[str, Features]],
    presences: Sequence[Presence],
    objective: Objective,
    sum_over_ranks: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """For each part, what each term's mean weighs in the whole batch, over all ranks."""
    counts = []
    for part, mask, presence in zip(parts, masks, presences, strict=True):
        counted = objective.counts(mask, num_rows(part), presence)
        row = [torch.as_tensor(counted[label], dtype=torch.float32, device=device) for label in objective.labels]
        counts.append(torch.stack(row))
    table = torch.stack(counts)  # [parts, terms]
    total = sum_over_ranks({"counts": table.sum(0)})["counts"].clamp(min=1)
    return [dict(zip(objective.labels, row / total, strict=True)) for row in table]
