"""Writing shards: temporary names while they grow, index and checksum when they are full, nothing left on failure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from typing_extensions import Self

from xmodal.data.hashing import file_sha256
from xmodal.data.index import build_index, write_index
from xmodal.data.manifest import ShardEntry
from xmodal.data.tarnames import split_name
from xmodal.errors import DataError


class ShardWriter:
    """Writes samples into ``folder`` as shards of ``shard_size`` samples named by ``pattern``.

    A context manager: leaving it ends the last shard; leaving it by an error removes every file it wrote. The bytes
    depend on the samples only. ``entries`` lists the finished shards, for a manifest.
    """

    def __init__(self, folder: str | Path, *, pattern: str = "shard-{:06d}.tar", shard_size: int = 10_000) -> None:
        self.folder = Path(folder)
        self.pattern = pattern
        self.shard_size = shard_size
        self.entries: list[ShardEntry] = []
        self._files: list[Path] = []
        self._stream: BinaryIO | None = None
        self._tar: Any = None
        self._count = 0
        if shard_size < 1:
            raise DataError(f"shard_size is {shard_size}; a shard holds at least 1 sample.")
        if self._name(0) == self._name(1) or not self._name(0).endswith(".tar") or "/" in self._name(0):
            raise DataError(f"pattern {pattern!r} must be a file name that numbers the shards: shard-{{:06d}}.tar")

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; ``members`` maps extensions to bytes. Raises :class:`DataError` for unreadable names."""
        for extension in members:
            name = split_name(f"{key}.{extension}")
            if name is None or name.problem or (name.key, name.extension) != (key, extension) or extension[0] == "_":
                raise DataError(
                    f"{key}.{extension} cannot be a member of a shard. A key ends at the first dot of its last part; "
                    "an extension is in lower case and does not start with _."
                )
        if self._tar is None or self._count == self.shard_size:
            self._end_shard()
            self._begin_shard()
        self._tar.write({"__key__": key, **members})
        self._count += 1

    def _begin_shard(self) -> None:
        from webdataset.writer import TarWriter  # takes seconds, and torch with it

        temporary = self.folder / f"{self._name(len(self.entries))}.partial"
        self._files.append(temporary)
        self._stream = temporary.open("wb")
        # encoder=False: bytes in, bytes out. Fixed time and owner: equal samples, equal shards.
        self._tar = TarWriter(self._stream, encoder=False, user="", group="", mtime=0)
        self._count = 0

    def _end_shard(self) -> None:
        if self._stream is None:
            return
        self._tar.close()
        self._stream.close()
        path = self.folder / self._name(len(self.entries))
        self._files[-1] = self._files[-1].replace(path)
        index = build_index(path)
        self._files.append(write_index(index, path))
        entry = ShardEntry(
            name=path.name,
            samples=len(index),
            size=index.size,
            sha256=file_sha256(path),
            fields=tuple(sorted(index.fields)),
        )
        self.entries.append(entry)
        self._stream = self._tar = None

    def _name(self, number: int) -> str:
        try:
            return self.pattern.format(number)
        except (IndexError, KeyError, ValueError) as error:
            raise DataError(f"pattern {self.pattern!r} must have one place for a number: shard-{{:06d}}.tar") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._end_shard()
        except BaseException:
            self._remove()
            raise
        if kind is not None:
            self._remove()

    def _remove(self) -> None:
        if self._stream is not None:
            with suppress(OSError):  # the disk may be full: that is the error to tell
                self._tar.close()
            self._stream.close()
        for path in self._files:
            path.unlink(missing_ok=True)
