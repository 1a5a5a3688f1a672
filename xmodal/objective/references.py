"""Tap references: ``tap`` or ``model:tap``, alone, in lists or in mappings, as a term of a recipe writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from xmodal.errors import Mistake, hint
from xmodal.losses.registration import Form

STUDENT = "student"
BATCH = "batch"
"""The prefix of what is no model's tap but a field of the batch itself: ``batch:label``."""

Side = Literal["student", "teacher"]
T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """A tap of a model, or a field of the batch, and the recipe's key that asks for it."""

    model: str
    tap: str
    path: str

    @property
    def is_teachers(self) -> bool:
        return self.model not in (STUDENT, BATCH)

    def __str__(self) -> str:
        return f"{self.model}'s {self.tap}"


Taps = Reference | tuple[Reference, ...] | Mapping[str, Reference]
"""What one argument of a loss takes: one tap, several in a row, or one for each name."""

Nested = Any
"""References in lists and mappings, as deep as the recipe has them."""


def read_references(
    given: Any, side: Side, teachers: Sequence[str], path: str
) -> tuple[Nested | None, list[Reference], list[Mistake]]:
    """What stands under one key of a term, ``path`` (``objective.0.student``): nested as it is there, and in a row.

    A reference without a prefix is the student's on the student's side, and on the teacher's the only teacher's.
    """
    found: list[Reference] = []
    mistakes: list[Mistake] = []

    def read(entry: Any, where: str) -> Nested:
        if isinstance(entry, Mapping):
            return {name: read(inner, f"{where}.{name}") for name, inner in entry.items()}
        if isinstance(entry, (list, tuple)):
            return [read(inner, f"{where}.{number}") for number, inner in enumerate(entry)]
        reference = _read_one(entry, side, teachers, where)
        (found if isinstance(reference, Reference) else mistakes).append(reference)  # type: ignore[arg-type]
        return reference

    return (None if given is None else read(given, path)), found, mistakes


def form_of(taps: Nested) -> Form:
    """Whether this is one tap, a sequence of them or a mapping."""
    return "mapping" if isinstance(taps, Mapping) else "tensor" if isinstance(taps, Reference) else "sequence"


def each(taps: Taps) -> Iterator[tuple[int | str | None, Reference]]:
    """Every reference with its place in the sequence or mapping."""
    if isinstance(taps, Reference):
        yield None, taps
    else:
        yield from taps.items() if isinstance(taps, Mapping) else enumerate(taps)


def change(taps: Taps, make: Callable[[int | str | None, Reference], T]) -> T | list[T] | dict[str, T]:
    """The same sequence or mapping of what ``make`` makes of each reference and its place."""
    if isinstance(taps, Reference):
        return make(None, taps)
    if isinstance(taps, Mapping):
        return {name: make(name, reference) for name, reference in taps.items()}
    return [make(number, reference) for number, reference in enumerate(taps)]


def _read_one(entry: str, side: Side, teachers: Sequence[str], where: str) -> Reference | Mistake:
    model, separator, tap = entry.rpartition(":")
    if not tap or (separator and not model):
        return Mistake(where, f"{entry!r} is no tap reference: write tap, or model:tap")
    if not separator and side == "student":
        model = STUDENT
    elif not separator and len(teachers) == 1:
        model = teachers[0]
    elif not separator:
        return Mistake(where, _which_teacher(tap, teachers))
    if model not in (STUDENT, BATCH, *teachers):
        return Mistake(where, f"{model!r} is no model of this recipe. {hint(model, [STUDENT, BATCH, *teachers])}")
    return Reference(model, tap, where)


def _which_teacher(tap: str, teachers: Sequence[str]) -> str:
    if not teachers:
        return "the recipe has no teacher; add `teacher:`, or write student:TAP for a tap of the student's own"
    return f"say whose tap it is: {', '.join(f'{teacher}:{tap}' for teacher in teachers)}"
