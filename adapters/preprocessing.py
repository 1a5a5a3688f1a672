"""What every model's preprocessing can do: a sample to the model's inputs, a batch's inputs to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

Sample = Mapping[str, Any]
"""One decoded sample: ``key`` and any of ``image`` (RGB PIL image), ``text`` (str), ``audio``, ``label``."""


class Preprocess(Protocol):
    """A model's own resize, normalisation and tokenisation. Picklable and free of weights: workers run it.

    ``fields`` are the sample's fields that it reads (``image``, ``text``, …); others are left alone.
    """

    fields: tuple[str, ...]

    def __call__(self, sample: Sample) -> dict[str, Any]:
        """One augmented sample → this model's inputs, not batched."""

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Inputs of a batch's samples → one mapping of tensors, padded where lengths differ.

        One that can be done in two parts has ``gather(items)``, which workers run and whose result is cheap to send,
        and ``finish(inputs)``, which the process does that asked for the batch.
        """


def gather(preprocess: Preprocess, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first part of ``preprocess.collate``, or all of it."""
    inputs: dict[str, Any] = getattr(preprocess, "gather", preprocess.collate)(items)
    return inputs


def finish(preprocess: Preprocess, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The second part of ``preprocess.collate``, if there is one."""
    inputs = preprocess.finish(inputs) if hasattr(preprocess, "finish") else inputs
    return dict(inputs)
