"""Small encoders and shards whose embeddings a test can compute by itself."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder

SIDE = 4


class PixelsAndLetters:
    """A picture as its pixels, a text as how often each letter occurs; only what the sample has."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        made = {}
        if "image" in self.fields and "image" in sample:
            pixels = np.asarray(sample["image"].resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
            made["image"] = torch.from_numpy(pixels / 255).flatten()
        if "text" in self.fields and "text" in sample:
            made["text"] = torch.bincount(torch.tensor(list(sample["text"].encode())), minlength=256).float()
        return made

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class FakeEncoder(Encoder):
    """Linear maps behind a BatchNorm and a dropout, so that train mode would show in the figures."""

    def __init__(
        self,
        modalities: tuple[str, ...] = ("image",),
        width: int = 16,
        seed: int = 0,
        broken: Callable[[Tensor], Tensor] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.name = f"fake {' and '.join(modalities)} encoder"
        self.modalities, self.embed_dim, self.metadata = modalities, width, metadata or {}
        self.preprocess = PixelsAndLetters(modalities)
        self.broken = broken
        self.texts_read = 0
        sizes = {"image": 3 * SIDE * SIDE, "text": 256}
        self.maps = nn.ModuleDict({name: nn.Linear(sizes[name], width) for name in modalities})
        for parameter in self.maps.parameters():
            parameter.data.normal_(generator=generator)
        self.norm, self.dropout = nn.BatchNorm1d(width), nn.Dropout(0.5)
        self.norm.running_mean = torch.randn(width, generator=generator)
        self.norm.running_var = torch.rand(width, generator=generator) + 0.5

    def taps(self) -> tuple[str, ...]:
        return tuple(f"{modality}.{what}" for modality in self.modalities for what in ("embedding", "tokens", "raw"))

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Tensor]:
        random.random(), np.random.random(), torch.rand(1)  # as a model may, even in eval mode
        features = {}
        for tap in taps:
            modality, what = tap.split(".")
            mapped = self.maps[modality](inputs[modality])
            if modality == "text":
                self.texts_read += len(mapped)
            features[tap] = mapped if what == "raw" else self.dropout(self.norm(mapped))
            if what == "tokens":
                features[tap] = features[tap][:, None].expand(-1, 2, -1)
            if self.broken is not None:
                features[tap] = self.broken(features[tap])
        return features

    def identity(self) -> str:
        return self.name


Row = Mapping[str, Any]  # key, and any of image (seed of its pixels), text, cls


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_shard(path: Path, rows: Sequence[Row]) -> str:
    with tarfile.open(path, "w") as tar:
        for row in rows:
            members: dict[str, bytes] = {}
            if "image" in row:
                buffer = io.BytesIO()
                picture(row["image"]).save(buffer, "PNG")
                members["png"] = buffer.getvalue()
            if "bytes" in row:
                members["png"] = row["bytes"]
            if "text" in row:
                members["txt"] = row["text"].encode()
            if "cls" in row:
                members["cls"] = str(row["cls"]).encode()
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{row['key']}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def make_encoder() -> type[FakeEncoder]:
    return FakeEncoder


@pytest.fixture
def make_shard(tmp_path: Path) -> Callable[..., str]:
    def make(rows: Sequence[Row], name: str = "shard-000000") -> str:
        return write_shard(tmp_path / f"{name}.tar", rows)

    return make


@pytest.fixture
def animals() -> list[dict[str, Any]]:
    """60 pictures of 24 things, with two or three pictures each and names of unlike letters."""
    return [
        {"key": f"k{index:02}", "image": index, "text": f"thing called {chr(97 + index * 7 % 24)}"}
        for index in range(60)
    ]


@pytest.fixture
def labelled(animals) -> list[dict[str, Any]]:
    """The same with a label for each of the 24 things, that of "thing called a" being 0."""
    return [{**row, "cls": ord(row["text"][-1]) - 97} for row in animals]


@pytest.fixture
def train(make_shard, labelled) -> str:
    """Other pictures of the same things, thing a the commonest, to learn from."""
    extra = [{**labelled[0], "key": f"x{index}", "image": 300 + index} for index in range(3)]
    return make_shard([*({**row, "image": row["image"] + 200} for row in labelled), *extra], "train")


@pytest.fixture
def vectors() -> Callable[..., np.ndarray]:
    """Embeddings straight from an encoder, one input at a time, in float64 and of length one."""

    def embed(encoder: Encoder, modality: str, values: Sequence[Any], tap: str | None = None) -> np.ndarray:
        was = encoder.training
        encoder.eval()
        inputs = [picture(value) if modality == "image" else value for value in values]
        name = tap or f"{modality}.embedding"
        rows = [encoder.encode(**{modality: [one]}, taps=[name])[name][0].double().numpy() for one in inputs]
        encoder.train(was)
        return np.stack([row / np.linalg.norm(row) for row in rows])

    return embed


@pytest.fixture
def clip(make_encoder):
    return make_encoder(("image", "text"), seed=3)


@pytest.fixture
def brute_force_retrieval() -> Callable[..., dict[str, float]]:
    def measure(images, image_texts, texts, text_vectors):
        """Both recalls by loops over whole sorted lists."""
        metrics = {}
        for k in (1, 5, 10):
            found = 0
            for text, vector in zip(texts, text_vectors, strict=True):
                ranked = sorted(range(len(images)), key=lambda index: -float(images[index] @ vector))
                found += text in [image_texts[index] for index in ranked[:k]]
            metrics[f"text_to_image_recall@{k}"] = found / len(texts)
            found = 0
            for image, own in zip(images, image_texts, strict=True):
                ranked = sorted(range(len(texts)), key=lambda index: -float(text_vectors[index] @ image))
                found += own in [texts[index] for index in ranked[:k]]
            metrics[f"image_to_text_recall@{k}"] = found / len(images)
        return metrics

    return measure
