"""How a tap comes to a loss: how its axes lie, and whether it may be projected."""

from __future__ import annotations

from torch import Tensor

from xmodal.losses import Input
from xmodal.objective.references import STUDENT, Reference, Side
from xmodal.taps import layer_of


def arrange(given: Input, reference: Reference, feature: Tensor) -> Tensor:
    """A tap as the loss's input wants it.

    Losses over ``[*items, dim]`` compare the last axis. A map ``[B, C, H, W]`` therefore comes as ``[B, H, W, C]``:
    every place is an item, its channels the width. Losses that ask for maps by their four axes get them as they are.
    """
    is_map = feature.ndim == 4 and layer_of(reference.tap)[0].rpartition(".")[2] in ("map", "hidden")
    return feature.movedim(1, -1) if is_map and is_variadic(given) else feature


def is_variadic(given: Input) -> bool:
    """Whether the input may have any number of axes before the last one."""
    return bool(given.axes) and (given.axes[0].startswith("*") or given.axes[0] == "...")


def may_move(given: Input, reference: Reference, side: Side) -> bool:
    """Whether a projection on ``side`` may map this input: never one whose gradient the loss cuts."""
    return not given.detached and (reference.model == STUDENT) == (side == "student")
