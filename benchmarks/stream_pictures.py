"""A data set of photographs, made from the samples of scikit-image and scikit-learn: JPEG in tar shards."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 500  # pixels, the longer one, about: ImageNet's usual
QUALITIES = (80, 85, 90, 95)
EPOCH = 1_600_000_000  # of every member, so that the same call writes the same bytes


def write_shards(folder: Path, pictures: int, shards: int, seed: int = 0) -> list[Path]:
    """``pictures`` different JPEG files, each with a caption and a class, in ``shards`` WebDataset tar files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photos-{number:04d}.tar" for number in range(shards)]
    samples = jpegs(pictures, seed)
    for number, path in enumerate(paths):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(number * pictures // shards, (number + 1) * pictures // shards):
                name, data = next(samples)
                for extension, content in (("jpg", data), ("txt", f"a photo, {name}".encode()), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{index:06d}.{extension}")
                    member.size, member.mtime = len(content), EPOCH
                    tar.addfile(member, io.BytesIO(content))
    return paths


def jpegs(pictures: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names of photographs and JPEG files of parts of them: another crop, mirroring, size and quality every time."""
    originals = photographs()
    names = sorted(originals)
    draw = random.Random(seed)
    for number in range(pictures):
        name = names[number % len(names)]
        image = originals[name]
        share = draw.uniform(0.6, 1.0)
        width, height = round(image.width * share), round(image.height * share)
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        long_side = draw.uniform(0.8, 1.2) * SIDE
        scale = long_side / max(width, height)
        image = image.resize(
            (round(width * scale), round(height * scale)),
            Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )
        if draw.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=draw.choice(QUALITIES))
        yield name, buffer.getvalue()


def photographs() -> dict[str, Image.Image]:
    """The colour photographs that come inside the two packages, at most 800 pixels wide or high."""
    import skimage.data
    import sklearn.datasets

    arrays = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket", "retina")}
    arrays["hubble"] = skimage.data.hubble_deep_field()
    arrays["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    arrays |= {name: sklearn.datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    images = {name: Image.fromarray(np.asarray(array)[..., :3]) for name, array in arrays.items()}
    for image in images.values():
        image.thumbnail((800, 800))
    return images
