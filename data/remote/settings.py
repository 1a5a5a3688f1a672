"""What can be set about remote shards: where they are kept, how much of the disk they take, how long one waits."""

from __future__ import annotations

import os
import re
from pathlib import Path

from xmodal.errors import DataError
from xmodal.transfer.addresses import cache_folder
from xmodal.transfer.patience import USUAL

PATIENCE = USUAL
LARGEST_MANIFEST = 1 << 30
LARGEST_INDEX = 1 << 30
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def shard_folder() -> Path:
    """The folder of the shards that were fetched: ``shards`` in ``$XMODAL_CACHE``, or in this user's cache folder."""
    return cache_folder() / "shards"


def lock_path(key: str) -> Path:
    """The lock of a fetched shard. A few thousand serve all: they are never removed, for that would be a race."""
    return shard_folder() / f".{key[:3]}.lock"


def cache_limit() -> int | None:
    """How many bytes the fetched shards may take, from ``$XMODAL_CACHE_LIMIT``; None for as many as there is room for.

    Raises :class:`DataError` for what is no size.
    """
    given = os.environ.get("XMODAL_CACHE_LIMIT", "")
    return parse_size(given) if given.strip() else None


def parse_size(text: str) -> int:
    """Bytes that a text such as ``50GB`` means.

    >>> parse_size("50GB"), parse_size("1.5 MiB"), parse_size("1000")
    (50000000000, 1572864, 1000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if not match or (match[3] and not match[2]):
        raise DataError(f"XMODAL_CACHE_LIMIT={text} is no size. Give a number and a unit, such as 500MB, 50GB or 2TB.")
    return int(float(match[1]) * (_BINARY if match[3] else _UNITS)[match[2]])
