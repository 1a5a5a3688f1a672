"""Random changes to a training picture, drawn from (seed, view, sample key) and from nothing else."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageEnhance

from xmodal.data.hashing import stable_hash
from xmodal.recipe import Augment

Box = tuple[float, float, float, float]
_RESAMPLE = Image.Resampling.BICUBIC


def augment(image: Image.Image, settings: Augment, *, size: int | None, seed: int, view: int, key: str) -> Image.Image:
    """A training picture: crop and resize, rotation, flip, colour, in this order.

    Returns an RGB picture of ``size`` × ``size`` pixels; where ``size`` is None, of the crop's own size, or of
    ``image``'s without a crop. Without a crop the largest square in the middle is taken, as evaluation does. A
    rotation lays bare corners, which get the mean colour of the picture's own four. Global random generators are
    neither read nor moved.
    """
    random = Random(stable_hash("augment", seed, view, key))
    # drawn before any is used, so that switching one change on leaves the others as they were
    flip, angle, brightness, contrast, saturation, hue, gray = (random.random() for _ in range(7))
    box = crop_box(image.size, settings, random) if settings.crop_scale else None
    if size is not None:
        image = image.resize((size, size), _RESAMPLE, box=box or middle_square(image.size))
    elif box is not None:
        image = image.crop(_whole(box))
    if settings.rotation:
        degrees = (2 * angle - 1) * settings.rotation
        image = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_corner_color(image))
    if flip < settings.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if settings.color_jitter:
        for enhance, draw in (
            (ImageEnhance.Brightness, brightness),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, saturation),
        ):
            image = enhance(image).enhance(1 + (2 * draw - 1) * settings.color_jitter)
    if settings.hue_jitter:
        image = _turn_hue(image, (2 * hue - 1) * settings.hue_jitter)
    if gray < settings.grayscale:
        image = image.convert("L").convert("RGB")
    return image


def crop_box(size: tuple[int, int], settings: Augment, random: Random) -> Box:
    """(left, top, right, bottom) of a crop whose share of the area and ratio of width to height are drawn.

    The area is uniform in ``crop_scale``, the ratio log-uniform in ``crop_ratio``. Where ten draws do not fit into the
    picture, the middle is taken, cut to the nearest allowed ratio.
    """
    width, height = size
    smallest, largest = settings.crop_scale or (1.0, 1.0)
    narrow, wide = (math.log(ratio) for ratio in settings.crop_ratio)
    for _ in range(10):
        area = width * height * (smallest + (largest - smallest) * random.random())
        ratio = math.exp(narrow + (wide - narrow) * random.random())
        x, y = random.random(), random.random()
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = x * (width - w), y * (height - h)
            return left, top, min(width, left + w), min(height, top + h)
    ratio = min(max(width / height, settings.crop_ratio[0]), settings.crop_ratio[1])
    w, h = min(width, height * ratio), min(height, width / ratio)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def middle_square(size: tuple[int, int]) -> Box:
    """The largest square in the middle of a picture.

    >>> middle_square((100, 60))
    (20.0, 0.0, 80.0, 60.0)
    """
    width, height = size
    side = min(size)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _whole(box: Box) -> tuple[int, int, int, int]:
    left, top = round(box[0]), round(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def _corner_color(image: Image.Image) -> tuple[int, ...]:
    right, bottom = image.width - 1, image.height - 1
    corners = [image.getpixel(corner) for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom))]
    return tuple(round(sum(channel) / 4) for channel in zip(*corners, strict=True))


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn all hues by ``turn`` of the colour circle."""
    steps = round(turn * 256)
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
