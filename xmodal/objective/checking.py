"""Everything about an objective's terms that is known without a model: names, options, numbers of inputs, sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from xmodal.adapters.projections import PROJECTIONS
from xmodal.errors import Mistake, UnknownNameError
from xmodal.losses import LOSSES, Loss
from xmodal.losses.options import read_options
from xmodal.objective.options import DEFAULT_MAX, check_options
from xmodal.objective.references import STUDENT, Reference, Side, read_references
from xmodal.recipe import Term

_SECTIONS = tuple(Term.model_fields)


@dataclass(frozen=True)
class CheckedTerm:
    """A term taken apart. ``sound``: nothing was wrong with it; ``wired``: its inputs and projection are known."""

    path: str
    label: str
    weight: float
    loss: Loss | None
    student: tuple[Reference, ...]
    teacher: tuple[Reference, ...]
    mask: Reference | None
    side: Side
    projection: str | None
    projection_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    wired: bool = True
    sound: bool = True

    @property
    def references(self) -> tuple[Reference, ...]:
        """The loss's inputs, in its own order."""
        return (*self.student, *self.teacher)

    @property
    def all_references(self) -> tuple[Reference, ...]:
        return self.references if self.mask is None else (*self.references, self.mask)


def check_terms(
    terms: Sequence[Term], teachers: Sequence[str] = ("teacher",)
) -> tuple[list[CheckedTerm], list[Mistake]]:
    """The terms taken apart, and all that is wrong with them, by dotted path.

    ``teachers`` are the names of the recipe's teachers. Costs nothing: no model, no weights, no data.
    """
    checked: list[CheckedTerm] = []
    mistakes = [] if terms else [Mistake("objective", "needs at least one term")]
    for index, (term, label) in enumerate(zip(terms, unique_labels(terms), strict=True)):
        entry, found = _check_term(term, f"objective.{index}", label, teachers)
        checked.append(entry)
        mistakes.extend(found)
    used = {reference.model for entry in checked for reference in entry.all_references}
    # Where a reference could not be read, the teacher that it means is not known to be idle.
    if all(entry.wired for entry in checked):
        mistakes.extend(
            Mistake(model_path(name, teachers), "no term of the objective uses this teacher")
            for name in teachers
            if name not in used and terms
        )
    return checked, mistakes


def unique_labels(terms: Sequence[Term]) -> list[str]:
    """The name of each term in logs: its own, else its loss's; a repeated one gets ``#2``, ``#3`` …

    >>> unique_labels([Term(loss=name, student="image.embedding") for name in ("a", "b", "a")])
    ['a', 'b', 'a#2']
    """
    labels: list[str] = []
    for term in terms:
        wanted = term.label or term.loss
        label, count = wanted, 1
        while label in labels:
            count += 1
            label = f"{wanted}#{count}"
        labels.append(label)
    return labels


def model_path(name: str, teachers: Sequence[str]) -> str:
    """The recipe's key that makes a model."""
    return name if name == STUDENT or list(teachers) == ["teacher"] else f"teachers.{name}"


def _check_term(term: Term, path: str, label: str, teachers: Sequence[str]) -> tuple[CheckedTerm, list[Mistake]]:
    mistakes = []
    student, wrong_student = read_references(term.student, "student", teachers, f"{path}.student")
    teacher, wrong_teacher = read_references(term.teacher, "teacher", teachers, f"{path}.teacher")
    mask, wrong_mask = read_references(term.mask, "student", teachers, f"{path}.mask")
    wiring = [*wrong_student, *wrong_teacher, *wrong_mask]
    if "." in label:
        mistakes.append(Mistake(f"{path}.label", f"{label!r} is a name for logs and checkpoints: it may hold no dot"))
    elif hasattr(nn.ModuleDict, label):
        mistakes.append(Mistake(f"{path}.label", f"{label!r} is a word that torch keeps for itself; take another"))
    loss, options, learned = None, {}, {}
    try:
        loss = LOSSES[term.loss]
    except UnknownNameError as error:
        wiring.append(Mistake(f"{path}.loss", str(error)))
    projection, projection_options, wrong_projection = _check_projection(term, path)
    wiring.extend(wrong_projection)
    if loss is not None:
        values, found = check_options(term.options, loss.options, path, loss.name, _SECTIONS)
        mistakes.extend(found)
        learned = {
            name: (float(value["learn"]), float(value.get("max", DEFAULT_MAX)))
            for name, value in values.items()
            if isinstance(value, Mapping) and not found
        }
        options = {name: value for name, value in values.items() if name not in learned}
        if not (wrong_student or wrong_teacher):
            wiring.extend(_check_inputs(loss, student, teacher, path))
        if mask and not loss.takes_mask:
            mistakes.append(Mistake(f"{path}.mask", f"{loss.name} takes no mask"))
        wiring.extend(_check_side(term, loss, path))
    entry = CheckedTerm(
        path=path,
        label=label,
        weight=term.weight,
        loss=loss,
        student=tuple(student),
        teacher=tuple(teacher),
        mask=mask[0] if mask else None,
        side=term.side,
        projection=projection,
        projection_options=projection_options,
        options=options,
        learned=learned,
        wired=not wiring,
        sound=not wiring and not mistakes,
    )
    return entry, [*wiring, *mistakes]


def _check_inputs(loss: Loss, student: Sequence[Reference], teacher: Sequence[Reference], path: str) -> list[Mistake]:
    names = [given.name for given in loss.inputs]
    if loss.num_teacher == 0:
        if len(student) + len(teacher) != len(names):
            given = f"{len(student)} under student and {len(teacher)} under teacher"
            return [Mistake(path, f"{loss.name} takes {len(names)} taps in all ({', '.join(names)}); given {given}")]
    else:
        mistakes = []
        for side, taps in (("student", student), ("teacher", teacher)):
            own = [entry.name for entry in loss.inputs if entry.detached == (side == "teacher")]
            if len(taps) != len(own):
                wanted = f"{len(own)} {'tap' if len(own) == 1 else 'taps'} here ({', '.join(own)})"
                mistakes.append(Mistake(f"{path}.{side}", f"{loss.name} takes {wanted}; given {len(taps)}"))
        if mistakes:
            return mistakes
    trained = [ref for ref, given in zip([*student, *teacher], loss.inputs, strict=True) if not given.detached]
    if not any(reference.model == STUDENT for reference in trained):
        return [Mistake(f"{path}.student", "no tap here is the student's own, so the term could not teach it anything")]
    return []


def _check_projection(term: Term, path: str) -> tuple[str | None, dict[str, Any], list[Mistake]]:
    if term.projection is None:
        return None, {}, []
    spec = term.projection
    name, given = (spec, {}) if isinstance(spec, str) else (spec.name, spec.options)
    try:
        factory = PROJECTIONS[name]
    except UnknownNameError as error:
        return name, {}, [Mistake(f"{path}.projection", str(error))]
    options, mistakes = check_options(given, read_options(factory), f"{path}.projection", f"projection {name}")
    return name, options, mistakes


def _check_side(term: Term, loss: Loss, path: str) -> list[Mistake]:
    if term.side == "student":
        return []
    if term.projection is None:
        return [Mistake(f"{path}.side", "says where the projection goes, but there is none; add `projection: linear`")]
    if loss.num_teacher:
        why = (
            f"{loss.name} gives no gradient to the teacher's side, so a map there would stay as it began; if it did "
            "learn, it could shrink the teacher to a point. Leave `side` out, or use a contrastive loss that trains "
            "both sides, such as clip_contrastive"
        )
        return [Mistake(f"{path}.side", why)]
    return []
