"""Tap references: ``tap`` or ``model:tap``, as a term of a recipe writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xmodal.errors import Mistake, hint

STUDENT = "student"
Side = Literal["student", "teacher"]


@dataclass(frozen=True)
class Reference:
    """A tap of a model, and the recipe's key that asks for it."""

    model: str
    tap: str
    path: str

    def __str__(self) -> str:
        return f"{self.model}'s {self.tap}"


def read_references(
    given: str | Sequence[str] | None, side: Side, teachers: Sequence[str], path: str
) -> tuple[list[Reference], list[Mistake]]:
    """References under one key of a term, whose ``path`` is ``objective.0.student`` or the like.

    A reference without a prefix is the student's on the student's side, and on the teacher's the only teacher's.
    """
    entries = {path: given} if isinstance(given, str) else {f"{path}.{i}": entry for i, entry in enumerate(given or ())}
    references, mistakes = [], []
    for where, entry in entries.items():
        model, separator, tap = entry.rpartition(":")
        if not tap or (separator and not model):
            mistakes.append(Mistake(where, f"{entry!r} is no tap reference: write tap, or model:tap"))
            continue
        if not separator and side == "student":
            model = STUDENT
        elif not separator and len(teachers) == 1:
            model = teachers[0]
        elif not separator:
            mistakes.append(Mistake(where, _which_teacher(tap, teachers)))
            continue
        if model != STUDENT and model not in teachers:
            known = hint(model, [STUDENT, *teachers])
            mistakes.append(Mistake(where, f"{model!r} is no model of this recipe. {known}"))
            continue
        references.append(Reference(model, tap, where))
    return references, mistakes


def _which_teacher(tap: str, teachers: Sequence[str]) -> str:
    if not teachers:
        return "the recipe has no teacher; add `teacher:`, or write student:TAP for a tap of the student's own"
    return f"say whose tap it is: {', '.join(f'{teacher}:{tap}' for teacher in teachers)}"
