"""clip_benchmark's webdataset layout: a folder of shards that says what its labels mean and how to ask for them.

::

    DATASET/classnames.txt                            a name a line, in the order of the labels
    DATASET/zeroshot_classification_templates.txt     sentences with {c} for the name
    DATASET/dataset_type.txt                          "retrieval", "multilabel"; without it, classification
    DATASET/test/nshards.txt                          how many shards there are: 0.tar, 1.tar, …
    DATASET/test/0.tar                                s0000000.webp, s0000000.cls or .txt (a caption a line)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.data.members import listed
from xmodal.errors import DataError

_NUMBER_OF_SHARDS = "nshards.txt"
_TASKS = {"classification": "zero-shot", "retrieval": "retrieval", "multilabel": "multilabel"}
_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class ShardFolder:
    """A dataset in this layout. ``task`` is ``zero-shot``, ``retrieval`` or ``multilabel``, which no task measures.

    ``templates`` have ``{}`` where the class's name goes. What the folder does not say is None.
    """

    shards: tuple[str, ...]
    class_names: tuple[str, ...] | None
    templates: tuple[str, ...] | None
    task: str


def read_layout(folder: str | Path, split: str = "test") -> ShardFolder | None:
    """The dataset in ``folder``, which is DATASET or its ``DATASET/test``; None where it is not in this layout.

    Of DATASET, ``split`` is read, or the only one that there is. Raises :class:`DataError` for a shard that is missing
    and for a file of the layout that is broken.
    """
    part = _split_of(Path(folder), split)
    if part is None:
        return None
    dataset = part.parent
    kind = "".join(_lines(dataset / "dataset_type.txt") or ["classification"]).strip().lower()
    if kind not in _TASKS:
        raise DataError(f"{dataset / 'dataset_type.txt'} says {kind!r:.60}; known are {', '.join(_TASKS)}.")
    templates = _lines(dataset / "zeroshot_classification_templates.txt")
    return ShardFolder(
        shards=_shards(part),
        class_names=_class_names(dataset / "classnames.txt"),
        templates=tuple(line.strip().replace("{c}", "{}") for line in templates if line.strip()) if templates else None,
        task=_TASKS[kind],
    )


def layout_of(shards: Any) -> ShardFolder | None:
    """The layout of what a user gave for shards, None where that is anything else than a local folder in it."""
    if not isinstance(shards, str | Path) or "://" in str(shards):
        return None
    return read_layout(Path(shards).expanduser())


def _split_of(folder: Path, split: str) -> Path | None:
    if (folder / _NUMBER_OF_SHARDS).is_file():
        return folder
    if not folder.is_dir() or any(folder.glob("*.tar")):  # a folder of shards, whatever lies below it
        return None
    if (folder / split / _NUMBER_OF_SHARDS).is_file():
        return folder / split
    others = sorted(path.parent for path in folder.glob(f"*/{_NUMBER_OF_SHARDS}"))
    if len(others) > 1:
        names = ", ".join(other.name for other in others)
        raise DataError(f"{folder} has no split {split!r}, but {names}. Name one: {others[0]}")
    return others[0] if others else None


def _shards(part: Path) -> tuple[str, ...]:
    said = "".join(_lines(part / _NUMBER_OF_SHARDS) or []).strip()
    if not said.isdecimal() or not 0 < int(said) <= _MOST_SHARDS:
        raise DataError(f"{part / _NUMBER_OF_SHARDS} says {said!r:.40}, which is no number of shards.")
    shards = [part / f"{number}.tar" for number in range(int(said))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{part} lacks {len(missing)} of the {said} shards that its {_NUMBER_OF_SHARDS} counts: {listed(missing)}. "
            "Download them again."
        )
    return tuple(map(str, shards))  # by number: by name 10.tar would come before 2.tar


def _class_names(path: Path) -> tuple[str, ...] | None:
    lines = _lines(path)
    if lines is None:
        return None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not all(names):
        raise DataError(f"{path}: line {names.index('') + 1} is empty, and line n names the label n - 1.")
    return tuple(names) or None


def _lines(path: Path) -> list[str] | None:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
