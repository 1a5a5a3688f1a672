"""Build shards of clip art with names and categories from Openclipart's pictures.

    python examples/build_clipart_shards.py --out runs/data/clipart

takes the package `openclipart-png` from Debian (`apt-get download`; 130 MB), or from a folder with the .deb, or with
what was in it, with `--packages DIR`. Pictures become squares of 96 pixels on white. Names are read off the files'.
About one name in seven is held out, by a hash of the name, so that pictures of one name are on one side. What nobody
sorted into a category is not tested on. A picture that comes twice is taken once, and of one name 40 pictures at most.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from building import Sample, debian_package, to_json, write_splits
from clipart_names import readable_name
from PIL import Image, ImageOps

from xmodal.data.hashing import stable_hash

PACKAGE, INSIDE = "openclipart-png", "usr/share/openclipart/png"
SIDE = 96
QUALITY = 80
MOST_PIXELS = 50_000_000  # 200 MB decoded
TOO_MANY = f"of more than {MOST_PIXELS // 1_000_000} million pixels"
MOST_OF_A_NAME = 40  # 1378 are stars that differ in their number of points
HELD_OUT = 0.15
UNSORTED = "unsorted"
SHARD_SIZE = 1500


@dataclass(frozen=True)
class Picture:
    """A picture as the shards have it: its path below the package's folder, its WebP, a digest of its pixels."""

    path: str
    webp: bytes
    pixels: bytes

    @property
    def folders(self) -> list[str]:
        return [folder.replace("_", " ") for folder in self.path.split("/")[:-1]]

    @property
    def category(self) -> str:
        return self.folders[0]

    @property
    def subcategory(self) -> str:
        """The folder below the category's, empty where there is none."""
        return self.folders[1] if len(self.folders) > 1 else ""

    @property
    def name(self) -> str:
        return readable_name(Path(self.path).stem) or self.folders[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the .deb, or unpacked; without it, apt fetches it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; shards there are replaced")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        build(*debian_package(PACKAGE, INSIDE, arguments.packages, Path(temporary)), arguments.out)


def build(folder: Path, version: str, out: Path) -> None:
    left_out: Counter[str] = Counter()
    pictures = fewer_of_a_name(once(read_pictures(folder, left_out), left_out), left_out)
    held_out = {
        picture.name
        for picture in pictures
        if picture.category != UNSORTED and stable_hash("held out", picture.name) < HELD_OUT * 2**64
    }
    train = [picture for picture in pictures if picture.name not in held_out]
    named = [picture for picture in pictures if picture.name in held_out]
    test = [picture for picture in named if picture.category != UNSORTED]
    left_out["unsorted, of a name that is held out"] = len(named) - len(test)
    write_splits(
        out,
        {"train": (SHARD_SIZE, samples(train)), "test": (SHARD_SIZE, samples(test))},
        description=f"Clip art with names and categories (Debian's {PACKAGE}, {version}); test-* are held out.",
        licence="public domain (Openclipart)",
    )
    print_categories(train, test)
    for why, number in sorted(left_out.items()):
        print(f"left out: {number:5} {why}")


def read_pictures(folder: Path, left_out: Counter[str]) -> Iterator[Picture]:
    """Every PNG below the folder, those of no category last; links to others are left out."""
    files = [path for path in folder.glob("*/**/*.png") if path.is_file()]
    links = [path for path in files if path.is_symlink()]
    left_out["links to another"] = len(links)
    paths = {path.relative_to(folder).as_posix() for path in files} - {p.relative_to(folder).as_posix() for p in links}
    ordered = sorted(paths, key=lambda path: (path.startswith(f"{UNSORTED}/"), path))
    with ProcessPoolExecutor(2) as pool:
        for found in pool.map(partial(read_picture, folder), ordered, chunksize=32):
            if isinstance(found, Picture):
                yield found
            else:
                left_out[found] += 1


def read_picture(folder: Path, path: str) -> Picture | str:
    """The picture, or why it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is counted
            with Image.open(folder / path, formats=["PNG"]) as image:  # reads the header only
                if image.width * image.height > MOST_PIXELS:
                    return TOO_MANY
                flat = to_square(image)
    except Image.DecompressionBombError:
        return TOO_MANY
    except (OSError, SyntaxError, ValueError):  # what Pillow says of broken PNGs
        return "broken"
    if flat.getcolors(maxcolors=1):
        return "of one colour, on white"
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=QUALITY, method=6)
    return Picture(path, buffer.getvalue(), sha256(flat.tobytes()).digest())


def to_square(image: Image.Image) -> Image.Image:
    """The whole picture in the middle of a white square, white where it is transparent."""
    # Pillow weighs RGBA by its opacity when it resizes: what is transparent lends no colour
    small = ImageOps.contain(image.convert("RGBA"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return square.convert("RGB")


def once(pictures: Iterable[Picture], left_out: Counter[str]) -> list[Picture]:
    """The first of those that are the same, pixel for pixel."""
    first: dict[bytes, Picture] = {}
    for picture in pictures:
        if first.setdefault(picture.pixels, picture) is not picture:
            left_out["the same as another, pixel for pixel"] += 1
    return list(first.values())


def fewer_of_a_name(pictures: list[Picture], left_out: Counter[str]) -> list[Picture]:
    """In an order drawn by hash, so that neighbours in a shard have nothing in common, and the first of each name."""
    counts: Counter[str] = Counter()
    kept = []
    for picture in sorted(pictures, key=lambda picture: stable_hash("order", picture.path)):
        counts[picture.name] += 1
        if counts[picture.name] <= MOST_OF_A_NAME:
            kept.append(picture)
    left_out[f"beyond the {MOST_OF_A_NAME} of a name"] = len(pictures) - len(kept)
    return kept


def samples(pictures: Iterable[Picture]) -> Iterator[Sample]:
    for picture in pictures:
        about = {
            "name": picture.name,
            "category": picture.category,
            "subcategory": picture.subcategory,
            "path": picture.path,
        }
        key = picture.path.removesuffix(".png").replace("/", "--").replace(".", "_")
        yield key, {"webp": picture.webp, "txt": picture.name.encode(), "json": to_json(about)}


def print_categories(train: list[Picture], test: list[Picture]) -> None:
    counts = [Counter(picture.category for picture in split) for split in (train, test)]
    print(f"{'category':20} {'train':>6} {'test':>6}")
    for category in sorted(counts[0] | counts[1]):
        print(f"{category:20} {counts[0][category]:6} {counts[1][category]:6}")
    print(f"{'':20} {len(train):6} {len(test):6}")


if __name__ == "__main__":
    main()
