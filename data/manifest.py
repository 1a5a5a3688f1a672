"""A folder's ``manifest.json``: what its shards hold, so that opening many of them reads one file."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xmodal.errors import DataError
from xmodal.files import write_text

MANIFEST_NAME = "manifest.json"

FileName = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+\.tar$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ShardEntry(BaseModel):
    """One shard of a folder: file name, number of samples, bytes, SHA-256 and the extensions that occur."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    name: FileName
    samples: int = Field(ge=1)
    size: int = Field(ge=1)
    sha256: Sha256 | None = None
    fields: tuple[str, ...] = ()


class Manifest(BaseModel):
    """Every shard of a folder, and what there is to say about all of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    format: Literal["xmodal-manifest"] = "xmodal-manifest"
    version: Literal[1] = 1
    description: str = ""
    licence: str = ""
    class_names: tuple[str, ...] | None = Field(None, description="what the numbers in .cls members mean")
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _names_once(self) -> Manifest:
        names = [shard.name for shard in self.shards]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"lists {', '.join(twice[:3])} more than once")
        return self

    def entry(self, name: str) -> ShardEntry | None:
        """The line of the shard called ``name``, None where there is none."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, ShardEntry]:
        return {shard.name: shard for shard in self.shards}

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


def read_manifest(folder: str | Path) -> Manifest | None:
    """The manifest of a folder, None where it has none. Raises :class:`DataError` where it is broken."""
    path = Path(folder) / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"Manifest {path} cannot be read: {error.strerror}.") from error
    return parse_manifest(text, path)


class KnownShards:
    """What is known of a folder's shards without reading them: by its manifest, else by img2dataset's statistics."""

    def __init__(self, folder: str | Path) -> None:
        from xmodal.data.formats.img2dataset import StatisticsFolder

        self.manifest = read_manifest(folder)
        self._statistics = StatisticsFolder(folder)

    def entry(self, name: str) -> ShardEntry | None:
        """The line of the shard called ``name``, None where nothing is known of it.

        Raises :class:`DataError` for a shard that img2dataset has not finished, or in which nothing was downloaded.
        """
        listed = self.manifest.entry(name) if self.manifest else None
        return listed or self._statistics.entry(name)


def parse_manifest(text: bytes, where: str | Path) -> Manifest:
    """The manifest that was read from ``where``. Raises :class:`DataError` where it is broken."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:3])
        raise DataError(
            f"Manifest {where} is broken ({problems}). Remove it; the shards' own indexes are used then."
        ) from error


def write_manifest(manifest: Manifest, folder: str | Path) -> Path:
    """Write ``manifest.json`` into the folder, whole or not at all."""
    path = Path(folder) / MANIFEST_NAME
    write_text(path, manifest.model_dump_json(indent=1, exclude_none=True) + "\n")
    return path
