"""In which teacher's space a student's embedding lies: read off the objective."""

from __future__ import annotations

from typing import Any

from xmodal.recipe import Recipe
from xmodal.recipes.cached import without_cache
from xmodal.recipes.models import AVERAGE


def embedding_space(recipe: Recipe) -> dict[str, Any] | None:
    """``{"teacher": spec, "tap": …}`` of the first term that sets a student's embedding, as it is, against a
    teacher's; None where there is none, so that the student's space is its own. Its own average is none of them.
    """
    teachers = {name: spec for name, spec in recipe.all_teachers().items() if spec.name != AVERAGE}
    for term in recipe.objective:
        if term.projection is not None or term.standardize or term.teacher is None:
            continue
        student_tap, teacher_tap = _first(term.student, "student"), _first(term.teacher, next(iter(teachers), ""))
        if student_tap[0] != "student" or teacher_tap[0] not in teachers:
            continue
        if student_tap[1].endswith(".embedding") and teacher_tap[1].endswith(".embedding"):
            return {"teacher": without_cache(teachers[teacher_tap[0]]), "tap": teacher_tap[1]}
    return None


def _first(references: Any, owner: str) -> tuple[str, str]:
    """Model and tap of the first reference, however deep it stands."""
    while not isinstance(references, str):
        entries = list(references.values() if isinstance(references, dict) else references)
        references = entries[0] if entries else ""
    model, _, tap = references.rpartition(":")
    return model or owner, tap
