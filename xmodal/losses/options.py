"""Options read off a signature: the schema of losses and projections alike."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor


@dataclass(frozen=True)
class Option:
    """A keyword-only argument: ``annotation`` without its tensor types, which a recipe cannot hold.

    A number's range is in its annotation: ``Annotated[float, Gt(0)]``, which :mod:`xmodal.losses.checks` names.
    ``learnable``: it may be a tensor with gradient, so ``{learn: 14.3, max: 100}`` makes it a trained scale.
    """

    name: str
    annotation: Any
    required: bool
    learnable: bool

    @property
    def number(self) -> Any:
        """The annotation of the number that it may be, with its range; None where it can be none."""
        return next((kind for kind in _members(self.annotation) if _bare(kind) in (float, int)), None)

    @property
    def may_change(self) -> bool:
        """Whether it may go along a schedule: numbers with a fraction may. Whole ones say how a loss is built."""
        return _bare(self.number) is float


def read_options(function: Callable[..., Any], exclude: Collection[str] = ()) -> dict[str, Option]:
    """Keyword-only arguments of a function or constructor, by name."""
    function_itself = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    hints = get_type_hints(function_itself, include_extras=True)
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


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """The types that a union is of, without the ranges of its numbers."""
    return tuple(_bare(member) for member in _members(annotation))


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for inner in get_args(annotation) for member in _members(inner))
    return (annotation,)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


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
