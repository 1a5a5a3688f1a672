"""What a zoo may hold: safe relative names, a few inert types of file, and contents that are what the name says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from xmodal.errors import ZooError

ALLOWED_SUFFIXES = (".safetensors", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".png")
ALLOWED_NAMES = ("LICENSE", "LICENCE", "NOTICE")

# No leading dot (.git/hooks), no trailing dot or space (Windows drops them), nothing that means more to a shell.
SEGMENT = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._ +-]*[A-Za-z0-9_+-])?")


def unsafe_path(path: str) -> str | None:
    """Why ``path`` may not be written below a folder, or None if it may.

    >>> unsafe_path("1_Pooling/config.json"), unsafe_path("../config.json")
    (None, "it leaves the entry's folder")
    """
    if not path or len(path) > 200:
        return "a name has 1 to 200 characters"
    if path.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", path) or "://" in path:
        return "it is absolute; names are relative to the entry's folder"
    segments = path.replace("\\", "/").split("/")
    if ".." in segments:
        return "it leaves the entry's folder"
    wrong = [segment for segment in segments if not SEGMENT.fullmatch(segment)]
    if wrong or "\\" in path:
        return "folders and files are named with letters, digits, '_', '.', '-', '+' and spaces, and '/' between them"
    return None


def clashing(paths: Iterable[str]) -> str | None:
    """A path that would overwrite another one, on a disk that ignores case, or that is another one's folder."""
    lowered: set[str] = set()
    for path in paths:
        if path.lower() in lowered:
            return path
        lowered.add(path.lower())
    for path in paths:
        if any(str(parent).lower() in lowered for parent in PurePosixPath(path).parents):
            return path
    return None


def is_allowed(path: str) -> bool:
    """Whether a file of this name can be in a zoo: tensors as safetensors, text, and pictures.

    >>> is_allowed("model.safetensors"), is_allowed("pytorch_model.bin")
    (True, False)
    """
    name = PurePosixPath(path)
    return name.suffix.lower() in ALLOWED_SUFFIXES or name.name in ALLOWED_NAMES


def refuse_other_types(paths: Iterable[str], whose: str) -> None:
    """Raise :class:`ZooError` if ``whose`` files include one of a type that can carry code, such as a pickle."""
    wrong = sorted(path for path in paths if not is_allowed(path))
    if wrong:
        allowed = ", ".join((*ALLOWED_SUFFIXES, *ALLOWED_NAMES))
        raise ZooError(
            f"{whose} lists {', '.join(wrong)}. A zoo holds {allowed} and nothing else: other types, pickles"
            " (.bin, .pt, .pth, .ckpt, .pkl) above all, can run code when they are loaded. Save weights as safetensors."
        )


def wrong_contents(path: Path, name: str) -> str | None:
    """Why the file is not what ``name``'s suffix says (a pickle called ``.safetensors``), or None if it is."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".safetensors":
        return _wrong_safetensors(path)
    data = path.read_bytes()
    if suffix == ".png":
        return None if data.startswith(b"\x89PNG\r\n\x1a\n") else "it is not a PNG picture"
    if b"\0" in data:
        return "it is not text"
    try:
        text = data.decode("utf-8")
        if suffix == ".json":
            json.loads(text)
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    except ValueError as error:
        return f"it is not JSON ({error})"
    return None


def _wrong_safetensors(path: Path) -> str | None:
    """The format: the length of the header (8 bytes, little endian), the header as JSON, the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100_000_000):
            return "it is not a safetensors file"
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return "it is not a safetensors file"
    return None if isinstance(header, dict) else "it is not a safetensors file"


def sha256_of(path: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
