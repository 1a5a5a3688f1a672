"""One file to one place: carried on where it stopped, checked, and only then given its name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from xmodal.errors import ZooError
from xmodal.zoo.files import readable_size, sha256_of, wrong_contents
from xmodal.zoo.index import File
from xmodal.zoo.location import is_remote
from xmodal.zoo.patience import InterruptedTransferError, Patience, RangeRefusedError, keep_trying
from xmodal.zoo.streams import open_stream

CHUNK = 1 << 18
Advance = Callable[[int], None]
"""Told how many bytes of the file are there by now; fewer than before where a transfer starts again."""


def part_of(target: Path, file: File) -> Path:
    """The temporary name beside ``target``. It holds the hash: a part of another version is never carried on."""
    return target.with_name(f".{target.name}.{file.sha256[:16]}.part")


def is_complete(target: Path, file: File) -> bool:
    """Whether ``target`` is the file that the index lists, to the last byte."""
    return target.is_file() and target.stat().st_size == file.size and sha256_of(target) == file.sha256


def fetch_file(address: str, target: Path, file: File, patience: Patience, advance: Advance = lambda _: None) -> None:
    """Copy ``address`` to ``target``, which appears only when its size, SHA-256 and contents are right.

    Raises :class:`ZooError`. A transfer that stopped leaves its part, and the next call goes on from there; a file that
    is complete and wrong is removed.
    """
    part = part_of(target, file)
    resumed = part.exists()
    said = _complete(address, part, file, patience, advance)
    found = sha256_of(part)
    if found != file.sha256 and resumed:  # what was there may have been wrong: once more from nothing
        part.unlink()
        said = _complete(address, part, file, patience, advance)
        found = sha256_of(part)
    if found != file.sha256:
        part.unlink()
        sizes = f" It has {said} bytes there, {file.size} in the index." if said not in (None, file.size) else ""
        raise ZooError(
            f"{address} is not the file that the index lists; it was removed.{sizes}\n"
            f"  SHA-256 expected {file.sha256}\n  SHA-256 found    {found}\n"
            "It was changed after it was published, or it is damaged. Ask whoever published it; do not use it."
        )
    if reason := wrong_contents(part, target.name):
        part.unlink()
        raise ZooError(f"{address} is refused and was removed: its name says {target.suffix or 'text'}, but {reason}.")
    os.replace(part, target)


def _complete(address: str, part: Path, file: File, patience: Patience, advance: Advance) -> int | None:
    """Bring ``part`` to its full size; returns the size that the other side says, which may differ."""
    if _size(part) > file.size:
        part.unlink()
    try:
        return keep_trying(
            lambda: _transfer(address, part, file.size, patience.timeout, advance),
            patience_for(address, patience),
            f"{address} could not be copied",
            lambda: _size(part),
        )
    except ZooError as error:
        have = _size(part)
        if not have:
            raise
        kept = f"{readable_size(have)} of {readable_size(file.size)} are kept in {part}"
        raise ZooError(f"{error} {kept}; the next download goes on from there.") from error


def _transfer(address: str, part: Path, size: int, timeout: float, advance: Advance) -> int | None:
    """Append what is missing, never more than ``size`` in all, whatever the server says or sends."""
    have = _size(part)
    advance(have)
    if have == size and part.exists():
        return None
    try:
        with open_stream(address, have, timeout) as stream:
            have = stream.start
            with _writing(part), part.open("ab" if have else "wb") as output:
                while have < size:
                    chunk = stream.read(min(CHUNK, size - have))
                    if not chunk:
                        raise InterruptedTransferError(f"it ended after {have} of {size} bytes")
                    output.write(chunk)
                    have += len(chunk)
                    advance(have)
                output.flush()
                os.fsync(output.fileno())
            return stream.total
    except RangeRefusedError:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ZooError(f"{part} cannot be written: {reason}. Free some space, or choose another folder.") from error


def fetch_bytes(address: str, limit: int, patience: Patience) -> bytes:
    """A small file as a whole, such as an index; at most ``limit`` bytes, or a :class:`ZooError`."""
    return keep_trying(
        lambda: _whole(address, limit, patience.timeout),
        patience_for(address, patience),
        f"{address} could not be read",
    )


def _whole(address: str, limit: int, timeout: float) -> bytes:
    data = bytearray()
    with open_stream(address, 0, timeout) as stream:
        while chunk := stream.read(min(CHUNK, limit + 1 - len(data))):
            data += chunk
            if len(data) > limit:
                raise ZooError(f"{address} is larger than {readable_size(limit)}, which no index is.")
        if stream.total is not None and len(data) < stream.total:
            raise InterruptedTransferError(f"it ended after {len(data)} of {stream.total} bytes")
    return bytes(data)


def patience_for(address: str, patience: Patience) -> Patience:
    """A disk is asked once: what it lacks now it will lack in a second."""
    return patience if is_remote(address) else dataclasses.replace(patience, attempts=1)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
