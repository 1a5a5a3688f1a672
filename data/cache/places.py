"""Where the files of a cache lie: a sidecar a shard, a lock while it is written, a manifest a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xmodal.data.shards import ShardSet
from xmodal.errors import DataError


@dataclass(frozen=True)
class Places:
    """The files of one teacher's cache of some shards: beside them, or in the folder ``out``.

    Raises :class:`DataError` where there is no such place, as beside a shard that is not on this machine.
    """

    shards: ShardSet
    out: str | None = None

    def __post_init__(self) -> None:
        far = next((path for path in self.shards.paths if "://" in path), None)
        if self.out is None and far is not None:
            raise DataError(
                f"Shard {far} is not on this machine, so nothing can be kept beside it. Give the cache a folder: "
                "--out DIR, and cached: DIR in the recipe."
            )
        clash = next((name for name in self.shards.names if Path(name).is_absolute() or "://" in name), None)
        if self.out is not None and clash is not None and len(self.shards.paths) > 1:
            raise DataError(
                f"Shard {clash} shares its name and its folder's with another, and in {self.out} their caches would be "
                "one file. Cache them one folder at a time, each into an --out of its own."
            )

    def folder(self, number: int) -> Path:
        """Where the files of shard ``number`` lie."""
        return self.sidecar(number, "x").parent

    def folders(self) -> list[Path]:
        """All of them, once each."""
        return list(dict.fromkeys(self.folder(number) for number in range(len(self.shards.paths))))

    def sidecar(self, number: int, identity: str) -> Path:
        """``shard-000017.tar`` → ``shard-000017.<identity>.safetensors``."""
        shard = Path(self.shards.paths[number])
        if self.out is not None:
            name = self.shards.names[number]
            shard = Path(self.out) / (Path(name).name if Path(name).is_absolute() else name)
        return shard.with_suffix(f".{identity}.safetensors")


def manifest_path(folder: Path, identity: str) -> Path:
    """``cache.<identity>.json`` in the folder of the sidecars."""
    return folder / f"cache.{identity}.json"


def lock_path(sidecar: Path) -> Path:
    """Who is writing a sidecar just now."""
    return sidecar.with_name(f"{sidecar.name}.lock")
