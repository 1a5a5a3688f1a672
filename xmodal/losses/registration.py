"""What a loss declares by its signature: inputs, masks, options, state; and what it averages over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor

from xmodal.losses.options import Option, read_options
from xmodal.registry import Registry

Kind = Literal["per_item", "relational"]
Form = Literal["tensor", "sequence", "mapping"]
DType = Literal["float", "int", "bool"]
Count = Callable[..., Tensor]
F = TypeVar("F", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Input:
    """An argument that holds tensors: ``axes`` are the names in its shape annotation, ``("*items", "dim")``.

    ``forms``: one tensor, a sequence of them, a mapping from modality to them; some losses take two of these.
    """

    name: str
    axes: tuple[str, ...]
    dtype: DType = "float"
    forms: tuple[Form, ...] = ("tensor",)

    @property
    def detached(self) -> bool:
        """Whether the loss keeps gradient from it: so for ``teacher``, every ``teacher_…`` and a ``target``."""
        return self.name.split("_")[0] in ("teacher", "target")

    @property
    def width(self) -> str:
        """Name of the last axis; inputs of one loss with equal names must have equal widths."""
        return self.axes[-1] if self.axes else ""


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    ``kind`` is ``per_item`` where the value is a mean over items, each a function of its own sample alone, so that
    parts of a batch combine as (sum, count); ``relational`` where samples are compared with each other, so that the
    value depends on the whole batch. Relational losses take ``group`` and see the rows of all its ranks.

    ``masks`` and ``state`` (memory banks, trained fusions) are keywords that the objective fills; ``options`` are
    those that a recipe gives.
    """

    name: str
    function: Callable[..., Tensor]
    kind: Kind
    inputs: tuple[Input, ...]
    options: Mapping[str, Option]
    masks: tuple[Input, ...] = ()
    state: tuple[str, ...] = ()
    count: Count | None = None

    @property
    def num_teacher(self) -> int:
        """How many inputs are the teacher's by name. 0: the loss does not say which side its inputs come from."""
        return sum(given.detached for given in self.inputs)

    @property
    def num_student(self) -> int:
        return len(self.inputs) - self.num_teacher

    def count_items(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Over how many items the mean is taken, with at least one mask given: what parts of a batch weigh."""
        if self.count is not None:
            return self.count(**masks)
        return next(masks[given.name] for given in self.masks if given.name in masks).sum()


LOSSES: Registry[Loss] = Registry("loss")


def loss(*, kind: Kind, count: Count | None = None) -> Callable[[F], F]:
    """Register a function as a loss under its own name; it stays the plain function that it is.

    Its signature is the schema of a recipe's term. Positional arguments are inputs, in the order in which the term
    lists taps; the names ``teacher``, ``teacher_…`` and ``target`` mark those that get no gradient. An input's last
    axis is read off its jaxtyping annotation: where two inputs share its name, their widths must agree, and a
    projection can make them. Inputs without an annotation share one width.

    Keyword-only arguments are options, but for those that the objective fills: boolean tensors, which are masks;
    tensors with axes and callables, which are state; and ``group``. A number's range stands in its annotation, by the
    names of :mod:`xmodal.losses.checks` (``temperature: Positive``), and a recipe is held to it.

    A per-item loss is a mean over the True entries of its first mask, over all samples alike without one. ``count``,
    a function of the masks by their names, says it where masks make it another number.

    Raises TypeError for a function whose signature cannot be read so.
    """

    def register(function: F) -> F:
        entry = describe(function, kind, count)
        LOSSES.register(entry.name)(entry)
        return function

    return register


def describe(function: Callable[..., Tensor], kind: Kind, count: Count | None = None) -> Loss:
    """The :class:`Loss` that a function's signature declares."""
    name = function.__name__
    parameters = inspect.signature(function).parameters.values()
    hints = get_type_hints(function)
    wrong = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if wrong:
        raise TypeError(f"loss {name}: *{wrong[0]} cannot be checked against a recipe; name every argument")
    inputs = tuple(read_input(p.name, hints.get(p.name)) for p in parameters if p.kind is not p.KEYWORD_ONLY)
    if not any(not given.detached for given in inputs):
        raise TypeError(f"loss {name} has no input for the student; positional arguments are inputs")
    keywords = {p.name: read_input(p.name, hints.get(p.name)) for p in parameters if p.kind is p.KEYWORD_ONLY}
    if (kind == "relational") != ("group" in keywords):
        raise TypeError(f"loss {name} is {kind}: relational losses take the keyword `group`, and no others do")
    masks = tuple(given for given in keywords.values() if given.dtype == "bool")
    state = tuple(
        key for key, given in keywords.items() if given not in masks and (given.axes or _is_callable(hints.get(key)))
    )
    filled = {"group", *state, *(given.name for given in masks)}
    return Loss(name, function, kind, inputs, read_options(function, exclude=filled), masks, state, count)


def read_input(name: str, annotation: Any) -> Input:
    """An argument's axes, dtype and forms, off its annotation; of several shapes in a union, the first one's axes."""
    shapes = list(_shapes(annotation, "tensor"))
    if not shapes:
        return Input(name, ())
    (axes, dtype, _), *_ = shapes
    return Input(name, axes, dtype, tuple(dict.fromkeys(form for _, _, form in shapes)))


def _shapes(annotation: Any, form: Form) -> Iterator[tuple[tuple[str, ...], DType, Form]]:
    """Axes and dtype of each tensor annotation inside ``annotation``, and what the tensor stands in."""
    shape = getattr(annotation, "dim_str", None)
    if isinstance(shape, str):
        kinds: dict[str, DType] = {"bool": "bool", "int": "int", "uint": "int"}
        yield tuple(shape.split()), kinds.get(annotation.dtypes[0].rstrip("0123456789_"), "float"), form
        return
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        form = "mapping"
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        form = "sequence"
    for member in get_args(annotation):
        yield from _shapes(member, form)


def _is_callable(annotation: Any) -> bool:
    return any(get_origin(candidate) is Callable for candidate in (annotation, *get_args(annotation)))
