from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmodal.data import open_shards, read_manifest
from xmodal.data.check import check
from xmodal.data.decode import decode
from xmodal.data.hashing import file_sha256

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data" / "samples" / "emoji"


@pytest.fixture(scope="module")
def about():
    """Split → the json of every sample, by key."""

    def read(split):
        shards = open_shards(f"package://emoji/{split}-*.tar")
        return {raw.key: json.loads(raw.members["json"]) for raw in map(shards.read, range(shards.num_samples))}

    return {split: read(split) for split in ("train", "names", "style")}


def test_held_out_names_are_in_no_training_sample_and_drawn_by_all_three_vendors(about):
    held_out = {entry["name"] for entry in about["names"].values()}
    assert 200 <= len(held_out) <= 280
    assert not held_out & {entry["name"] for entry in about["train"].values()}
    assert Counter(entry["vendor"] for entry in about["names"].values()) == dict.fromkeys(
        ("twitter", "google", "fluent"), len(held_out)
    )
    assert held_out <= {entry["name"] for entry in about["style"].values()}


def test_the_style_to_test_on_is_in_no_training_sample(about):
    assert {entry["vendor"] for entry in about["train"].values()} == {"twitter", "google"}
    assert {entry["vendor"] for entry in about["style"].values()} == {"fluent"}
    assert len(about["train"]) > 3000
    assert len(about["style"]) > 1500


def test_names_are_names_of_one_emoji_and_no_skin_tone_is_left(about):
    entries = [entry for split in about.values() for entry in split.values()]
    assert len({(entry["name"], entry["codepoint"]) for entry in entries}) == len({e["name"] for e in entries})
    assert not [e for e in entries if set(e["codepoint"].split("-")) & {f"1f3f{d}" for d in "bcdef"}]
    for split in about.values():
        assert all(key == f"{entry['vendor']}-{entry['codepoint']}" for key, entry in split.items())


def test_every_picture_is_64_pixels_opaque_and_shows_something():
    for split in ("train", "names", "style"):
        shards = open_shards(f"package://emoji/{split}-*.tar")
        for number in range(0, shards.num_samples, 29):
            sample = decode(shards.read(number), fields=("image", "text"))
            pixels = np.asarray(sample["image"])
            assert pixels.shape == (64, 64, 3)
            assert pixels.std() > 5, sample["key"]
            assert sample["text"] == json.loads(shards.read(number).members["json"])["name"]


def test_vendors_draw_the_same_emoji_under_the_same_name(about):
    # a name that went to the wrong picture would make the two vendors' pictures of it unlike
    shards = open_shards("package://emoji/train-*.tar")
    number_of = {shards.key(number): number for number in range(shards.num_samples)}
    codes = sorted(key.removeprefix("twitter-") for key in number_of if key.startswith("twitter-"))[::12]

    def thumbnail(key):
        image = decode(shards.read(number_of[key]), fields=("image",))["image"].resize((8, 8))
        pixels = np.asarray(image, dtype=float).ravel()
        return (pixels - pixels.mean()) / pixels.std()

    twitter, google = (np.stack([thumbnail(f"{vendor}-{code}") for code in codes]) for vendor in ("twitter", "google"))
    nearest = (twitter @ google.T).argmax(1)
    assert (nearest == np.arange(len(codes))).mean() > 0.5  # chance: 1 in 150


def test_the_shards_are_whole_and_small():
    assert check("package://emoji/train-*.tar") == check("package://emoji/names-*.tar") == []
    manifest = read_manifest(SAMPLES)
    assert {entry.name: (entry.size, entry.sha256) for entry in manifest.shards} == {
        path.name: (path.stat().st_size, file_sha256(path)) for path in SAMPLES.glob("*.tar")
    }
    assert all(term in manifest.licence for term in ("CC-BY-4.0", "Apache-2.0", "MIT", "Unicode-3.0"))
    compressed = sum(len(zlib.compress(path.read_bytes())) for path in SAMPLES.iterdir())
    assert compressed < 5e6  # what they add to a clone and to the wheel


SVG = '<path fill="#{color}" d="M4 4h{size}v{size}H4z"/>'


