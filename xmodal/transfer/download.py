"""Bytes of one address into one file: carried on where they stopped, never more than there should be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from xmodal.errors import TransferError
from xmodal.transfer.addresses import is_remote
from xmodal.transfer.patience import InterruptedTransferError, Patience, RangeRefusedError, keep_trying
from xmodal.transfer.streams import open_stream

CHUNK = 1 << 18
Advance = Callable[[int], None]
"""Told how many bytes of the file are there by now; fewer than before where a transfer starts again."""


class OtherSizeError(InterruptedTransferError):
    """The other side says another size than the one expected."""

    def __init__(self, said: int, expected: int) -> None:
        super().__init__(f"the server says that it has {said} bytes, not {expected}")
        self.said = said


def complete(
    address: str,
    part: Path,
    size: int,
    patience: Patience,
    advance: Advance = lambda _: None,
    *,
    exact: bool = False,
) -> int | None:
    """Bring ``part`` to its full ``size``, by new attempts from where the last one stopped.

    Returns the size that the other side says, None where it says none; with ``exact`` another one than ``size``
    counts as a failure. Raises :class:`TransferError`; what has come stays in ``part``, and the error says so.
    """
    if size_of(part) > size:
        part.unlink()
    try:
        return keep_trying(
            lambda: _transfer(address, part, size, patience.timeout, advance, exact),
            patience_for(address, patience),
            f"{address} could not be copied",
            lambda: size_of(part),
        )
    except TransferError as error:
        have = size_of(part)
        if not have:
            raise
        kept = f"{readable_size(have)} of {readable_size(size)} are kept in {part}"
        raise TransferError(f"{error} {kept}; the next download goes on from there.") from error.__cause__


def _transfer(address: str, part: Path, size: int, timeout: float, advance: Advance, exact: bool) -> int | None:
    """Append what is missing, never more than ``size`` in all, whatever the server says or sends."""
    have = size_of(part)
    advance(have)
    if have == size and part.exists():
        return None
    try:
        with open_stream(address, have, timeout) as stream:
            if exact and stream.total is not None and stream.total != size:
                raise OtherSizeError(stream.total, size)
            have = stream.start
            with writing(part), part.open("ab" if have else "wb") as output:
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
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses, as a :class:`TransferError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise TransferError(
            f"{path} cannot be written: {reason}. Free some space, or choose another folder."
        ) from error


def fetch_bytes(address: str, limit: int, patience: Patience) -> bytes:
    """A small file as a whole, such as an index; at most ``limit`` bytes, or a :class:`TransferError`."""
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
                raise TransferError(f"{address} is larger than {readable_size(limit)}, which no index is.")
        if stream.total is not None and len(data) < stream.total:
            raise InterruptedTransferError(f"it ended after {len(data)} of {stream.total} bytes")
    return bytes(data)


def patience_for(address: str, patience: Patience) -> Patience:
    """A disk is asked once: what it lacks now it will lack in a second."""
    return patience if is_remote(address) else dataclasses.replace(patience, attempts=1)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def readable_size(size: float) -> str:
    """Bytes as people say them.

    >>> readable_size(512), readable_size(8_123_456)
    ('512 B', '8.1 MB')
    """
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
