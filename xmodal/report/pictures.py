"""Pictures of samples, small enough to live inside the page, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from xmodal.errors import XmodalError

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE = 128  # twice the size shown, for screens of double density
MIME = "image/webp"


def find_pictures(shards: Any, wanted: Mapping[str, Collection[str]], notes: list[str]) -> dict[tuple[str, str], str]:
    """Data URIs of the ``wanted`` keys of each split; ``shards`` is the recipe's ``data.val``.

    A split whose shards cannot be opened, and a sample that is not found or does not decode, are left out and noted.
    """
    found: dict[tuple[str, str], str] = {}
    for split, keys in wanted.items():
        of_split = shards.get(split) if isinstance(shards, dict) else shards
        if not of_split:
            notes.append(f"Gallery of {split!r}: the recipe names no shards for it, so its pictures are not shown.")
            continue
        try:
            pictures, unreadable = _read(of_split, set(keys))
        except XmodalError as error:
            notes.append(f"Gallery of {split!r}: its pictures are not shown. {error}")
            continue
        found |= {(split, key): uri for key, uri in pictures.items()}
        if missing := len(set(keys)) - len(pictures) - unreadable:
            notes.append(f"Gallery of {split!r}: {missing} of its pictures are no longer in the shards.")
        if unreadable:
            notes.append(f"Gallery of {split!r}: {unreadable} of its pictures do not decode.")
    return found


def _read(shards: Any, keys: set[str]) -> tuple[dict[str, str], int]:
    from xmodal.data import SampleError, open_shards
    from xmodal.data.decode import decode

    opened = open_shards(shards)
    pictures: dict[str, str] = {}
    unreadable = 0
    missing = set(keys)
    for sample in range(opened.num_samples):
        if not missing:
            break
        key = opened.key(sample)
        if key not in missing:
            continue
        missing.remove(key)
        try:
            pictures[key] = data_uri(decode(opened.read(sample), fields=("image",))["image"])
        except SampleError:
            unreadable += 1
    return pictures, unreadable


def data_uri(image: Image.Image) -> str:
    """``image``, made no larger than ``MAX_SIDE`` a side, as a data URI."""
    from PIL.Image import Resampling

    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=4)
    return f"data:{MIME};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
