"""Shards made to the letter of other tools' formats, by the writer that those tools use: webdataset's own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import RandAugment, RandomResizedCrop
from webdataset.writer import TarWriter

from xmodal.data import open_shards
from xmodal.data.decode import decode

PARTS = 2
WIDTH = 16
VIEWS = 5
CAPTIONS = ("a photo of it", "what one can see here", "something with colours")
OPERATIONS = [
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
]


def photographs() -> list[tuple[str, Image.Image]]:
    """Real pictures with their names: photographs of scikit-image, and emoji."""
    found = [(name, Image.fromarray(getattr(skimage.data, name)())) for name in ("astronaut", "chelsea", "coffee")]
    found = [(name, image.resize((image.width // 2, image.height // 2))) for name, image in found]
    shards = open_shards("package://emoji/names-*.tar")
    for number in range(0, 90, 10):
        sample = decode(shards.read(number), fields=("image", "text"))
        found.append((sample["text"], sample["image"]))
    return found


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


def drawn_parameters(image: Image.Image, generator: torch.Generator) -> list[Any]:
    """One view's parameters as torchvision draws them, stored as MobileCLIP stores them."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        box = [int(number) for number in RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])]
        space = RandAugment()._augmentation_space(31, (224, 224))
        operations = []
        for _ in range(2):
            number = int(torch.randint(len(OPERATIONS), (1,)))
            magnitudes, signed = space[OPERATIONS[number]]
            magnitude = float(magnitudes[9]) if magnitudes.ndim else 0.0
            operations.append([number, -magnitude if signed and torch.randint(2, (1,)) else magnitude])
    return [box, operations]


def unit_rows(rows: int, seed: int) -> np.ndarray:
    """Embeddings of two teachers side by side, each of length one."""
    parts = np.random.default_rng(seed).normal(size=(rows, PARTS, WIDTH // PARTS))
    return (parts / np.linalg.norm(parts, axis=-1, keepdims=True)).reshape(rows, WIDTH)


def reinforced_members(number: int, name: str, image: Image.Image, embeddings: str = "npz") -> dict[str, Any]:
    """One sample as the generation code hands it to webdataset's writer."""
    generator = torch.Generator().manual_seed(number)
    views = [drawn_parameters(image, generator) for _ in range(VIEWS)]
    arrays: dict[str, Any] = {
        "image_emb": unit_rows(VIEWS, 1000 + number).astype(np.float16),
        "text_emb": unit_rows(1 + len(CAPTIONS), 2000 + number).astype(np.float16),
    }
    if embeddings == "pth.gz":
        arrays = {key: torch.tensor(value.astype(np.float32), dtype=torch.bfloat16) for key, value in arrays.items()}
    return {
        "url.txt": f"https://example.org/{number}.jpg",
        "jpg": jpeg(image),
        "txt": name,
        "syn.json": json.dumps({"syn_text": [f"{caption}, {name}" for caption in CAPTIONS]}),
        "paug.json": json.dumps({"param_aug": json.dumps(views)}),
        embeddings: arrays,
        "json": json.dumps({"uid": f"{number:032x}", "sha256": "0" * 64}),
    }


def write_samples(path: Path, samples: Sequence[tuple[str, dict[str, Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = TarWriter(file)
        for key, members in samples:
            writer.write({"__key__": key, **members})
        writer.close()
    return path


def img2dataset_members(key: str, name: str, image: Image.Image) -> dict[str, Any]:
    about = {"url": "https://example.org", "caption": name, "key": key, "status": "success", "error_message": None}
    size = {"width": image.width, "height": image.height, "original_width": 640, "original_height": 480, "exif": "{}"}
    return {"jpg": jpeg(image), "txt": name, "json": json.dumps({**about, **size}, indent=4)}


def write_img2dataset(folder: Path, counts: Sequence[int], *, stated: Sequence[int | None] | None = None) -> Path:
    """An output folder: a shard of so many samples each; ``stated`` is what its statistics say, None for none yet."""
    pictures = photographs()[3:]
    for shard, count in enumerate(counts):
        samples = []
        for number in range(count):
            key = f"{shard:05d}{number:04d}"
            samples.append((key, img2dataset_members(key, *pictures[number % len(pictures)])))
        write_samples(folder / f"{shard:05d}.tar", samples)
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        said = count if stated is None else stated[shard]
        if said is not None:
            write_statistics(folder / f"{shard:05d}_stats.json", said)
    return folder


def write_statistics(path: Path, successes: int) -> None:
    statistics = {
        "count": successes + 3,
        "successes": successes,
        "failed_to_download": 2,
        "failed_to_resize": 1,
        "duration": 12.5,
        "start_time": 1.7e9,
        "end_time": 1.7e9 + 12.5,
        "status_dict": {"success": successes, "HTTP Error 404: Not Found": 2, "Image decoding error": 1},
    }
    path.write_text(json.dumps(statistics, indent=4))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def pictures() -> list[tuple[str, Image.Image]]:
    return photographs()


@pytest.fixture(scope="session")
def tar() -> Callable[..., Path]:
    return write_samples


@pytest.fixture(scope="session")
def as_png() -> Callable[[Image.Image], bytes]:
    return png


@pytest.fixture(scope="session")
def members() -> Callable[..., dict[str, Any]]:
    """``members(number, name, picture, "npz" or "pth.gz")``: a reinforced sample's members, not encoded yet."""
    return reinforced_members


@pytest.fixture(scope="session")
def reinforced_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve reinforced samples in two shards, the second one's embeddings in bfloat16."""
    folder = tmp_path_factory.mktemp("reinforced")
    pictures = photographs()
    for shard, kind in enumerate(("npz", "pth.gz")):
        rows = range(6 * shard, 6 * shard + 6)
        samples = [(f"{row:032x}", reinforced_members(row, *pictures[row], kind)) for row in rows]
        write_samples(folder / f"{shard:08d}.tar", samples)
    return folder


@pytest.fixture
def img2dataset() -> Callable[..., Path]:
    return write_img2dataset
