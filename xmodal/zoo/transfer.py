"""One file to one place: carried on where it stopped, checked, and only then given its name."""

from __future__ import annotations

import os
from pathlib import Path

from xmodal.errors import ZooError
from xmodal.transfer.download import Advance, complete
from xmodal.transfer.patience import Patience
from xmodal.zoo.files import sha256_of, wrong_contents
from xmodal.zoo.index import File


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
    said = complete(address, part, file.size, patience, advance)
    found = sha256_of(part)
    if found != file.sha256 and resumed:  # what was there may have been wrong: once more from nothing
        part.unlink()
        said = complete(address, part, file.size, patience, advance)
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
