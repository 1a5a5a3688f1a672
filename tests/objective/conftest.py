"""Small encoders that have every kind of tap, and a batch for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.errors import AdapterError
from xmodal.recipe import Term


class SmallEncoder(Encoder):
    """Linear, BatchNorm and Dropout: ``x`` ``[B, 6]`` → embedding, features of another width, tokens, layers, a map."""

    def __init__(self, name: str, modality: str, embed_dim: int, token_dim: int = 6) -> None:
        super().__init__()
        self.name, self.modalities, self.embed_dim, self.modality = name, (modality,), embed_dim, modality
        self.net = nn.Sequential(nn.Linear(6, embed_dim), nn.BatchNorm1d(embed_dim), nn.Dropout(0.5))
        self.token = nn.Linear(6, token_dim)
        self.num_calls = 0
        self.asked: tuple[str, ...] = ()

    def taps(self) -> tuple[str, ...]:
        stems = ("embedding", "tokens", "mask", "map", "attention", "hidden.0", "hidden.1", "hidden.2")
        return tuple(f"{self.modality}.{stem}" for stem in stems)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        self.num_calls += 1
        self.asked = tuple(taps)
        x = inputs["x"]
        if f"{self.modality}.map" in taps and "map" not in inputs:
            raise AdapterError(f"{self.name} gives maps for pictures only")
        embedding = self.net(x)
        tokens = self.token(x)[:, None, :] * torch.arange(1.0, 4.0)[:, None]
        every = {
            "embedding": embedding,
            "tokens": tokens,
            "mask": inputs.get("mask", torch.ones(tokens.shape[:2], dtype=torch.long)),
            "map": embedding[:, :, None, None].expand(-1, -1, 2, 2),
            "attention": None,  # what some libraries hand out under SDPA
            **{f"hidden.{layer}": tokens + layer for layer in range(3)},
        }
        return {tap: every[tap.removeprefix(f"{self.modality}.")] for tap in taps}

    def identity(self) -> str:
        return self.name


@pytest.fixture
def make_encoder() -> Callable[..., SmallEncoder]:
    return SmallEncoder


@pytest.fixture
def models() -> dict[str, SmallEncoder]:
    """An image student 8 wide, in train mode, and a frozen text teacher 4 wide; tokens are 6 wide in both."""
    torch.manual_seed(0)
    student = SmallEncoder("image (small)", "image", 8)
    return {"student": student.train(), "teacher": SmallEncoder("sentence (small)", "text", 4).freeze()}


@pytest.fixture
def views() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
    return {name: {"x": torch.randn(5, 6, generator=generator), "mask": mask} for name in ("student", "teacher")}


@pytest.fixture
def embedding_term() -> Callable[..., Term]:
    """A term between the student's and the teacher's embedding; other widths, so with a projection."""

    def make(loss: str = "feature_cosine", **more: object) -> Term:
        return Term(
            **{"loss": loss, "student": "image.embedding", "teacher": "text.embedding", "projection": "linear", **more}
        )

    return make
