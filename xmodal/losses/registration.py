"""What a loss declares by its signature: its inputs, the axes they share, its options, and what it averages over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from torch import Tensor

from xmodal.losses.options import Option, read_options
from xmodal.registry import Registry

Kind = Literal["per_item", "relational"]
F = TypeVar("F", bound=Callable[..., Tensor])
RESERVED = ("mask", "group")
"""Keyword arguments that the objective fills: no options of a recipe."""


@dataclass(frozen=True)
class Input:
    """One positional argument: ``axes`` are the names in its shape annotation, ``("*items", "dim")``."""

    name: str
    axes: tuple[str, ...]

    @property
    def detached(self) -> bool:
        """Whether the loss keeps gradient from it: so for ``teacher`` and every ``teacher_…``."""
        return self.name.split("_")[0] == "teacher"

    @property
    def width(self) -> str:
        """Name of the last axis; inputs of one loss with equal names must have equal widths."""
        return self.axes[-1] if self.axes else ""


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    ``kind`` is ``per_item`` where the value is a mean over items, each a function of its own rows alone, so that parts
    of a batch combine as (sum, count); ``relational`` where rows are compared with each other, so that the value
    depends on the whole batch. Relational losses take ``group`` and see the rows of all its ranks.
    """

    name: str
    function: Callable[..., Tensor]
    kind: Kind
    inputs: tuple[Input, ...]
    options: Mapping[str, Option]
    takes_mask: bool

    @property
    def num_teacher(self) -> int:
        """How many inputs are the teacher's by name. 0: the loss does not say which side its inputs come from."""
        return sum(given.detached for given in self.inputs)

    @property
    def num_student(self) -> int:
        return len(self.inputs) - self.num_teacher


LOSSES: Registry[Loss] = Registry("loss")


def loss(*, kind: Kind) -> Callable[[F], F]:
    """Register a function as a loss under its own name; it stays the plain function that it is.

    Its signature is the schema of a recipe's term. Positional arguments are inputs, in the order in which the term
    lists taps; the names ``teacher`` and ``teacher_…`` mark those that get no gradient. Keyword-only arguments are
    options, but for ``mask`` and ``group``. An input's last axis is read off its jaxtyping annotation: where two inputs
    share its name, their widths must agree, and a projection can make them. Inputs without an annotation share one
    width.

    Raises TypeError for a function whose signature cannot be read so.
    """

    def register(function: F) -> F:
        entry = describe(function, kind)
        LOSSES.register(entry.name)(entry)
        return function

    return register


def describe(function: Callable[..., Tensor], kind: Kind) -> Loss:
    """The :class:`Loss` that a function's signature declares."""
    name = function.__name__
    parameters = inspect.signature(function).parameters.values()
    hints = get_type_hints(function)
    wrong = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if wrong:
        raise TypeError(f"loss {name}: *{wrong[0]} cannot be checked against a recipe; name every argument")
    inputs = tuple(Input(p.name, _axes(hints.get(p.name))) for p in parameters if p.kind is not p.KEYWORD_ONLY)
    if not any(not given.detached for given in inputs):
        raise TypeError(f"loss {name} has no input for the student; positional arguments are inputs")
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if (kind == "relational") != ("group" in keywords):
        raise TypeError(f"loss {name} is {kind}: relational losses take the keyword `group`, and no others do")
    return Loss(name, function, kind, inputs, read_options(function, exclude=RESERVED), "mask" in keywords)


def _axes(annotation: Any) -> tuple[str, ...]:
    """Axis names of a jaxtyping annotation, or of the first one in a union."""
    for candidate in (annotation, *get_args(annotation)):
        shape = getattr(candidate, "dim_str", None)
        if isinstance(shape, str):
            return tuple(shape.split())
    return ()
