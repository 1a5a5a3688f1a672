"""What a training picture costs, by decoder: decode alone, then decode, crop to 224 px, flip, normalise.

    python benchmarks/decoders.py [--seconds 2] [--json FILE]

JPEG and WebP photos of 500 px and JPEG of 1600 px (scikit-image's, encoded anew at quality 90), and the emoji that come
with xmodal (WebP, 64 px). One thread. The decoders take turns, a dozen or more pictures each, so that all meet the
machine in the same mood and each finds the memory as it left it; figures are medians. ``torchvision transforms`` is the
usual way: Pillow, RandomResizedCrop, ToTensor, Normalize.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import skimage.data
import torch
from PIL import Image

from xmodal.adapters.preprocess import ImagePreprocess
from xmodal.data import open_shards
from xmodal.data.augment import read_augmented
from xmodal.data.decoders import DECODERS, decode_picture
from xmodal.recipe import Augment

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
USUAL = "torchvision transforms"
SIZE, SCALE = 224, (0.35, 1.0)
_NORMALISED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

Work = Callable[[bytes, int], Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row of the table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "The image decoding and encoding", DeprecationWarning)
    torch.set_num_threads(1)
    rows = []
    print(f"{'ms a picture':34}" + "".join(f"{name:>18}" for name in DECODERS) + f"{USUAL:>24}")
    for name, pictures in collections().items():
        for step, works in (("decode", decoding()), ("decode, augment, normalise", augmenting())):
            times = interleaved(works, pictures, options.seconds)
            rows.append(
                {"pictures": name, "step": step, "milliseconds": {key: round(t, 4) for key, t in times.items()}}
            )
            shown = "".join(f"{times[name]:18.2f}" for name in DECODERS)
            print(f"{name:20}{step[:13]:14}{shown}" + (f"{times[USUAL]:24.2f}" if USUAL in times else ""))
    if options.json:
        packages = ("pillow", "simplejpeg", "torchvision", "torch")
        versions = {package: importlib.metadata.version(package) for package in packages}
        options.json.write_text(json.dumps({"versions": versions, "threads": 1, "rows": rows}, indent=1) + "\n")


def collections() -> dict[str, list[bytes]]:
    """Encoded pictures by the name of their row."""
    shards = open_shards("package://emoji/train-*.tar")
    emoji = [shards.read(row).members["webp"] for row in range(0, 320, 20)]
    return {
        "JPEG 500 px": [photo(name, 500, "JPEG") for name in PHOTOS],
        "JPEG 1600 px": [photo(name, 1600, "JPEG") for name in PHOTOS],
        "WebP 500 px": [photo(name, 500, "WEBP") for name in PHOTOS],
        "WebP emoji 64 px": emoji,
    }


def photo(name: str, side: int, format: str) -> bytes:
    """One of scikit-image's pictures, ``side`` pixels long."""
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    scale = side / max(image.size)
    buffer = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).save(
        buffer, format, quality=90
    )
    return buffer.getvalue()


def decoding() -> dict[str, Work]:
    def work(decoder: str) -> Work:
        # as a crop of the whole side at SIZE would ask for it
        return lambda data, _: decode_picture(data, decoder, lambda size: min(1.0, SIZE / min(size)))

    return {decoder: work(decoder) for decoder in DECODERS}


def augmenting() -> dict[str, Work]:
    from torchvision import transforms

    settings = Augment(crop_scale=SCALE, flip=0.5)
    preprocess = ImagePreprocess(
        {
            "input_size": (3, SIZE, SIZE),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            **_NORMALISED,
        }
    )
    usual = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, SCALE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(**_NORMALISED),
        ]
    )

    def ours(decoder: str) -> Work:
        def work(data: bytes, number: int) -> Any:
            image = read_augmented(data, settings, decoder=decoder, size=SIZE, seed=0, view=number, key="picture")
            return preprocess({"image": image})

        return work

    def theirs(data: bytes, _: int) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            return usual(image.convert("RGB"))

    return {**{decoder: ours(decoder) for decoder in DECODERS}, USUAL: theirs}


def interleaved(works: Mapping[str, Work], pictures: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Median milliseconds a picture of each work. A turn is at least a dozen pictures, its first one not counted."""
    turn = list(pictures) * (1 + 12 // len(pictures))
    times: dict[str, list[float]] = {name: [] for name in works}
    end = time.perf_counter() + seconds
    number = 0
    while number < 1 or time.perf_counter() < end:
        for name, work in works.items():
            work(turn[0], number)
            for place, data in enumerate(turn):
                start = time.perf_counter()
                work(data, number * len(turn) + place)
                times[name].append(1000 * (time.perf_counter() - start))
        number += 1
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main()
