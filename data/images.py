"""From an encoded picture to RGB by Pillow, with all that is refused before anything is decompressed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from xmodal.data.members import MemberError, the_member

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
MAX_PIXELS = 2**26
"""Pictures of more pixels (8192 × 8192) are refused before they are decompressed."""

# No EPS and the like, for which Pillow would start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def image_member(members: Mapping[str, Any]) -> str:
    """The extension that holds the picture: a plain one (``png``) or, failing that, one that ends so (``photo.png``).

    Raises :class:`MemberError` where there is none or more than one.
    """
    return the_member(members, IMAGE_EXTENSIONS, "picture")


def decode_image(data: bytes) -> Image.Image:
    """An encoded picture by Pillow: RGB, transparency laid over white, turned as EXIF says, the first frame of many.

    Raises :class:`MemberError`.
    """
    with opened_image(data) as image:
        return upright_rgb(image)


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


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture, decompressed, turned as its EXIF orientation says, in RGB."""
    image.load()
    # a turned picture comes back, a straight one stays as it is: nothing is copied for nothing
    ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("L").convert("RGB")  # convert alone would clip at 255
    if image.mode in ("I", "F"):
        raise MemberError(f"picture has 32-bit pixels (mode {image.mode}) of unknown range; convert it to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
