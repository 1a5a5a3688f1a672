"""From a sample's bytes to a picture, a text and a label; whatever cannot be decoded is a :class:`SampleError`."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from xmodal.data.hashing import stable_hash
from xmodal.data.reader import RawSample
from xmodal.errors import DataError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
MAX_PIXELS = 2**26
"""Pictures of more pixels (8192 × 8192) are refused before they are decompressed."""

# No EPS and the like, for which Pillow would start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class SampleError(DataError):
    """One sample that cannot be decoded: ``key``, ``shard`` and ``reason``."""

    def __init__(self, key: str, shard: str, reason: str) -> None:
        self.key, self.shard, self.reason = key, shard, reason
        super().__init__(f"Sample {key!r} of {shard}: {reason}")

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str, str]]:  # a worker sends it by pickle
        return SampleError, (self.key, self.shard, self.reason)


class MemberError(DataError):
    """Why a member's bytes cannot be decoded; becomes a SampleError where the sample's name is known."""


def decode(
    raw: RawSample, *, fields: Collection[str], text: str = "txt", view: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Decode ``fields`` of a sample, and ``text`` and ``label`` wherever the sample has them.

    Returns ``key`` (str) and, of these, what was asked for or found:

    - ``image``: a PIL picture, RGB, transparency laid over white, turned as its EXIF orientation says; of an animation
      the first frame;
    - ``text``: the member ``text`` (UTF-8, outer white space removed), or, for a dotted path such as ``json.keywords``,
      a string in a JSON member. Of a list one entry is picked by hash of (seed, view, key);
    - ``label``: the integer in member ``cls``.

    Raises :class:`SampleError` where a member is missing, empty or broken.
    """
    sample: dict[str, Any] = {"key": raw.key}
    try:
        if unknown := set(fields) - {"image", "text", "label"}:
            raise MemberError(f"no decoder for {', '.join(sorted(unknown))}; there are image, text and label")
        if "image" in fields:
            sample["image"] = decode_image(raw.members[image_member(raw.members)])
        if "text" in fields or _split_path(raw.members, text) is not None:
            sample["text"] = _text_at(raw, text, view, seed)
        if "label" in fields and "cls" not in raw.members:
            raise MemberError(f"has no label (member cls), only {_listed(raw.members)}")
        if "cls" in raw.members:
            sample["label"] = decode_label(raw.members["cls"])
    except MemberError as error:
        raise SampleError(raw.key, raw.shard, str(error)) from error.__cause__
    return sample


def image_member(members: Mapping[str, Any]) -> str:
    """The extension that holds the picture: a plain one (``png``) or, failing that, one that ends so (``photo.png``).

    Raises :class:`MemberError` where there is none or more than one.
    """
    plain = [name for name in members if name in IMAGE_EXTENSIONS]
    found = plain or [name for name in members if name.rpartition(".")[2] in IMAGE_EXTENSIONS]
    if not found:
        raise MemberError(f"has no picture, only {_listed(members)}")
    if len(found) > 1:
        raise MemberError(f"has {len(found)} pictures, {', '.join(found)}; give it one (a key ends at the first dot)")
    return found[0]


def decode_image(data: bytes) -> Image.Image:
    """An encoded picture as RGB, as :func:`decode` describes it. Raises :class:`MemberError`."""
    with opened_image(data) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def opened_image(data: bytes) -> Iterator[Image.Image]:
    """A picture of which only the header was read; errors inside become :class:`MemberError`."""
    if not data:
        raise MemberError("picture is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise MemberError(f"picture of {width} × {height} pixels; more than {MAX_PIXELS} are refused")
            yield image
    except MemberError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MemberError(f"picture of too many pixels; more than {MAX_PIXELS} are refused") from error
    except UnidentifiedImageError as error:
        raise MemberError(f"picture is not one of {', '.join(_FORMATS)} ({len(data)} bytes)") from error
    except Exception as error:  # Pillow raises a dozen types, struct.error and SyntaxError among them, for broken files
        raise MemberError(f"picture cannot be decoded: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("L").convert("RGB")  # convert alone would clip at 255
    if image.mode in ("I", "F"):
        raise MemberError(f"picture has 32-bit pixels (mode {image.mode}) of unknown range; convert it to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def decode_text(data: bytes) -> str:
    """UTF-8 text without outer white space. Raises :class:`MemberError` where it is empty or not UTF-8."""
    try:
        content = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise MemberError(f"text is not UTF-8 (byte {error.start})") from error
    if not content:
        raise MemberError("text is empty")
    return content


def decode_json(data: bytes) -> Any:
    """A JSON value. Raises :class:`MemberError` where it is none."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MemberError(f"not JSON: {error}") from error


def decode_label(data: bytes) -> int:
    """The integer of a ``cls`` member. Raises :class:`MemberError` where it is none."""
    digits = data.strip()
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 18:
        raise MemberError(f"label is {digits[:40]!r}, not an integer")
    return int(digits)


def _split_path(members: Mapping[str, bytes], text: str) -> tuple[str, list[str]] | None:
    """The member that ``text`` names, and the keys to follow inside it; None where the sample lacks the member."""
    pieces = text.split(".")
    for length in range(len(pieces), 0, -1):
        if (name := ".".join(pieces[:length])) in members:
            return name, pieces[length:]
    return None


def _text_at(raw: RawSample, text: str, view: int, seed: int) -> str:
    found = _split_path(raw.members, text)
    if found is None:
        raise MemberError(f"has no text {text!r}, only {_listed(raw.members)}")
    name, inner = found
    if not inner:
        return decode_text(raw.members[name])
    value = decode_json(raw.members[name])
    for piece in inner:
        if isinstance(value, dict) and piece in value:
            value = value[piece]
        elif isinstance(value, list) and piece.isdecimal() and int(piece) < len(value):
            value = value[int(piece)]
        else:
            has = f"; it has {_listed(value)}" if isinstance(value, dict) else ""
            raise MemberError(f"text {text!r}: there is no {piece!r}{has}")
    if isinstance(value, list) and value:
        value = value[stable_hash(seed, view, raw.key) % len(value)]
    if not isinstance(value, str):
        raise MemberError(f"text {text!r} is {type(value).__name__}, not a string or a list of strings with an entry")
    if not value.strip():
        raise MemberError(f"text {text!r} is empty")
    return value.strip()


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:8]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "") if shown else "nothing"
