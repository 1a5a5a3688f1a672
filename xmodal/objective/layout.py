"""How a tap comes to a loss: how its axes lie, along which its features lie, and whether it may be projected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from xmodal.losses import Input
from xmodal.objective.references import STUDENT, Reference, Side
from xmodal.taps import layer_of

_MAPS = ("map", "hidden")
_PLACES = ("length", "height", "width")


def arrange(given: Input, reference: Reference, feature: Tensor) -> Tensor:
    """A tap as the loss's input wants it.

    Losses over ``[*items, dim]`` compare the last axis. A map ``[B, C, H, W]`` therefore comes as ``[B, H, W, C]``:
    every place is an item, its channels the width. Losses that ask for maps by their four axes get them as they are,
    and attention ``[B, H, L, L]`` is no map.
    """
    return feature.movedim(1, -1) if _is_map(reference, feature) and _is_open(given.axes[:1]) else feature


def width_last(reference: Reference, feature: Tensor) -> Tensor:
    """A tap with its features along the last axis: ``[B, *places, width]``."""
    return feature.movedim(1, -1) if _is_map(reference, feature) else feature


def _is_map(reference: Reference, feature: Tensor) -> bool:
    return feature.ndim == 4 and layer_of(reference.tap)[0].rpartition(".")[2] in _MAPS


def fits(axes: Sequence[str], shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape has the axes that an annotation names."""
    if not axes:
        return True
    open_ones = sum(_is_open([axis]) for axis in axes)
    return len(shape) >= len(axes) - 1 if open_ones else len(shape) == len(axes)


def sizes_of(axes: Sequence[str], shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Axis → its size; of an axis that stands for any number of them, their sizes. The shape fits."""
    sizes: dict[str, tuple[int, ...]] = {}
    first = 0
    for axis in axes:
        stop = first + (len(shape) - len(axes) + 1 if _is_open([axis]) else 1)
        sizes[axis] = tuple(shape[first:stop])
        first = stop
    return sizes


def feature_axis(given: Input) -> int | None:
    """Where the features of an item lie: the channels of a map, else the last axis; None where that is no width.

    Lengths and the sides of pictures are places, not widths, and an axis that stands for any number says nothing.
    """
    words = [axis.strip("_").rpartition("_")[2] for axis in given.axes]
    if "channels" in words:
        return words.index("channels")
    if not words:
        return -1
    return None if _is_open(given.axes[-1:]) or words[-1] in _PLACES else -1


def width_name(given: Input) -> str | None:
    """The name that inputs of equal width share; None where a width is free, or there is none."""
    axis = feature_axis(given)
    if axis is None or given.dtype != "float":
        return None
    name = given.axes[axis] if given.axes else ""
    return None if name == "_" or name.isdigit() else name


def along(axis: int, change: Callable[[Tensor], Tensor], feature: Tensor) -> Tensor:
    """``change``, which works on the last axis, along another one."""
    return change(feature) if axis == -1 else change(feature.movedim(axis, -1)).movedim(-1, axis)


def may_move(given: Input, reference: Reference, side: Side, *, fixed: bool = False) -> bool:
    """Whether a projection on ``side`` may map this input: one that is trained never where the loss cuts gradients."""
    if (given.detached and not fixed) or given.dtype != "float":
        return False
    return reference.model == STUDENT if side == "student" else reference.is_teachers


def _is_open(axes: Sequence[str]) -> bool:
    """Whether an axis stands for any number of them."""
    return any(axis.startswith("*") or axis == "..." for axis in axes)
