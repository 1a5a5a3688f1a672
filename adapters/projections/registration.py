"""Projections by name, and what each of them has to know of the features between which it stands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from xmodal.registry import Registry

Projection = Callable[..., nn.Module]
"""``factory(in_dim, out_dim, *, options) -> module`` that maps ``[..., in_dim]`` to ``[..., out_dim]``.

One that takes the keyword ``in_places`` and ``out_places`` maps ``[B, *in_places, in_dim]`` to ``[B, *out_places,
out_dim]``: token counts, or rows and columns. One that takes ``rung_dims`` is called with further features of these
widths, ``module(features, rungs)``.
"""

PROJECTIONS: Registry[Projection] = Registry("projection")

_GIVEN = frozenset({"in_places", "out_places", "rung_dims"})
"""Keyword arguments that come from the models, not from a recipe."""


@dataclass(frozen=True)
class Sizes:
    """Widths before and after, the places (all axes but the batch and the width) of both, and the rungs' widths."""

    in_dim: int
    out_dim: int
    in_places: tuple[int, ...] = ()
    out_places: tuple[int, ...] = ()
    rung_dims: tuple[int, ...] = ()


class Fixed(nn.Module):
    """A projection without anything to train, so that it may stand on the teacher's side: it cannot collapse."""


def make_projection(name: str, sizes: Sizes, options: Mapping[str, Any]) -> nn.Module:
    """The projection of that name and size. Raises :class:`~xmodal.errors.AdapterError` where it cannot be."""
    factory = PROJECTIONS[name]
    given = {key: getattr(sizes, key) for key in _asked(factory) & _GIVEN}
    return factory(sizes.in_dim, sizes.out_dim, **given, **options)


def changes_places(factory: Projection) -> bool:
    """Whether it maps whole maps or sequences rather than their places one by one."""
    return "out_places" in _asked(factory)


def takes_rungs(factory: Projection) -> bool:
    """Whether it is fed by several taps."""
    return "rung_dims" in _asked(factory)


def is_fixed(factory: Projection) -> bool:
    """Whether nothing of it is trained."""
    return inspect.isclass(factory) and issubclass(factory, Fixed)


def given_by_models() -> Collection[str]:
    """Arguments of a factory that are no options of a recipe."""
    return _GIVEN


def _asked(factory: Projection) -> frozenset[str]:
    return frozenset(inspect.signature(factory).parameters)
