"""Options read off a signature: the schema of losses and projections alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor


@dataclass(frozen=True)
class Option:
    """A keyword-only argument: ``annotation`` without its tensor types, which a recipe cannot hold.

    ``learnable``: it may be a tensor with gradient, so ``{learn: 14.3, max: 100}`` makes it a trained scale.
    """

    name: str
    annotation: Any
    required: bool
    learnable: bool


def read_options(function: Callable[..., Any], exclude: Collection[str] = ()) -> dict[str, Option]:
    """Keyword-only arguments of a function or constructor, by name."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)  # type: ignore[misc]
    options = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in exclude:
            continue
        plain, has_tensor = _without_tensors(hints.get(parameter.name, Any))
        options[parameter.name] = Option(
            parameter.name,
            plain,
            required=parameter.default is parameter.empty,
            learnable=has_tensor and not parameter.name.startswith("teacher_"),
        )
    return options


def _without_tensors(annotation: Any) -> tuple[Any, bool]:
    """An annotation without the members of its unions that are tensors, and whether there were any."""
    members = get_args(annotation) if get_origin(annotation) is not None and not _is_tensor(annotation) else ()
    if not any(_mentions_tensor(member) for member in members):
        return annotation, False
    if get_origin(annotation) is Sequence:
        return Sequence[_without_tensors(members[0])[0]], True  # type: ignore[misc]
    rest = [_without_tensors(member)[0] for member in members if not _is_tensor(member)]
    return (reduce(or_, rest) if rest else Any), True


def _is_tensor(annotation: Any) -> bool:
    return (isinstance(annotation, type) and issubclass(annotation, Tensor)) or hasattr(annotation, "dim_str")


def _mentions_tensor(annotation: Any) -> bool:
    return _is_tensor(annotation) or any(_mentions_tensor(member) for member in get_args(annotation))
