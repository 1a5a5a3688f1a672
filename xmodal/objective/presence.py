"""Rows that lack a modality: a term is about the rows that have all that it compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from xmodal.adapters.encoder import Features
from xmodal.objective.references import Reference

Presence = Mapping[str, Mapping[str, Tensor]]
"""Model → tap → bool ``[B]``, which rows have it; taps that every row has are not in it."""


def rows_with(references: Iterable[Reference], present: Presence | None) -> Tensor | None:
    """Which rows have every one of the taps, bool ``[B]``; None where all rows do."""
    present = present or {}
    masks = [
        present[reference.model][reference.tap]
        for reference in references
        if reference.tap in present.get(reference.model, {})
    ]
    return torch.stack(masks).all(0) if masks else None


def only_rows(
    references: Iterable[Reference], features: Mapping[str, Features], rows: Tensor | None
) -> Mapping[str, Features] | None:
    """The features with only those ``rows`` that :func:`rows_with` found for the taps; None where no row has all.

    Taps that are not there yet are left out, and a tap without a batch axis stays as it is.
    """
    if rows is None or bool(rows.all()):
        return features
    if not bool(rows.any()):
        return None
    chosen: dict[str, Features] = {}
    for reference in references:
        feature = features.get(reference.model, {}).get(reference.tap)
        if feature is not None:
            taken = feature[rows] if feature.ndim else feature
            chosen.setdefault(reference.model, {})[reference.tap] = taken
    return chosen
