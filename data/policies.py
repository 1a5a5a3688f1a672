"""RandAugment and TrivialAugment by torchvision's own operations, with what happens drawn from (seed, view, key).

torchvision's classes draw from the global generator, which a worker's history has moved; so the draws are ours and
the operations theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from PIL import Image

from xmodal.data.hashing import stable_hash
from xmodal.data.resizing import corner_color
from xmodal.recipe import Augment

_BINS = 30
_PLAIN = ("identity", "autocontrast", "equalize")
_ONE_WAY = ("posterize", "solarize")
_GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_EITHER_WAY = (*_GEOMETRY, "brightness", "color", "contrast", "sharpness")
CHANGES = (*_PLAIN, *_ONE_WAY, *_EITHER_WAY)
"""All that a policy can do to a picture; each as likely as the others."""


def apply_policy(image: Image.Image, settings: Augment, *, seed: int, view: int, key: str) -> Image.Image:
    """``randaugment``: ``policy_changes`` changes, ``policy_magnitude`` of 30 strong; ``trivialaugment``: one, any way.

    Cubuk et al. 2019, arXiv:1909.13719; Müller & Hutter 2021, arXiv:2103.10158 (its wider strengths). What a turn or
    a shift lays bare gets the mean colour of the picture's corners, where torchvision's default is black.
    """
    random = Random(stable_hash("policy", seed, view, key))
    wide = settings.policy == "trivialaugment"
    for _ in range(1 if wide else settings.policy_changes):
        name = CHANGES[int(random.random() * len(CHANGES))]
        magnitude = int(random.random() * (_BINS + 1)) if wide else settings.policy_magnitude
        sign = -1 if random.random() < 0.5 else 1
        strength = strength_of(name, magnitude, image.size, wide=wide)
        image = change(image, name, sign * strength if name in _EITHER_WAY else strength)
    return image


def strength_of(name: str, magnitude: int, size: tuple[int, int], *, wide: bool = False) -> float:
    """What ``magnitude`` of 30 means to a change: torchvision's tables."""
    share = magnitude / _BINS
    if name in _PLAIN:
        return 0.0
    if name.startswith("shear"):
        return share * (0.99 if wide else 0.3)
    if name.startswith("translate"):
        side = size[0] if name.endswith("x") else size[1]
        return share * (32.0 if wide else 150.0 / 331.0 * side)
    if name == "rotate":
        return share * (135.0 if wide else 30.0)
    if name == "posterize":
        return 8 - round(magnitude / (_BINS / (6 if wide else 4)))
    if name == "solarize":
        return 255.0 * (1 - share)
    return share * (0.99 if wide else 0.9)  # brightness, color, contrast, sharpness


def change(image: Image.Image, name: str, strength: float, fill: tuple[int, int, int] | None = None) -> Image.Image:
    """One of :data:`CHANGES`; ``strength`` in its own unit: pixels, degrees, bits, a level, a share.

    ``fill`` is what a turn or a shift lays bare; by default the mean colour of the picture's corners.
    """
    from torchvision.transforms.v2 import functional

    bare = list(corner_color(image) if fill is None else fill)
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "fill": bare}
    degrees = math.degrees(math.atan(strength))
    changes: dict[str, Callable[[], Any]] = {
        "identity": lambda: image,
        "shear_x": lambda: functional.affine(image, **{**still, "shear": [degrees, 0.0], "center": [0, 0]}),
        "shear_y": lambda: functional.affine(image, **{**still, "shear": [0.0, degrees], "center": [0, 0]}),
        "translate_x": lambda: functional.affine(image, **{**still, "translate": [int(strength), 0]}),
        "translate_y": lambda: functional.affine(image, **{**still, "translate": [0, int(strength)]}),
        "rotate": lambda: functional.rotate(image, strength, fill=bare),
        "brightness": lambda: functional.adjust_brightness(image, 1 + strength),
        "color": lambda: functional.adjust_saturation(image, 1 + strength),
        "contrast": lambda: functional.adjust_contrast(image, 1 + strength),
        "sharpness": lambda: functional.adjust_sharpness(image, 1 + strength),
        "posterize": lambda: functional.posterize(image, int(strength)),
        "solarize": lambda: functional.solarize(image, strength),
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
    }
    changed: Image.Image = changes[name]()
    return changed