@pytest.fixture
def packages(tmp_path):
    """Packages like the real four, with twelve emoji, one of which has a skin tone, one drawn by two vendors only."""
    folder = tmp_path / "packages"
    folder.mkdir()
    codes = [f"1F60{digit:X}" for digit in range(10)] + ["2764-FE0F", "1F44B-1F3FB"]

    def png(number):
        buffer = io.BytesIO()
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        image.paste((number * 20, 90, 200, 255), (8, 8, 40, 30 + number))
        image.save(buffer, "PNG")
        return buffer.getvalue()

    def write(name, files):
        with tarfile.open(folder / f"{name}.tgz", "w:gz") as tar:
            for path, data in files.items():
                info = tarfile.TarInfo(f"package/{path}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    for vendor, name in (("twitter", "emoji-datasource-twitter-16.0.0"), ("google", "emoji-datasource-google-16.0.0")):
        entries = [{"unified": c, "image": f"{c.lower()}.png", f"has_img_{vendor}": c != "1F600"} for c in codes]
        pngs = {f"img/{vendor}/64/{code.lower()}.png": png(number) for number, code in enumerate(codes)}
        write(name, {"emoji.json": json.dumps(entries).encode(), **pngs})
    icons = {f"icon-{n}": {"body": SVG.format(color=f"{n:x}00", size=9 + n)} for n in range(len(codes))}
    chars = {code.lower(): f"icon-{number}" for number, code in enumerate(codes) if number != 1}
    write(
        "iconify-json-fluent-emoji-flat-1.2.6",
        {
            "icons.json": json.dumps({"icons": icons, "width": 32, "height": 32}).encode(),
            "chars.json": json.dumps(chars).encode(),
        },
    )
    names = [{"hexcode": c.replace("-FE0F", ""), "label": f"thing {c}", "tags": ["t"], "group": 3} for c in codes]
    groups = {"groups": {"3": "animals"}}
    files = {"en/data.json": json.dumps(names).encode(), "meta/groups.json": json.dumps(groups).encode()}
    write("emojibase-data-17.0.0", files)
    return folder


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    spec = importlib.util.spec_from_file_location("build_emoji_shards", ROOT / "examples" / "build_emoji_shards.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_script_builds_the_same_bytes_from_the_same_packages(packages, script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "HELD_OUT", 0.4)
    pinned = {name: (npm, file_sha256(packages / f"{name}.tgz")) for name, (npm, _) in script.PACKAGES.items()}
    monkeypatch.setattr(script, "PACKAGES", pinned)
    for out in ("a", "b", "b"):  # the second b replaces the first
        monkeypatch.setattr(sys, "argv", ["script", "--packages", str(packages), "--out", str(tmp_path / out)])
        script.main()
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert first == second
    keys = {}
    for split in ("train", "names", "style"):
        shards = open_shards(f"{tmp_path}/a/{split}-*.tar")
        keys[split] = {shards.key(number) for number in range(shards.num_samples)}
    held_out = {key.split("-")[1] for key in keys["names"]}
    common = {"1f602", "1f603", "1f604", "1f605", "1f606", "1f607", "1f608", "1f609", "2764"}
    assert held_out < common
    assert keys["names"] == {f"{vendor}-{code}" for vendor in ("twitter", "google", "fluent") for code in held_out}
    rest = (common | {"1f601"}) - held_out  # 1f601 has no Fluent picture, 1f600 no other
    assert keys["train"] == {f"{vendor}-{code}" for vendor in ("twitter", "google") for code in rest}
    assert keys["style"] == {f"fluent-{code}" for code in common | {"1f600"}}


def test_the_script_refuses_packages_other_than_the_published_ones(packages, script, tmp_path):
    with pytest.raises(SystemExit, match="not the published emoji-datasource-twitter@16"):
        script.fetch(packages, tmp_path)
    (packages / "emoji-datasource-twitter-16.0.0.tgz").unlink()
    with pytest.raises(SystemExit, match="npm pack emoji-datasource-twitter@16"):
        script.fetch(packages, tmp_path)
