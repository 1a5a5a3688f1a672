"""Random changes to a training picture, drawn from (seed, view, sample key) and from nothing else."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageEnhance

from xmodal.data.decoders import Decoded, Size, decode_picture
from xmodal.data.erasing import erase
from xmodal.data.hashing import stable_hash
from xmodal.data.policies import apply_policy
from xmodal.data.resizing import Box, corner_color, resize
from xmodal.recipe import Augment


def read_augmented(
    data: bytes, settings: Augment, *, decoder: str, size: int | None, seed: int, view: int, key: str
) -> Image.Image:
    """An encoded training picture, decoded by the named ``decoder`` and changed as :func:`augment` says.

    A decoder that drafts is told how many pixels the crop needs. Raises :class:`MemberError` where the picture is
    broken.
    """

    def scale(full_size: Size) -> float:
        box = _box(full_size, settings, _draws(seed, view, key)[1])
        return min(1.0, (size or math.inf) / min(box[2] - box[0], box[3] - box[1]))

    picture = decode_picture(data, decoder, scale if size is not None else None)
    return augment(picture, settings, size=size, seed=seed, view=view, key=key)


def augment(
    image: Image.Image | Decoded, settings: Augment, *, size: int | None, seed: int, view: int, key: str
) -> Image.Image:
    """A training picture: crop and resize, rotation, flip, colour, policy, erasing, in this order.

    Returns an RGB picture of ``size`` × ``size`` pixels; where ``size`` is None, of the crop's own size, or of
    ``image``'s without a crop. Without a crop the largest square in the middle is taken, as evaluation does. A
    rotation lays bare corners, which get the mean colour of the picture's own four. Global random generators are
    neither read nor moved.
    """
    draws, random = _draws(seed, view, key)
    flip, angle, brightness, contrast, saturation, hue, gray = draws
    picture = Decoded(image, image.size) if isinstance(image, Image.Image) else image
    box = _box(picture.full_size, settings, random) if settings.crop_scale or size is not None else None
    image = resize(picture, box, size)
    if settings.rotation:
        degrees = (2 * angle - 1) * settings.rotation
        image = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=corner_color(image))
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
    if settings.policy:
        image = apply_policy(image, settings, seed=seed, view=view, key=key)
    if settings.erase:
        image = erase(image, settings, seed=seed, view=view, key=key)
    return image


def _draws(seed: int, view: int, key: str) -> tuple[list[float], Random]:
    """Seven numbers, drawn before any is used, so that switching one change on leaves the others as they were."""
    random = Random(stable_hash("augment", seed, view, key))
    return [random.random() for _ in range(7)], random


def _box(size: Size, settings: Augment, random: Random) -> Box:
    return crop_box(size, settings, random) if settings.crop_scale else middle_square(size)


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


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn all hues by ``turn`` of the colour circle."""
    steps = round(turn * 256)
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
