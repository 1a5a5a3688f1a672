"""Taps that are padded to the longest of their batch: without a mask, the padding would count."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Size

from xmodal.adapters.encoder import Encoder
from xmodal.errors import Mistake
from xmodal.losses import Input, Loss
from xmodal.objective.references import STUDENT, Reference
from xmodal.objective.terms import CheckedTerm


def check_padding(
    entry: CheckedTerm, loss: Loss, models: Mapping[str, Encoder], shapes: Mapping[Reference, Size]
) -> list[Mistake]:
    """A term over positions that leaves out the mask, of a model that has one.

    How much padding there is depends on who shares a batch, and so would the value: ranks and parts of a batch, each
    padded to its own longest, would not combine to what the whole batch has.
    """
    if entry.masks or loss.kind != "per_item" or not loss.masks:
        return []
    padded: dict[str, Reference] = {}  # how a recipe writes the mask → the first tap that it is for
    for given, _, reference in entry.tensors:
        mask = _mask_tap(models.get(reference.model), reference)
        if mask is not None and _has_positions(given, shapes[reference]):
            padded.setdefault(mask if reference.model == STUDENT else f"{reference.model}:{mask}", reference)
    if not padded:
        return []
    first = next(iter(padded.values()))
    if len(loss.masks) == 1:
        mend = " or ".join(f"`mask: {tap}`" for tap in padded)
    else:
        named = ", ".join(f"{mask.name}: {tap}" for mask, tap in zip(loss.masks, padded, strict=False))
        mend = f"`mask: {{{named}}}`"
    why = f"{first} is padded to the longest of its batch, and padding would count: add {mend}"
    return [Mistake(f"{entry.path}.mask", why)]


def check_rungs(entry: CheckedTerm, models: Mapping[str, Encoder], shapes: Mapping[Reference, Size]) -> list[Mistake]:
    """Rungs of a ladder that are padded sequences, where they would be averaged, padding and all."""
    if not any(len(shapes[ref]) == 2 for _, _, ref in entry.tensors if ref.model == STUDENT):
        return []
    return [
        Mistake(rung.path, f"{rung} is padded to the longest of its batch, and padding would count in its mean")
        for rung in entry.rungs
        if len(shapes[rung]) == 3 and _mask_tap(models.get(rung.model), rung) is not None
    ]


def _mask_tap(model: Encoder | None, reference: Reference) -> str | None:
    """The tap that says which positions of this one are valid."""
    if model is None:
        return None
    head = reference.tap.partition(".")[0]
    modality = head if head in model.reads or len(model.modalities) != 1 else model.modalities[0]
    return mask if (mask := f"{modality}.mask") in model.every_tap() else None


def _has_positions(given: Input, shape: Size) -> bool:
    """Whether an input is ``[B, L, …]``: named so, or, where any axes will do, rows of rows of features."""
    return any(axis.endswith("length") for axis in given.axes) or (given.axes[:1] == ("*items",) and len(shape) == 3)
