"""Random erasing: a rectangle of a training picture is filled with noise (Zhong et al. 2017, arXiv:1708.04896)."""

from __future__ import annotations

import math
from random import Random

from PIL import Image

from xmodal.data.hashing import stable_hash
from xmodal.recipe import Augment

_RATIOS = math.log(0.3), math.log(1 / 0.3)


def erase(image: Image.Image, settings: Augment, *, seed: int, view: int, key: str) -> Image.Image:
    """With probability ``settings.erase`` a rectangle becomes noise, its area uniform in ``erase_scale``.

    Its ratio of width to height is log-uniform in 0.3 to 3.3, cut to what fits. Drawn from (seed, view, key).
    """
    random = Random(stable_hash("erase", seed, view, key))
    chance, share, ratio, x, y = (random.random() for _ in range(5))
    if chance >= settings.erase:
        return image
    smallest, largest = settings.erase_scale
    area = image.width * image.height * (smallest + (largest - smallest) * share)
    # a ratio beyond these would need a side longer than the picture's
    low = max(_RATIOS[0], math.log(area / image.height**2))
    high = min(_RATIOS[1], math.log(image.width**2 / area))
    aspect = math.exp(low + (high - low) * ratio)
    width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    left, top = int(x * (image.width - width + 1)), int(y * (image.height - height + 1))
    noise = Image.frombytes("RGB", (width, height), random.randbytes(3 * width * height))
    erased = image.copy()
    erased.paste(noise, (left, top))
    return erased
