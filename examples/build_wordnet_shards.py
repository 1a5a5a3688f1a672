"""Build shards of words and their definitions from WordNet 3.0.

    python examples/build_wordnet_shards.py --out runs/data/wordnet

takes the package `wordnet-base` from Debian (`apt-get download`), or from a folder with the .deb, or with what was in
it, with `--packages DIR`. A sample is a synset: words that mean the same, and what they mean. 2000 words are held out:
by hash, a word's chance does not grow with its meanings. Of each one synset is in `test-*.tar`, and every other synset
that has the word is dropped, so that no sample of `train-*.tar` has it among its names. No definition in the test is
another synset's too.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from building import Sample, debian_package, to_json, write_splits

from xmodal.data.hashing import stable_hash

PACKAGE, INSIDE = "wordnet-base", "usr/share/wordnet"
TEST = 2000
FILES = {"noun": ("n", "noun"), "verb": ("v", "verb"), "adj": ("a", "adjective"), "adv": ("r", "adverb")}
# the first example: in quotes, after a semicolon (now and then a comma or a colon)
EXAMPLE = re.compile(r'[;:,]\s*"')
MARKER = re.compile(r"\((a|p|ip)\)$")  # of an adjective: where in a sentence it may stand


@dataclass(frozen=True)
class Synset:
    """Words that mean the same, most usual first, and what they mean."""

    key: str
    pos: str
    names: tuple[str, ...]
    gloss: str

    @property
    def words(self) -> set[str]:
        """The names as they are compared: without case."""
        return {name.casefold() for name in self.names}

    @property
    def word(self) -> str:
        return self.names[0].casefold()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the .deb, or unpacked; without it, apt fetches it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; shards there are replaced")
    parser.add_argument("--limit", type=int, metavar="N", help="so many training synsets at most, drawn by hash")
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 1:
        parser.error(f"--limit {arguments.limit}: give at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        build(*debian_package(PACKAGE, INSIDE, arguments.packages, Path(temporary)), arguments.out, arguments.limit)


def build(folder: Path, version: str, out: Path, limit: int | None = None) -> None:
    synsets = [synset for name in FILES for synset in read_synsets(folder, name)]
    train, test = split(synsets)
    print(f"{len(synsets)} synsets; {len(synsets) - len(train) - len(test)} dropped for a word that is held out")
    write_splits(
        out,
        {"train": (10_000, samples(train[:limit])), "test": (10_000, samples(test))},
        description=f"Words and definitions of WordNet 3.0 (Debian's {PACKAGE}, {version}); test-* are held out.",
        licence="WordNet 3.0 licence, © 2006 Princeton University",
    )


def split(synsets: list[Synset]) -> tuple[list[Synset], list[Synset]]:
    """Synsets to train on and to test on, each in an order drawn by hash."""
    ordered = sorted(synsets, key=lambda synset: stable_hash("order", synset.key))
    glosses = Counter(synset.gloss for synset in synsets)
    chosen: dict[str, Synset] = {}
    for synset in ordered:
        if glosses[synset.gloss] == 1:
            chosen.setdefault(synset.word, synset)
    held_out = set(sorted(chosen, key=lambda word: stable_hash("held out", word))[:TEST])
    test = [synset for word, synset in chosen.items() if word in held_out]
    return [synset for synset in ordered if not synset.words & held_out], test


def read_synsets(folder: Path, name: str) -> Iterator[Synset]:
    """The synsets of ``data.NAME``, whose format wndb(5WN) describes."""
    letter, pos = FILES[name]
    for line in (folder / f"data.{name}").read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        offset, _, _, count, *rest = fields.split()
        words = rest[: 2 * int(count, 16) : 2]  # a word and a number, and so on
        names = dict.fromkeys(MARKER.sub("", word).replace("_", " ") for word in words)
        yield Synset(f"{letter}{offset}", pos, tuple(names), definition(gloss))


def definition(gloss: str) -> str:
    """What a gloss says before its examples.

    >>> definition('able to swim; "a fish"; "he was a fish"')
    'able to swim'
    """
    return " ".join(EXAMPLE.split(gloss, maxsplit=1)[0].replace('"', "").split()).rstrip(" ;")


def samples(synsets: Iterable[Synset]) -> Iterator[Sample]:
    for synset in synsets:
        about = {
            "name": synset.names[0],
            "names": synset.names,
            "gloss": synset.gloss,
            "pos": synset.pos,
            "texts": [", ".join(synset.names), synset.gloss],
        }
        yield synset.key, {"txt": synset.gloss.encode(), "json": to_json(about)}


if __name__ == "__main__":
    main()
