"""examples/build_clipart_shards.py, on a package like Debian's with pictures of every kind that is left out."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xmodal.data import open_shards, read_manifest
from xmodal.data.check import check

CATEGORIES = ("animals", "food", "signs_and_symbols")
NAMES = 40


def png(number, size=(60, 30), side=20):
    """A transparent picture with a square of its own colour in the middle, under transparent red."""
    image = Image.new("RGBA", size, (255, 0, 0, 0))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    color = (number * 37 % 251, number * 91 % 253, number % 255, 255)
    image.paste(color, (left, top, left + side, top + side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width, height):
    """A small PNG that says it is large."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0), b"IDAT" + zlib.compress(bytes(99)))
    packed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture(scope="module")
def pictures():
    """Path → bytes: 40 names, each twice, in three categories, two of them in folders of folders."""
    names = [f"thing{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(NAMES)]
    paths = {}
    for n, name in enumerate(names):
        folder = CATEGORIES[n % 3] + ("/flags/asia" if n % 3 == 2 else "")
        paths[f"{folder}/{name}_jon_phillips_01.png"] = png(2 * n)
        paths[f"{CATEGORIES[n % 3]}/{name}2.png"] = png(2 * n + 1)
        paths[f"unsorted/{name}.png"] = png(1000 + n)
    paths |= {f"shapes/stars/star_{n}pt03step.png": png(2000 + n) for n in range(43)}
    return paths


@pytest.fixture(scope="module")
def left_out(pictures):
    some = next(iter(pictures))
    return {
        "unsorted/copy.png": pictures[some],  # comes after the one in a category
        "food/broken.png": png(5000)[:60],
        "food/no_png.png": b"GIF89a",
        "food/large.png": bomb(10_000, 10_000),
        "food/huge.png": bomb(100_000, 100_000),
        "food/white.png": png(0, side=0),
        "food/notes.txt": b"not a picture",
    }


@pytest.fixture
def packages(pictures, left_out, debian_folder, tmp_path):
    root = tmp_path / "root"
    folder = root / "usr" / "share" / "openclipart" / "png"
    for path, data in {**pictures, **left_out}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "food" / "link.png").symlink_to(folder / next(iter(pictures)))
    return debian_folder(root, "openclipart-png", "1:0.18+dfsg-19")


def read(shards):
    opened = open_shards(shards)
    return {raw.key: raw.members for raw in map(opened.read, range(opened.num_samples))}


def abouts(samples):
    return [json.loads(members["json"]) for members in samples.values()]


def test_names_straddle_no_split_and_every_picture_is_taken_once(packages, pictures, run_script, tmp_path):
    printed = run_script("build_clipart_shards.py", "--packages", packages, "--out", tmp_path / "a")
    train, test = (read(f"{tmp_path}/a/{split}-*.tar") for split in ("train", "test"))
    names = [{about["name"] for about in abouts(split)} for split in (train, test)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == NAMES + 1
    assert 2 <= len(names[1]) <= 14
    assert "unsorted" in {about["category"] for about in abouts(train)}
    assert {about["category"] for about in abouts(test)} <= {"animals", "food", "signs and symbols", "shapes"}
    # every name has one picture that is not sorted
    unsorted = len(names[1] - {"star"})
    assert len(train) + len(test) == len(pictures) - 3 - unsorted
    assert {why: int(number) for number, why in re.findall(r"left out: +(\d+) (.+)", printed)} == {
        "beyond the 40 of a name": 3,
        "broken": 2,
        "links to another": 1,
        "of more than 50 million pixels": 2,
        "of one colour, on white": 1,
        "the same as another, pixel for pixel": 1,
        "unsorted, of a name that is held out": unsorted,
    }
    assert {about["path"] for about in abouts({**train, **test})} <= set(pictures)  # not the copy
    for about in abouts({**train, **test}):
        deep = about["path"].count("/") > 1
        assert about["category"] == about["path"].split("/")[0].replace("_", " ")
        assert about["subcategory"] == (about["path"].split("/")[1] if deep else "")
    assert check(f"{tmp_path}/a/train-*.tar") == check(f"{tmp_path}/a/test-*.tar") == []
    assert "public domain" in read_manifest(tmp_path / "a").licence

    run_script("build_clipart_shards.py", "--packages", packages, "--out", tmp_path / "b")
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(("size", "side"), [((60, 30), 20), ((200, 400), 100), ((16, 16), 8)])
def test_a_picture_keeps_its_aspect_on_white(load, tmp_path, size, side):
    script = load("build_clipart_shards")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(png(3, size, side))
    picture = script.read_picture(tmp_path, "a/b.png")
    image = Image.open(io.BytesIO(picture.webp))
    assert (image.format, image.size, image.mode) == ("WEBP", (96, 96), "RGB")
    pixels = np.asarray(image).astype(int)
    color = np.array([3 * 37 % 251, 3 * 91 % 253, 3])
    assert np.abs(pixels[48, 48] - color).max() < 12
    # what was transparent is white; nowhere is the red under it
    scaled = side * 96 / max(size)
    outside = np.ones((96, 96), bool)
    inner = slice(int(48 - scaled / 2) - 4, int(48 + scaled / 2) + 4)
    outside[inner, inner] = False
    assert pixels[outside].min() > 240
    dark = (pixels.min(-1) < 128).sum(0)
    assert (dark > 0).sum() == pytest.approx(scaled, abs=2)
    assert dark.max() == pytest.approx(scaled, abs=2)  # as high as it is wide


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("full_moon_dan_gerhards_01", "full moon"),
        ("scale_01", "scale"),
        ("cinepresa_architetto_fra_01", "cinepresa"),  # cut within the author
        ("floppy_disk_architetto_f_01", "floppy disk"),
        ("cesto_architetto_frances_01", "cesto"),
        ("low_temperature_yves_gui_01", "low temperature"),
        ("hat_-_clothing_nicu_bucu_02", "hat clothing"),
        ("fireworks_ganson1", "fireworks"),
        ("cocktail_daniel_steele_r", "cocktail"),
        ("drinking_glass_with_red_punch_01", "drinking glass with red punch"),
        ("usa_west_virginia", "usa west virginia"),
        ("south_georgia_and_south_sandwich_islands", "south georgia and south sandwich islands"),
        ("MatieresToxiques", "matieres toxiques"),
        ("heart_left-highlight_jon_01", "heart left highlight"),
        ("head11", "head"),
        ("arrow02_2", "arrow"),
        ("star_73pt09step", "star"),
        ("pattern-squares-angled-1", "pattern squares angled"),
        ("sm_012", ""),  # the folder says more
        ("70a022", ""),
    ],
)
def test_names_are_read_off_real_files_of_the_package(load, stem, name):
    assert load("clipart_names").readable_name(stem) == name
