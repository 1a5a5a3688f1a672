"""Two encoders of a few numbers each, so that a step takes a millisecond and gradients can be compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xmodal.adapters.encoder import Encoder


class Bare:
    """A preprocess for samples that are tensors already."""

    fields = ("image",)

    def __call__(self, sample):
        return dict(sample)

    def collate(self, items):
        return {"x": torch.stack([item["image"] for item in items])}


class TinyEncoder(Encoder):
    """``image.embedding`` [B, D], ``image.tokens`` [B, L, D] and ``image.mask`` [B, L]."""

    modalities = ("image",)

    def __init__(self, in_dim=4, embed_dim=3, *, norm=False, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.name, self.embed_dim, self.preprocess = f"tiny {embed_dim}", embed_dim, Bare()
        layers = [nn.Linear(in_dim, embed_dim), *([nn.BatchNorm1d(embed_dim)] if norm else [])]
        self.model = nn.Sequential(*layers)

    def taps(self):
        return ("image.embedding", "image.tokens", "image.mask")

    def compute(self, inputs, taps):
        features = {}
        if "image.embedding" in taps:
            features["image.embedding"] = self.model(inputs["x"])
        if "image.tokens" in taps:
            features["image.tokens"] = self.model[0](inputs["sequence"])
        if "image.mask" in taps:
            features["image.mask"] = torch.arange(inputs["sequence"].shape[1]) < inputs["lengths"][:, None]
        return features

    def identity(self):
        return "tiny"


@pytest.fixture
def make_encoder():
    return TinyEncoder


@pytest.fixture
def batch():
    """Eight rows with sequences of unlike length."""
    generator = torch.Generator().manual_seed(1)
    view = {
        "x": torch.randn(8, 4, generator=generator),
        "sequence": torch.randn(8, 5, 4, generator=generator),
        "lengths": torch.tensor([5, 1, 3, 5, 2, 4, 1, 1]),
    }
    return {"key": [str(row) for row in range(8)], "views": {"student": view, "teacher": view}}
