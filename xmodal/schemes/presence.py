"""Models over batches of which some rows lack a modality: they see the rows that have it, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.texts import MARK

Present = Mapping[str, Tensor]
"""Field of a batch → bool ``[B]``, which rows have it; fields that every row has are not in it."""


def presence_of(encoder: Encoder, taps: Sequence[str], present: Present) -> dict[str, Tensor]:
    """Tap → which rows have it, bool ``[B]``, for the taps that some rows lack."""
    known = {tap: [present[name] for name in modalities_of(encoder, tap) if name in present] for tap in taps}
    return {tap: torch.stack(masks).all(0) for tap, masks in known.items() if masks}


def features_of(encoder: Encoder, inputs: Mapping[str, Tensor], taps: Sequence[str], present: Present) -> Features:
    """The encoder's taps for all rows, zero where a row lacks the modality; a tap that no row has is left out.

    Each modality is run by itself over the rows that have it, so blanks reach no BatchNorm and cost no time.
    """
    lacking = presence_of(encoder, taps, present)
    if not lacking:
        return encoder(inputs, taps)  # type: ignore[no-any-return]
    features: Features = {}
    groups: dict[tuple[str, ...], list[str]] = {}
    for tap in taps:
        groups.setdefault(modalities_of(encoder, tap), []).append(tap)
    for modalities, own_taps in groups.items():
        own = {name: tensor for name, tensor in inputs.items() if _belongs(name, modalities, encoder)}
        mask = lacking.get(own_taps[0])
        if mask is None or bool(mask.all()):
            features.update(encoder(own, own_taps))
        elif bool(mask.any()):
            rows = mask.nonzero()[:, 0]
            found = encoder({name: tensor[rows] for name, tensor in own.items()}, own_taps)
            features.update({tap: _spread(feature, rows, len(mask)) for tap, feature in found.items()})
    return features


def modalities_of(encoder: Encoder, tap: str) -> tuple[str, ...]:
    """What a tap is computed from: the modality or further text at its head, or all of the model's modalities."""
    head = tap.partition(".")[0]
    return (head,) if head in encoder.reads else encoder.modalities


def _belongs(name: str, modalities: tuple[str, ...], encoder: Encoder) -> bool:
    text, mark, _ = name.partition(MARK)
    if mark:
        return text in modalities
    others = [modality for modality in encoder.modalities if modality not in modalities]
    return not any(name.startswith(other) for other in others)


def _spread(feature: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    if feature.ndim == 0:
        return feature
    return feature.new_zeros(num_rows, *feature.shape[1:]).index_copy(0, rows, feature)
