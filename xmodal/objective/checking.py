"""Everything about an objective's terms that is known without a model: names, options, taps of inputs, sides."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from xmodal.adapters.projections import PROJECTIONS
from xmodal.adapters.projections.registration import given_by_models, is_fixed, takes_rungs
from xmodal.errors import Mistake, UnknownNameError
from xmodal.losses import LOSSES, Loss
from xmodal.losses.options import read_options
from xmodal.objective.inputs import assign_inputs
from xmodal.objective.masks import assign_masks
from xmodal.objective.options import Options, check_options
from xmodal.objective.references import BATCH, STUDENT, Reference, Taps, read_references
from xmodal.objective.terms import CheckedTerm, fusions_of
from xmodal.recipe import Term
from xmodal.recipes.complaints import show
from xmodal.term import Projection, Standardize

_SECTIONS = tuple(Term.model_fields)


def check_terms(
    terms: Sequence[Term], teachers: Sequence[str] = ("teacher",)
) -> tuple[list[CheckedTerm], list[Mistake]]:
    """The terms taken apart, and all that is wrong with them, by dotted path.

    ``teachers`` are the names of the recipe's teachers. Costs nothing: no model, no weights, no data.
    """
    checked: list[CheckedTerm] = []
    mistakes = [
        Mistake(f"teachers.{name}", f"{name!r} means something else before a tap's name; call this teacher otherwise")
        for name in teachers
        if name in (STUDENT, BATCH)
    ]
    mistakes += [] if terms else [Mistake("objective", "needs at least one term")]
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
    student, student_taps, wrong_student = read_references(term.student, "student", teachers, f"{path}.student")
    teacher, teacher_taps, wrong_teacher = read_references(term.teacher, "teacher", teachers, f"{path}.teacher")
    mask, mask_taps, wrong_mask = read_references(term.mask, "student", teachers, f"{path}.mask")
    wiring = [*wrong_student, *wrong_teacher, *wrong_mask]
    mistakes = _check_label(label, path)
    loss, read, bank = None, Options(), None
    inputs: tuple[Taps, ...] = ()
    masks: Mapping[str, Taps] = {}
    try:
        loss = LOSSES[term.loss]
    except UnknownNameError as error:
        wiring.append(Mistake(f"{path}.loss", str(error)))
    projection, projection_options, rungs, wrong_projection = _check_projection(term, teachers, path)
    wiring.extend(wrong_projection)
    references = [*student_taps, *teacher_taps]
    if loss is not None:
        read, found = _check_loss_options(term.options, loss, path)
        bank, wrong_bank = _check_state(term.options, loss, path)
        mistakes.extend([*found, *wrong_bank])
        if not (wrong_student or wrong_teacher):
            inputs, found = assign_inputs(loss, student, teacher, path)
            wiring.extend(found)
        if not wrong_mask:
            masks, found = assign_masks(loss, mask, f"{path}.mask")
            mistakes.extend(found)
        known = projection if projection in PROJECTIONS else None
        wiring.extend(_check_side(term, known, loss, path))
        mistakes.extend(_check_standardize(term, known, references, path))
    entry = CheckedTerm(
        path=path,
        label=label,
        weight=term.weight,
        loss=loss,
        references=tuple(references),
        mask_references=tuple(mask_taps),
        inputs=() if wiring else inputs,
        masks=masks,
        side=term.side,
        projection=projection,
        projection_options=projection_options,
        rungs=rungs,
        learning_rate_factor=term.projection.learning_rate_factor if isinstance(term.projection, Projection) else 1.0,
        standardize=_standardize(term),
        options=read.fixed,
        scheduled=read.scheduled,
        learned=read.learned,
        bank=bank,
        wired=not wiring,
        sound=not wiring and not mistakes,
    )
    return entry, [*wiring, *mistakes]


def _check_label(label: str, path: str) -> list[Mistake]:
    if "." in label:
        return [Mistake(f"{path}.label", f"{label!r} is a name for logs and checkpoints: it may hold no dot")]
    if hasattr(nn.ModuleDict(), label):
        return [Mistake(f"{path}.label", f"{label!r} is a word that torch keeps for itself; take another")]
    return []


def _check_loss_options(given: Mapping[str, Any], loss: Loss, path: str) -> tuple[Options, list[Mistake]]:
    own = {name: value for name, value in given.items() if name not in loss.state}
    known = (*_SECTIONS, *loss.state)
    return check_options(own, loss.options, path, loss.name, known, may_change=True, elsewhere=_elsewhere(own, loss))


def _elsewhere(given: Mapping[str, Any], loss: Loss) -> dict[str, str]:
    """Of names that are no options of this loss, what they are options of."""
    found = {}
    for name in given:
        owners = [other for other in LOSSES if name in LOSSES[other].options or name in LOSSES[other].state]
        if name in [mask.name for mask in loss.masks]:
            found[name] = f"It is a mask: write `mask: {{{name}: TAP}}`."
        elif owners:
            found[name] = f"It belongs to {', '.join(owners[:3])}{', …' if len(owners) > 3 else ''}."
    return found


def _check_state(given: Mapping[str, Any], loss: Loss, path: str) -> tuple[int | None, list[Mistake]]:
    """The size of the memory bank that a term asks for; whatever else a loss keeps is made for it, or cannot be."""
    bank, mistakes = None, []
    for name in loss.state:
        made = name == "bank" or name in fusions_of(loss)
        needed = inspect.signature(loss.function).parameters[name].default is inspect.Parameter.empty
        if not made and (needed or name in given):
            why = f"{loss.name} takes it as an object, which a recipe cannot hold: call this loss in a loop of your own"
            mistakes.append(Mistake(f"{path}.{name}", why))
        elif name not in given:
            continue
        elif name != "bank":
            mistakes.append(Mistake(f"{path}.{name}", f"is made and trained for every {loss.name}; leave it out"))
        elif type(given[name]) is not int or given[name] < 1:
            wanted = "a whole number, at least 1: how many of the teacher's past rows to compare with"
            mistakes.append(Mistake(f"{path}.{name}", f"expected {wanted}; given {show(given[name])}"))
        else:
            bank = given[name]
    return bank, mistakes


def _check_projection(
    term: Term, teachers: Sequence[str], path: str
) -> tuple[str | None, dict[str, Any], tuple[Reference, ...], list[Mistake]]:
    """Name, options, and the further taps that it is fed by."""
    if term.projection is None:
        return None, {}, (), []
    spec, path = term.projection, f"{path}.projection"
    name, given = (spec, {}) if isinstance(spec, str) else (spec.name, dict(spec.options))
    try:
        factory = PROJECTIONS[name]
    except UnknownNameError as error:
        return name, {}, (), [Mistake(path, str(error))]
    rungs: list[Reference] = []
    mistakes: list[Mistake] = []
    known: tuple[str, ...] = ("learning_rate_factor",)
    if takes_rungs(factory):
        known = (*known, "taps")
        rungs, mistakes = _read_rungs(given.pop("taps", None), name, teachers, f"{path}.taps")
    if is_fixed(factory) and isinstance(spec, Projection) and spec.learning_rate_factor != 1:
        mistakes.append(Mistake(f"{path}.learning_rate_factor", f"{name} is not trained; leave it out"))
    options = read_options(factory, exclude=given_by_models())
    read, found = check_options(given, options, path, f"projection {name}", known)
    return name, read.fixed, tuple(rungs), [*mistakes, *found]


def _read_rungs(given: Any, name: str, teachers: Sequence[str], path: str) -> tuple[list[Reference], list[Mistake]]:
    if not isinstance(given, (list, tuple)) or not given or not all(isinstance(tap, str) for tap in given):
        why = f"{name} needs a list of the student's further taps, such as [image.hidden.2]; given {show(given)}"
        return [], [Mistake(path, why)]
    _, rungs, mistakes = read_references(list(given), "student", teachers, path)
    mistakes += [
        Mistake(rung.path, f"a rung is a tap of the student, not {rung}") for rung in rungs if rung.model != STUDENT
    ]
    return rungs, mistakes


def _check_side(term: Term, projection: str | None, loss: Loss, path: str) -> list[Mistake]:
    fixed = projection is not None and is_fixed(PROJECTIONS[projection])
    if term.side == "student":
        why = f"{projection} maps a teacher's features and is not trained: add `side: teacher`"
        return [Mistake(f"{path}.side", why)] if fixed else []
    if term.projection is None:
        return [Mistake(f"{path}.side", "says where the projection goes, but there is none; add `projection: linear`")]
    if projection is not None and takes_rungs(PROJECTIONS[projection]):
        return [Mistake(f"{path}.side", f"{projection} is fed by layers of the student; leave `side` out")]
    if fixed:
        return []
    if loss.num_teacher:
        why = (
            f"{loss.name} gives no gradient to the teacher's side, so a map there would stay as it began; if it did "
            "learn, it could shrink the teacher to a point. Leave `side` out, take a map that is measured, such as "
            "`projection: pca`, or a contrastive loss that trains both sides, such as clip_contrastive"
        )
        return [Mistake(f"{path}.side", why)]
    return []


def _check_standardize(term: Term, projection: str | None, references: Sequence[Reference], path: str) -> list[Mistake]:
    if not term.standardize:
        return []
    if not any(reference.is_teachers for reference in references):
        return [Mistake(f"{path}.standardize", "there is no tap of a teacher here to standardise; leave it out")]
    if projection is not None and is_fixed(PROJECTIONS[projection]):
        why = f"{projection} takes the teacher's features as they are; leave out either"
        return [Mistake(f"{path}.standardize", why)]
    return []


def _standardize(term: Term) -> Standardize | None:
    if isinstance(term.standardize, str):
        return Standardize(method=term.standardize)
    return Standardize() if term.standardize is True else term.standardize or None
