"""img2dataset's output folders: how many samples a shard holds, from the statistics that stand beside it.

Beside ``00000.tar`` img2dataset writes ``00000_stats.json`` when the shard is done, and only then; its ``successes``
are the samples in the tar. So many shards are opened without reading one of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.data.manifest import ShardEntry
from xmodal.errors import DataError

_SUFFIX = "_stats.json"
_LARGEST = 1 << 24  # bytes; a line for every kind of failure, of which img2dataset keeps 100 000


@dataclass(frozen=True)
class Statistics:
    """What img2dataset says of a shard: how many addresses it ``tried``, and how many pictures it kept."""

    tried: int
    successes: int

    def __str__(self) -> str:
        return f"img2dataset kept {self.successes} of {self.tried}"


class StatisticsFolder:
    """The statistics of one folder, which is listed once; those of a shard are read when they are asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shards: set[str] | None = None

    def has(self, shard: str) -> bool:
        """Whether the shard of that file name has statistics."""
        return shard.removesuffix(".tar") in self._listed()

    def read(self, shard: str) -> Statistics | None:
        """The statistics of the shard of that file name, None where it has none. Raises :class:`DataError`."""
        return read_statistics(self.folder / shard) if self.has(shard) else None

    def entry(self, shard: str) -> ShardEntry | None:
        """The shard as a manifest would list it; None in a folder that is not one of img2dataset's.

        Raises :class:`DataError` for a shard of such a folder that img2dataset has not finished, or that is empty.
        """
        path = self.folder / shard
        found = self.read(shard)
        if found is None:
            self._refuse_unfinished(path)
            return None
        if found.successes == 0:
            raise DataError(
                f"Shard {path} holds no sample: {found}, says {statistics_path(path).name}. Leave it out, or download "
                "it again."
            )
        return ShardEntry(name=shard, samples=found.successes, size=_size(path))

    def _refuse_unfinished(self, path: Path) -> None:
        from xmodal.data.index import index_path

        if not path.stem.isdecimal() or not self._listed() or index_path(path).exists():
            return
        unfinished = sorted(
            name
            for name in os.listdir(self.folder)
            if name.endswith(".tar") and name.removesuffix(".tar").isdecimal() and not self.has(name)
        )
        others = f", nor have {len(unfinished) - 1} more in this folder" if len(unfinished) > 1 else ""
        raise DataError(
            f"Shard {path} has no {statistics_path(path).name}{others}, though {len(self._listed())} have theirs: "
            "img2dataset was stopped before it was done. Run img2dataset again, which downloads such shards anew, or "
            f"name the finished shards only. If it is whole all the same, run: xmodal data index {path}"
        )

    def _listed(self) -> set[str]:
        if self._shards is None:
            try:
                names = os.listdir(self.folder)
            except OSError as error:
                raise DataError(f"Folder {self.folder} cannot be read: {error.strerror}.") from error
            stems = {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}
            self._shards = {stem for stem in stems if stem.isdecimal()}
        return self._shards


def statistics_path(tar_path: str | Path) -> Path:
    """``00000.tar`` → ``00000_stats.json`` beside it."""
    path = Path(tar_path)
    return path.with_name(path.name.removesuffix(".tar") + _SUFFIX)


def read_statistics(tar_path: str | Path) -> Statistics | None:
    """The statistics beside a shard, None where there are none. Raises :class:`DataError` where they are broken."""
    path = statistics_path(tar_path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes are too many")
        found = json.loads(path.read_text(encoding="utf-8"))
        statistics = Statistics(_count(found, "count"), _count(found, "successes"))
        if statistics.successes > statistics.tried:
            raise ValueError(f"{statistics.successes} successes of {statistics.tried}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"Statistics {path} are not img2dataset's ({error}). Remove them and run: xmodal data index {tar_path}"
        ) from error
    return statistics


def disagreement(tar_path: str | Path, samples: int) -> str:
    """What the statistics beside a shard say, where that is not how many ``samples`` it holds; else empty."""
    found = read_statistics(tar_path)
    if found is None or found.successes == samples:
        return ""
    return f"{statistics_path(tar_path).name} says that {found}"


def _count(found: Any, name: str) -> int:
    number = found.get(name) if isinstance(found, dict) else None
    if type(number) is not int or number < 0:
        raise ValueError(f"{name} is {number!r:.40}, not a number of samples")
    return number


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"Shard {path} cannot be read: {error.strerror}.") from error
