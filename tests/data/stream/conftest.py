"""Small shards, two models and the streams that the tests of this folder run."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence, Set
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.stream import TrainStream
from xmodal.recipe import Augment

BROKEN = {3, 17, 40}


class Pixels:
    """A model that sees the picture as it is, and its own short side."""

    fields = ("image",)

    def __call__(self, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        image = sample["image"]
        return {"pixels": torch.from_numpy(np.array(image.resize((6, 6)))), "size": torch.tensor(image.size)}

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class Lengths:
    """A model of texts."""

    fields = ("text",)

    def __call__(self, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"length": torch.tensor(len(sample["text"]))}

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {"length": torch.stack([item["length"] for item in items])}


def png(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def write_shards(folder: Path, counts: Sequence[int], broken: Set[int] = frozenset()) -> str:
    """Shards of numbered samples, picture, text and label; the broken ones' pictures are no pictures."""
    folder.mkdir(exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as tar:
            for _ in range(count):
                picture = b"not a picture" if number in broken else png(number)
                for extension, data in (("png", picture), ("txt", b"x" * (number + 1)), ("cls", b"%d" % number)):
                    member = tarfile.TarInfo(f"{number:03d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                number += 1
    return str(folder / "part-*.tar")


def make_stream(shards: Any, **options: Any) -> TrainStream:
    models = {"student": Pixels(), "teacher": Lengths()}
    changes = Augment(crop_scale=(0.5, 1.0), flip=0.5, color_jitter=0.3)
    defaults = {"preprocess": models, "batch_size": 8, "image_size": 12, "augment": changes, "seed": 3}
    return TrainStream(shards, **{**defaults, **options})


def take_batches(stream: TrainStream, count: int) -> list[list[Any]]:
    with closing(iter(stream)) as batches:
        return [plain(batch) for batch in islice(batches, count)]


def plain(batch: dict[str, Any]) -> list[Any]:
    """A batch as plain values that can be compared: keys, texts, labels, views."""
    views = {model: {name: tensor.tolist() for name, tensor in view.items()} for model, view in batch["views"].items()}
    return [batch["key"], batch["text"], batch["label"].tolist(), views]


@pytest.fixture(scope="session")
def make() -> Callable[..., TrainStream]:
    """Makes a stream; options replace those of these tests."""
    return make_stream


@pytest.fixture(scope="session")
def take() -> Callable[[TrainStream, int], list[list[Any]]]:
    """Takes so many batches, as plain values, and leaves the loop."""
    return take_batches


@pytest.fixture(scope="session")
def flat() -> Callable[[dict[str, Any]], list[Any]]:
    return plain


@pytest.fixture(scope="session")
def pixels() -> type[Pixels]:
    return Pixels


@pytest.fixture(scope="session")
def lengths() -> type[Lengths]:
    return Lengths


@pytest.fixture(scope="session")
def picture() -> Callable[[int], bytes]:
    """The encoded picture of the sample with this number."""
    return png


@pytest.fixture(scope="session")
def write() -> Callable[..., str]:
    return write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """52 samples in three shards."""
    return write_shards(tmp_path_factory.mktemp("shards"), [20, 13, 19])


@pytest.fixture(scope="session")
def broken_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 samples in two shards, those of the fixture ``broken`` without a picture."""
    return write_shards(tmp_path_factory.mktemp("broken"), [30, 30], BROKEN)


@pytest.fixture(scope="session")
def broken() -> set[str]:
    return {f"{number:03d}" for number in BROKEN}


@pytest.fixture(scope="session")
def uninterrupted(shards: str) -> list[list[Any]]:
    """Twenty batches: three epochs of 52 samples and a little."""
    return take_batches(make_stream(shards), 20)
