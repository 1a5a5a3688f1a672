"""One open shard: its index, its file, and the bytes of any of its samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from xmodal.data.index import BLOCK, Index
from xmodal.data.tarheader import header_problem
from xmodal.errors import DataError


@dataclass(frozen=True)
class RawSample:
    """The undecoded bytes of one sample; ``members`` maps lower-case extensions to them."""

    key: str
    shard: str
    members: dict[str, bytes]


class ShardReader:
    """Reads samples of one shard by row. The file, opened here unless it is given, closes with the object.

    Every member's own tar header is compared with the index, so that a shard that changed under its index is noticed
    rather than decoded as something else.
    """

    def __init__(self, path: str | Path, index: Index, name: str, file: FileIO | None = None) -> None:
        self.path, self.index, self.name = path, index, name
        try:
            self._file = file or open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the object
        except OSError as error:
            raise DataError(f"Shard {path} cannot be read: {error.strerror}.") from error

    def read(self, row: int) -> RawSample:
        """The sample in ``row``. Raises :class:`DataError` where the file no longer is what was indexed."""
        key = self.index.keys[row]
        places = self.index.members(row)
        try:
            members = {name: self._member(key, name, offset, size) for name, (offset, size) in places.items()}
        except OSError as error:
            raise DataError(f"Shard {self.path} cannot be read: {error.strerror}.") from error
        return RawSample(key, self.name, members)

    def _member(self, key: str, extension: str, offset: int, size: int) -> bytes:
        # pread moves no file position, so a fork or a thread that shares the file disturbs nobody
        block = os.pread(self._file.fileno(), BLOCK + size, offset - BLOCK)
        if len(block) < BLOCK + size:
            problem = f"the file ends inside .{extension}"
        else:
            problem = header_problem(block[:BLOCK], key, extension, size)
        if problem:
            raise DataError(
                f"Shard {self.path} changed after it was indexed: sample {key!r} at byte {offset}: {problem}. "
                f"If that is meant, run: xmodal data index {self.path}"
            )
        return block[BLOCK:]
