"""Crop and resize in one step: by Pillow what Pillow decoded, by torch what came as an array, which takes a fifth."""

from __future__ import annotations

from PIL import Image

from xmodal.data.decoders import Decoded, Pixels

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""


def resize(picture: Decoded, box: Box | None, size: int | None) -> Image.Image:
    """The part ``box`` (in pixels of the full size; None: all of it) at ``size`` × ``size``, or at its own size.

    Both ways are bicubic with antialiasing. Pillow takes the box to fractions of a pixel, torch whole pixels; besides
    they differ by one level at most.
    """
    if box is not None and picture.size != picture.full_size:
        across, down = (got / full for got, full in zip(picture.size, picture.full_size, strict=True))
        width, height = picture.size
        box = box[0] * across, box[1] * down, min(width, box[2] * across), min(height, box[3] * down)
    if size is None:
        image = picture.to_image()
        return image if box is None else image.crop(whole(box))
    box = box or (0, 0, *picture.size)
    if isinstance(picture.pixels, Image.Image):
        return picture.pixels.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return Image.fromarray(_resized(picture.pixels, whole(box), size))


def _resized(pixels: Pixels, box: tuple[int, int, int, int], size: int) -> Pixels:
    import torch
    from torch.nn import functional

    left, top, right, bottom = box
    part = torch.from_numpy(pixels[top:bottom, left:right].copy())  # uint8, channels last: a vectorised path of torch's
    out = functional.interpolate(
        part.unsqueeze(0).permute(0, 3, 1, 2), (size, size), mode="bicubic", align_corners=False, antialias=True
    )
    array: Pixels = out[0].permute(1, 2, 0).contiguous().numpy()
    return array


def whole(box: Box) -> tuple[int, int, int, int]:
    """The box at whole pixels, at least one of them."""
    left, top = round(box[0]), round(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def corner_color(image: Image.Image) -> tuple[int, ...]:
    """The mean colour of a picture's four corners: what stands behind it, more likely than black."""
    right, bottom = image.width - 1, image.height - 1
    corners = [image.getpixel(corner) for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom))]
    return tuple(round(sum(channel) / 4) for channel in zip(*corners, strict=True))  # type: ignore[arg-type]
