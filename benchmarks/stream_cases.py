"""The loaders that are compared: each gives float pictures ``[B, 3, 224, 224]`` from the same photographs, without end.

All crop a part of 8 to 100 % of the picture to 224 × 224 (bicubic), flip half of them and normalise. ``same`` decoder:
Pillow for all, and torchvision's transforms on its pictures for the peers. Otherwise each as its own pages show it.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

SIZE, SCALE, RATIO = 224, (0.08, 1.0), (0.75, 1.3333)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITDATA = "litdata"  # the folder of the optimized copies, beside the shards
ENDLESS = 10**7  # samples that a loader is told an epoch has

Batches = Iterator[Tensor]
Case = Callable[[Path, int, int, bool], Batches]


def xmodal(folder: Path, batch_size: int, workers: int, same: bool) -> Batches:
    from xmodal.data.decoders import DEFAULT_DECODER

    stream = train_stream(folder, batch_size, workers, decoder="pil" if same else DEFAULT_DECODER)
    return (batch["views"]["model"]["image"] for batch in stream)


def train_stream(folder: Path, batch_size: int, workers: int, **options: Any) -> Any:
    from xmodal.adapters.preprocess import ImagePreprocess
    from xmodal.data import TrainStream
    from xmodal.recipe import Augment

    model = ImagePreprocess(
        {
            "input_size": (3, SIZE, SIZE),
            "interpolation": "bicubic",
            "mean": MEAN,
            "std": STD,
            "crop_pct": 1.0,
            "crop_mode": "center",
        }
    )
    augment = Augment(crop_scale=SCALE, crop_ratio=RATIO, flip=0.5)
    return TrainStream(
        str(folder / "*.tar"),
        preprocess={"model": model},
        batch_size=batch_size,
        num_workers=workers,
        image_size=SIZE,
        augment=augment,
        **options,
    )


def webdataset(folder: Path, batch_size: int, workers: int, same: bool) -> Batches:
    """The pipeline of its README, with shards drawn at random as it advises for training. Pillow is its own decoder."""
    import webdataset as wds

    dataset = (
        wds.WebDataset(shards_of(folder), resampled=True, shardshuffle=False)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(pil_transform(), int)
        .batched(batch_size, partial=False)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers)
    return (batch[0] for batch in loader)


def open_clip(folder: Path, batch_size: int, workers: int, same: bool) -> Batches:
    """The pipeline that it trains with. Its own transform is Pillow's too; here it is told to crop as the others do."""
    import open_clip_train.data
    from open_clip.transform import image_transform
    from webdataset.tariterators import tar_file_expander

    # open_clip 3.3 takes the marks that webdataset 1 puts between shards for samples, and stops: it gets none
    open_clip_train.data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    own = image_transform(SIZE, is_train=True, mean=MEAN, std=STD, aug_cfg={"scale": SCALE})
    settings = SimpleNamespace(
        train_data="::".join(shards_of(folder)),
        train_data_upsampling_factors=None,
        train_num_samples=ENDLESS,
        dataset_resampled=True,
        seed=0,
        batch_size=batch_size,
        workers=workers,
        world_size=1,
    )
    data = open_clip_train.data.get_wds_dataset(
        settings, pil_transform() if same else own, is_train=True, tokenizer=lambda text: torch.zeros(1, 1)
    )
    return (batch[0] for batch in data.dataloader)


def litdata(folder: Path, batch_size: int, workers: int, same: bool) -> Batches:
    """Its own format. Its decoder is torchvision's ``decode_jpeg``, whose tensors torchvision's v2 transforms take."""
    from litdata import StreamingDataLoader, StreamingDataset

    transform = from_bytes if same else FromTensor()
    dataset = StreamingDataset(
        str(folder / LITDATA / ("bytes" if same else "jpeg")), shuffle=True, transform=transform, drop_last=True
    )
    loader = StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, drop_last=True)

    def without_end() -> Batches:
        while True:
            yield from loader

    return without_end()


PEERS: Mapping[str, Case] = {"webdataset": webdataset, "open_clip": open_clip, "litdata": litdata}
CASES: Mapping[str, Case] = {"xmodal": xmodal, **PEERS}


def bare_loop(folder: Path, pictures: int) -> Callable[[], None]:
    """Pillow decodes, crops and resizes pictures that lie in memory, and throws them away: no loader, no tensors."""
    from xmodal.data import open_shards
    from xmodal.data.augment import crop_box
    from xmodal.recipe import Augment

    shards, settings, draw = (
        open_shards(str(folder / "*.tar")),
        Augment(crop_scale=SCALE, crop_ratio=RATIO),
        random.Random(0),
    )
    step = max(1, len(shards) // pictures)
    files = [shards.read(number * step % len(shards)).members["jpg"] for number in range(pictures)]

    def loop() -> None:
        for data in files:
            image = Image.open(io.BytesIO(data))
            image.load()
            image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=crop_box(image.size, settings, draw))

    return loop


def optimize_for_litdata(folder: Path, copies: int) -> None:
    """The pictures of the shards in litdata's format, as plain bytes and as its own JPEG type.

    Its epochs end, and with them its workers: with some ``copies`` of all pictures none ends while it is timed.
    """
    from litdata import optimize

    from xmodal.data import open_shards

    shards = open_shards(str(folder / "*.tar"))
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for number in range(len(shards)):
            files.append(Path(scratch) / f"{number}.jpg")
            files[-1].write_bytes(shards.read(number).members["jpg"])
        for kind, read in (("bytes", _read_bytes), ("jpeg", _read_picture)):
            optimize(
                fn=read,
                inputs=[str(file) for _ in range(copies) for file in files],
                output_dir=str(folder / LITDATA / kind),
                chunk_bytes="64MB",
                num_workers=1,
                start_method="fork",  # else it makes another one the default of this whole process
                verbose=False,
            )


def _read_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _read_picture(path: str) -> Image.Image:
    return Image.open(path)


def pil_transform() -> Callable[[Image.Image], Tensor]:
    """From a Pillow picture to a tensor in torchvision's usual way."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                SIZE, scale=SCALE, ratio=RATIO, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


_usual: list[Callable[[Image.Image], Tensor]] = []


def from_bytes(data: bytes) -> Tensor:
    if not _usual:
        _usual.append(pil_transform())
    return _usual[0](Image.open(io.BytesIO(data)).convert("RGB"))


class FromTensor:
    """From bytes ``[3, H, W]`` to a normalised picture by torchvision's v2 transforms."""

    def __init__(self) -> None:
        from torchvision.transforms import v2

        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(
                    SIZE, scale=SCALE, ratio=RATIO, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
                ),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, picture: Tensor) -> Tensor:
        result: Tensor = self.transform(picture)
        return result


def shards_of(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]
