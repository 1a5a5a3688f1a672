"""The named decoders of training pictures: Pillow and faster ones, all under the same rules.

``pil`` decodes and resizes with Pillow. ``simplejpeg`` and ``torchvision`` decode into arrays, which torch then
resizes, in a fifth of the time. What a decoder does not read (see :func:`reads`) Pillow decodes: the file's header
decides, never an error. The ``-draft`` ones let the JPEG library halve a big picture, as long as the crop keeps all the
pixels that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmodal.data.images import opened_image, upright_rgb
from xmodal.data.members import MemberError
from xmodal.errors import DataError, hint

Decoder = Literal["pil", "pil-draft", "simplejpeg", "simplejpeg-draft", "torchvision"]
DECODERS: tuple[str, ...] = get_args(Decoder)
DEFAULT_DECODER: Decoder = "simplejpeg"
Size = tuple[int, int]
Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112
_JPEG = ("JPEG", "MPO")  # MPO: a JPEG with further ones behind it, of which the first counts
_BY_PILLOW = ("pil", "pil-draft")
_FORMATS = {"simplejpeg": _JPEG, "simplejpeg-draft": _JPEG, "torchvision": (*_JPEG, "PNG", "WEBP")}


@dataclass(frozen=True)
class Decoded:
    """A training picture: ``pixels`` as a Pillow picture or an array ``[H, W, 3]``, and its ``full_size`` upright.

    A draft has fewer pixels than its full size.
    """

    pixels: Image.Image | Pixels
    full_size: Size

    @property
    def size(self) -> Size:
        """Width and height of what was decoded."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.size
        return self.pixels.shape[1], self.pixels.shape[0]

    def to_image(self) -> Image.Image:
        """As a Pillow picture."""
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)


def decode_picture(data: bytes, decoder: str = "pil", scale: Callable[[Size], float] | None = None) -> Decoded:
    """An encoded picture by the named ``decoder``: RGB, transparency laid over white, turned as its EXIF says.

    ``scale`` maps the full size, upright, to the smallest share of it that serves; only drafts make use of it, and
    only for JPEG. Raises :class:`MemberError` for a broken picture and DataError for an unknown decoder.
    """
    if decoder not in DECODERS:
        raise DataError(f"There is no decoder {decoder!r}. {hint(decoder, DECODERS)}")
    with opened_image(data) as image:
        turn = _orientation(image, data)
        full = image.size if turn < 5 else (image.height, image.width)
        wanted = scale(full) if scale is not None and decoder.endswith("-draft") and image.format in _JPEG else 1.0
        if reads(decoder, image, data):
            return Decoded(_turned(_array(data, decoder, image, wanted), turn), full)
        if wanted < 1 and decoder == "pil-draft":
            width, height = image.size
            image.draft("RGB", (math.ceil(width * wanted), math.ceil(height * wanted)))  # type: ignore[no-untyped-call]
        upright = upright_rgb(image)
        return Decoded(upright if decoder in _BY_PILLOW else np.asarray(upright), full)


def reads(decoder: str, image: Image.Image, data: bytes) -> bool:
    """Whether ``decoder`` itself decodes this picture, of which only the header was read; otherwise Pillow does.

    Others than Pillow get RGB and gray pictures of 8 bits a channel, without transparency and animation: JPEG all of
    them, PNG and WebP ``torchvision``.
    """
    if image.format not in _FORMATS.get(decoder, ()) or image.mode not in ("RGB", "L"):
        return False
    if image.has_transparency_data or (image.format not in _JPEG and getattr(image, "is_animated", False)):
        return False
    return image.format != "PNG" or (data[24] == 8 and not _may_be_turned(data))


def _array(data: bytes, decoder: str, image: Image.Image, wanted: float) -> Pixels:
    width, height = image.size
    if decoder == "torchvision":
        pixels = _by_torchvision(data, str(image.format))
    else:
        # only whole halves: what lies between takes longer than all pixels do
        part = next((n for n in (8, 4, 2) if wanted * n <= 1), 1)
        least = {"min_width": math.ceil(width / part), "min_height": math.ceil(height / part), "min_factor": part}
        pixels = _simplejpeg().decode_jpeg(data, **(least if part > 1 else {}))
    if wanted == 1 and pixels.shape != (height, width, 3):
        raise MemberError(f"picture of {width} × {height} pixels decodes to the shape {pixels.shape}")
    return pixels


def _by_torchvision(data: bytes, format: str) -> Pixels:
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_jpeg, decode_png, decode_webp
    except ImportError as error:  # deprecated since 0.29, to be removed
        raise DataError("This torchvision decodes no pictures any more. Set data.decoder=simplejpeg.") from error
    decode = {"PNG": decode_png, "WEBP": decode_webp}.get(format, decode_jpeg)
    tensor = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    array: Pixels = tensor.permute(1, 2, 0).numpy()
    return array


def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError as error:
        raise DataError(
            "The decoder simplejpeg needs a package that is not installed. Run: pip install simplejpeg, or set "
            "data.decoder=pil."
        ) from error
    return simplejpeg


def _orientation(image: Image.Image, data: bytes) -> int:
    """1 to 8 as EXIF has it."""
    if image.format == "PNG" and not _may_be_turned(data):
        return 1  # its tags may stand behind the pixels, so that asking would decompress them
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _may_be_turned(data: bytes) -> bool:
    return any(mark in data for mark in (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type"))


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """The same as Pillow's ``exif_transpose``."""
    if orientation == 1:
        return pixels
    turn: Callable[[Pixels], Pixels] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }[orientation]
    return np.ascontiguousarray(turn(pixels))
