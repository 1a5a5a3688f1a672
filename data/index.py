"""A shard's index: where every member of every sample lies in the tar file, so that any sample is one seek away."""

from __future__ import annotations

import json
import stat
import tarfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from xmodal.data.tarnames import split_name
from xmodal.errors import DataError
from xmodal.files import write_text

BLOCK = tarfile.BLOCKSIZE
_FORMAT = "xmodal-index"
_VERSION = 1


@dataclass
class Index:
    """Keys of a shard's samples in tar order, and offset and size in bytes of each member.

    Kept in flat arrays: an index of 10 000 samples takes about 1 MB of memory.
    """

    shard: str
    """File name of the tar."""
    size: int
    """Bytes of the tar when it was indexed."""
    keys: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    """Every extension that occurs, in order of first occurrence."""
    ignored: list[str] = field(default_factory=list)
    """Files in the tar that belong to no sample: no extension, or hidden."""
    _starts: array[int] = field(default_factory=lambda: array("q", [0]))
    _members: array[int] = field(default_factory=lambda: array("q"))
    _field_numbers: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Extension → (offset, size) of the sample in ``row``."""
        triples = self._members[self._starts[row] : self._starts[row + 1]]
        return {self.fields[triples[i]]: (triples[i + 1], triples[i + 2]) for i in range(0, len(triples), 3)}

    def append(self, key: str, members: Mapping[str, tuple[int, int]]) -> None:
        self.keys.append(key)
        for name, (offset, size) in members.items():
            number = self._field_numbers.setdefault(name, len(self.fields))
            if number == len(self.fields):
                self.fields.append(name)
            self._members.extend((number, offset, size))
        self._starts.append(len(self._members))


@dataclass(frozen=True)
class Flaw:
    """A place in a tar file that keeps it from being a shard."""

    byte: int
    reason: str
    last: str
    """What stands before it, in words."""

    def __str__(self) -> str:
        return f"broken at byte {self.byte}: {self.reason} ({self.last})"


def build_index(tar_path: str | Path, flaws: list[Flaw] | None = None) -> Index:
    """Read the headers of a tar file from first to last.

    Raises :class:`DataError` that names the byte and the last good sample where the tar is cut short or broken,
    holds links, devices or sparse files, a name that leaves its folder, a key twice, or no sample at all.

    With a list for ``flaws`` these go there instead, all of them, and the index is of the samples that are sound, as
    far as the headers can be followed: for a report, not for training. Raises then only for a file that is no tar.
    """
    path = Path(tar_path)
    index = Index(path.name, _size(path))
    seen: set[str] = set()
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    refused = False  # the key at hand is the second of its name: its members belong to no sample

    def note(byte: int, reason: str) -> None:
        last = f"last good sample {index.keys[-1]!r}, {len(index)} in all" if index.keys else "no good sample before it"
        flaw = Flaw(byte, reason, last)
        if flaws is None:
            raise DataError(f"Shard {path} is {flaw}. Pack or download it again.")
        flaws.append(flaw)

    with _opened(path) as file:
        try:
            for member in _walk(path, file, index.size):
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    kind = "a link" if member.issym() or member.islnk() else "neither a file nor a folder"
                    note(member.offset, f"member {member.name!r} is {kind}; a shard holds plain files only")
                    continue
                name = split_name(member.name)
                if name is None:
                    index.ignored.append(member.name)
                    continue
                if name.problem:
                    note(member.offset, f"member {member.name!r} {name.problem}")
                    continue
                if name.key != key:
                    if members:
                        assert key is not None
                        index.append(key, members)
                    key, members, refused = name.key, {}, name.key in seen
                    if refused:
                        note(member.offset, f"key {name.key!r} occurs twice; a sample's members must stand together")
                    seen.add(name.key)
                if name.extension in members:
                    note(member.offset, f"sample {name.key!r} has two members .{name.extension}")
                elif not refused:
                    members[name.extension] = (member.offset_data, member.size)
        except _Broken as broken:
            members = {}  # the sample at hand may have lost its rest
            note(broken.byte, broken.reason)
    if members:
        assert key is not None
        index.append(key, members)
    if not index.keys and not flaws:
        raise DataError(
            f"Shard {path} holds no sample ({index.size} bytes, {len(index.ignored)} other files). Leave it out."
        )
    return index


class _Broken(Exception):  # noqa: N818  becomes a Flaw
    """From ``byte`` on there is nothing to go by."""

    def __init__(self, byte: int, reason: str) -> None:
        self.byte, self.reason = byte, reason
        super().__init__(reason)


def _walk(path: Path, file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Members of a tar, none missed in silence: tarfile alone takes a broken header for the end of the archive."""
    if size == 0:
        raise DataError(f"Shard {path} is an empty file (0 bytes). Pack or download it again.")
    if file.read(2) == b"\x1f\x8b":
        raise DataError(
            f"Shard {path} is compressed by gzip; samples are read at random, which needs a plain tar: gunzip it."
        )
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + (0 if member.isdir() else -(-member.size // BLOCK) * BLOCK)
                if member.size < 0 or member.offset_data + member.size > size:
                    needed = f"needs bytes up to {member.offset_data + member.size}, the file has {size}"
                    raise _Broken(member.offset, f"member {member.name!r} {needed}")
                yield member
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _Broken(end, f"not a tar header ({error})") from error
    file.seek(end)
    trailer = file.read(BLOCK)
    if len(trailer) < BLOCK:
        raise _Broken(end, f"the file ends at {size} without the end-of-archive mark: it is cut short")
    if trailer.strip(b"\0"):
        raise _Broken(end, "not a tar header (wrong checksum)")
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            raise _Broken(
                file.tell() - len(chunk), "data after the end-of-archive mark; are these several tar files in one?"
            )


def index_path(tar_path: str | Path) -> Path:
    """``shard-000000.tar`` → ``shard-000000.index.json`` beside it."""
    return Path(tar_path).with_suffix(".index.json")


def write_index(index: Index, tar_path: str | Path) -> Path:
    """Write the index beside its shard, whole or not at all; returns the path."""
    path = index_path(tar_path)
    head = {"format": _FORMAT, "version": _VERSION, "shard": index.shard, "size": index.size, "ignored": index.ignored}
    rows = (
        json.dumps([key, index.members(row)], separators=(",", ":"), ensure_ascii=False)
        for row, key in enumerate(index.keys)
    )
    text = json.dumps(head, ensure_ascii=False)[:-1] + ',"samples":[\n' + ",\n".join(rows) + "\n]}\n"
    write_text(path, text)
    return path


def read_index(tar_path: str | Path) -> Index:
    """The index that stands beside a shard.

    Raises :class:`DataError` where it is missing, is not an index, or is that of another or an older tar.
    """
    tar_path, path = Path(tar_path), index_path(tar_path)
    mend = f"Build it again: xmodal data index {tar_path}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"Shard {tar_path} has no index {path.name}. {mend}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Index {path} cannot be read ({error}). {mend}") from error
    try:
        if (found["format"], found["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"format {found['format']} {found['version']}, expected {_FORMAT} {_VERSION}")
        index = Index(str(found["shard"]), int(found["size"]), ignored=list(found["ignored"]))
        for key, members in found["samples"]:
            if (".." in key or key[:1] == "/") and (name := split_name(f"{key}.x")) and name.problem:
                raise ValueError(f"sample {key!r} {name.problem}")
            places = {str(name): (int(offset), int(size)) for name, (offset, size) in members.items()}
            if not all(
                offset >= BLOCK and size >= 0 and offset + size <= index.size for offset, size in places.values()
            ):
                raise ValueError(f"sample {key!r} lies outside the shard")
            index.append(str(key), places)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"Index {path} is not one of xmodal's ({error}). {mend}") from error
    if index.shard != tar_path.name or index.size != _size(tar_path):
        raise DataError(
            f"Shard {tar_path} ({_size(tar_path)} bytes) changed after it was indexed "
            f"({index.shard}, {index.size} bytes). {mend}"
        )
    return index


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"Shard {path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
        raise DataError(f"Shard {path} is not a file. Take it out of the folder, or leave it out of the pattern.")
    return status.st_size


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"Shard {path} cannot be read: {error.strerror or error}.") from error
