"""The augmentation of a picture that was stored with its embedding, done again: crop, flip, and RandAugment's changes.

MobileCLIP's ``paug.json`` holds, for every view, the random parameters of torchvision's transforms in the order in
which they were applied: the crop's box, where there is one a flip, and RandAugment's operations by number and strength.
A parameter that is null was not applied.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from xmodal.data.members import MemberError
from xmodal.data.policies import change
from xmodal.data.texts import decode_json

_CHANGES = {
    "Identity": "identity", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x",
    "TranslateY": "translate_y", "Rotate": "rotate", "Brightness": "brightness", "Color": "color",
    "Contrast": "contrast", "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize",
    "AutoContrast": "autocontrast", "Equalize": "equalize",
}  # fmt: skip
OPERATIONS = tuple(_CHANGES)
"""RandAugment's operations in the order of their numbers."""

STORED_SIZE = 224
"""Side in pixels of the pictures that the teachers saw; translations are stored in pixels of it."""

_MAX_VIEWS = 10_000
_MAX_MAGNITUDE = 1e4


@dataclass(frozen=True)
class Parameters:
    """One stored augmentation: ``crop`` is (top, left, height, width) in pixels, an operation is (name, magnitude)."""

    crop: tuple[int, int, int, int] | None = None
    flip: bool = False
    operations: tuple[tuple[str, float], ...] = ()


def parse_views(data: bytes) -> list[Any]:
    """The undecoded parameters of every view in a ``paug.json``. Raises :class:`MemberError`."""
    found = decode_json(data)
    views = found.get("param_aug") if isinstance(found, dict) else None
    if isinstance(views, str):  # DataCompDR stores JSON in JSON
        try:
            views = json.loads(views)
        except (ValueError, RecursionError) as error:
            raise MemberError(f".paug.json: param_aug is not JSON: {error}") from error
    if not isinstance(views, list) or not 0 < len(views) <= _MAX_VIEWS:
        raise MemberError(".paug.json has no list param_aug with the parameters of each view")
    return views


def parse_parameters(view: Any) -> Parameters:
    """One view's parameters. Raises :class:`MemberError` where they are none of the known forms.

    >>> parse_parameters([[4, 0, 60, 50], [[3, -7.5], [12, 0.0]]])
    Parameters(crop=(4, 0, 60, 50), flip=False, operations=(('TranslateX', -7.5), ('AutoContrast', 0.0)))
    """
    crop, flip, operations = _parts(view)
    return Parameters(
        None if crop is None else _crop(crop),
        bool(flip),
        () if operations is None else tuple(_operation(entry) for entry in _list(operations)),
    )


def _parts(view: Any) -> tuple[Any, Any, Any]:
    if isinstance(view, list) and len(view) == 2:
        return view[0], None, view[1]
    if isinstance(view, list) and len(view) == 3 and (view[1] is None or isinstance(view[1], bool)):
        return view[0], view[1], view[2]
    raise MemberError(
        f".paug.json: a view is {view!r:.60}; known are [crop, operations] and [crop, flip, operations], "
        "with a crop of four numbers and operations of two each"
    )


def _crop(crop: Any) -> tuple[int, int, int, int]:
    if not isinstance(crop, list) or len(crop) != 4 or any(type(number) is not int for number in crop):
        raise MemberError(f".paug.json: a crop is {crop!r:.60}, not [top, left, height, width] in pixels")
    top, left, height, width = crop
    if min(top, left) < 0 or min(height, width) < 1:
        raise MemberError(f".paug.json: no picture holds the crop {crop}")
    return top, left, height, width


def _operation(entry: Any) -> tuple[str, float]:
    if (
        not isinstance(entry, list)
        or len(entry) != 2
        or type(entry[0]) is not int
        or type(entry[1]) not in (int, float)
    ):
        raise MemberError(f".paug.json: an operation is {entry!r:.60}, not [number, magnitude]")
    number, magnitude = entry
    if not 0 <= number < len(OPERATIONS):
        raise MemberError(f".paug.json: there is no operation {number}; they count from 0 to {len(OPERATIONS) - 1}")
    if not abs(magnitude) <= _MAX_MAGNITUDE:  # nor is NaN
        raise MemberError(f".paug.json: {OPERATIONS[number]} of magnitude {magnitude} is none of RandAugment's")
    return OPERATIONS[number], float(magnitude)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > 32:
        raise MemberError(f".paug.json: operations are {value!r:.60}, not a list of them")
    return value


def replay(image: Image.Image, parameters: Parameters, *, size: int | None = None) -> Image.Image:
    """The picture that the teacher saw, ``size`` × ``size`` pixels, :data:`STORED_SIZE` by default.

    With another size, translations, which are stored in pixels, keep their share of the picture. Raises
    :class:`MemberError` where the crop does not lie in ``image``, which is then not the picture that was augmented.
    """
    size = size or STORED_SIZE
    if parameters.crop is not None:
        top, left, height, width = parameters.crop
        if top + height > image.height or left + width > image.width:
            raise MemberError(
                f"picture of {image.width} × {image.height} pixels does not hold the stored crop (top {top}, left "
                f"{left}, height {height}, width {width}): it is not the one that was embedded, or it was resized"
            )
        image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    if parameters.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, magnitude in parameters.operations:
        strength = magnitude * (size / STORED_SIZE) if name.startswith("Translate") else magnitude
        try:
            image = change(image, _CHANGES[name], strength, fill=(0, 0, 0))
        except (ValueError, TypeError, OverflowError, ZeroDivisionError, MemoryError) as error:
            raise MemberError(f".paug.json: {name} of magnitude {magnitude} cannot be applied: {error}") from error
    return image
