"""The checks behind the table's cells. What a check finds is the cell's text; what it does not find fails the test."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import xmodal
from tests.adapters.table.library import Own
from tests.adapters.table.workshop import STEPS, Workshop
from xmodal.adapters import Encoder
from xmodal.taps import layer_of

YES = "yes"
_MASKS = {"text_mask", "text_types"}
"""What we take along for a model whose library wants no mask of it."""

_RANKS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("logit_scale", "logit_bias"), (0,)),
    **dict.fromkeys(("embedding", "features", "mask", "part", "logits"), (2,)),
    **dict.fromkeys(("tokens", "pooled", "query", "key", "value", "text.logits"), (3,)),
    **dict.fromkeys(("map", "attention", "scores"), (4,)),
    "hidden": (3, 4),  # tokens or a map
}
"""Axes of a tap, by the whole of its name or the last part of it, as docs/adapters.md has them."""


def loads(encoder: Encoder, adapter: str, *, frozen: bool) -> str:
    assert encoder.frozen == frozen
    assert encoder.training != frozen
    assert all(parameter.requires_grad != frozen for parameter in encoder.parameters())
    assert encoder.spec.get("name", "") == adapter  # "" where it was not made by name
    assert len(encoder.identity()) == 16
    return YES


def preprocesses(inputs: Mapping[str, Tensor], own: Own) -> str:
    assert own.inputs
    assert not set(inputs) - set(own.inputs) - _MASKS
    for name, tensor in own.inputs.items():
        assert tensor.dtype == inputs[name].dtype, name
        assert torch.equal(tensor, inputs[name]), name
    return YES


def gives_taps(encoder: Encoder, inputs: Mapping[str, Tensor]) -> str:
    batch = 2  # attentions of long texts are large
    inputs = {name: tensor[:batch] for name, tensor in inputs.items()}
    with torch.no_grad():
        features = encoder(inputs, encoder.taps())
    assert list(features) == list(encoder.taps())
    for tap, tensor in features.items():
        stem, _ = layer_of(tap)
        assert tensor.ndim in _RANKS[stem if stem in _RANKS else stem.rpartition(".")[2]], (tap, tensor.shape)
        assert not tensor.ndim or len(tensor) == batch, (tap, tensor.shape)
        masked = (tensor == -math.inf) if ".scores." in tap else torch.zeros_like(tensor, dtype=torch.bool)
        assert (tensor.isfinite() | masked).all(), tap
    return str(len(features))


def agrees(encoder: Encoder, inputs: Mapping[str, Tensor], own: Own) -> str:
    """The library's embeddings are ours to 1e-6 of their size, and tell samples apart."""
    with torch.no_grad():
        features = encoder(inputs, list(own.embeddings))
    assert set(own.embeddings) == {f"{modality}.embedding" for modality in encoder.modalities}
    for tap, theirs in own.embeddings.items():
        assert (features[tap] - theirs).abs().max() <= 1e-6 * max(1, theirs.abs().max()), tap
        assert theirs.std(0).max() > 1e-3, tap
    return YES


def teaches(encoder: Encoder, workshop: Workshop, **options: str) -> str:
    before = encoder.state_hash()
    run = workshop.distill(encoder, workshop.pupil, encoder.modalities, **options)
    assert encoder.state_hash() == before
    assert not any(module.training for module in encoder.modules())
    return has_learnt(run, workshop, len(encoder.modalities))


def has_learnt(run: xmodal.Run, workshop: Workshop, terms: int) -> str:
    """The pupil of a run is no longer what it was."""
    _check_losses(run, terms)
    assert run.student.state_hash() != workshop.pupil.state_hash()
    return YES


def learns(
    run: xmodal.Run, before: Encoder, after: Encoder, still: tuple[str, ...] = (), folded: tuple[str, ...] = ()
) -> str:
    """All parameters of a student moved but those ``still``; ``folded`` are in others since it was saved."""
    _check_losses(run, len(before.modalities))
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert old.keys() == {*new, *folded}
    assert {name for name in new if torch.equal(old[name], new[name])} == set(still)
    return YES


def _check_losses(run: xmodal.Run, terms: int) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    values = [value for line in lines if "terms" in line for value in line["terms"].values()]
    assert len(values) == STEPS * terms
    assert all(map(math.isfinite, values))


def exports(student: Encoder, folder: Path, files: tuple[str, ...]) -> str:
    assert xmodal.save_student(student, folder) == folder
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {*files, "README.md"} <= there
    return YES
