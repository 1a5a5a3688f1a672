"""What a real batch tells of a term: which inputs must be equally wide, and the sizes of what it trains and keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Size

from xmodal.adapters.projections import PROJECTIONS, Sizes
from xmodal.adapters.projections.registration import changes_places, is_fixed
from xmodal.errors import Mistake
from xmodal.losses import Input, Loss
from xmodal.objective.layout import feature_axis, fits, may_move, sizes_of, width_name
from xmodal.objective.references import Reference, each
from xmodal.objective.terms import CheckedTerm

Key = int | str | None
Group = list[tuple[Input, Reference]]


@dataclass
class Plan:
    """Sizes: of projections and of what is standardised, by reference; of memory banks and fusions."""

    projections: dict[Reference, Sizes] = field(default_factory=dict)
    standardised: dict[Reference, int] = field(default_factory=dict)
    bank: int | None = None
    fusions: dict[str, tuple[int, int]] = field(default_factory=dict)


def plan_widths(entry: CheckedTerm, loss: Loss, shapes: Mapping[Reference, Size]) -> tuple[Plan, list[Mistake]]:
    """What a term needs, and what none can mend. ``shapes`` are those of its taps on a real batch, as the loss gets
    them, masks included.
    """
    mistakes = [m for given, _, ref in entry.tensors if (m := _check_rank(loss, given, ref, shapes[ref]))]
    mistakes.extend(_check_masks(entry, loss, shapes) if not mistakes else [])
    if mistakes:
        return Plan(), mistakes
    plan = Plan()
    targets, mistakes = _plan_projections(entry, loss, shapes)
    plan.projections = {ref: _sizes(entry, shapes, ref, target) for ref, target in targets.items()}
    mistakes += _check_places(entry, targets)
    mistakes += [] if mistakes else _check_once(entry, plan.projections)
    if entry.standardize is not None:
        for given, _, reference in entry.standardised:
            axis = feature_axis(given)
            if axis is None:
                why = f"{given.name} of {loss.name} has no axis of features: there is nothing to standardise"
                mistakes.append(Mistake(f"{entry.path}.standardize", why))
            else:
                plan.standardised[reference] = shapes[reference][axis]
    widths = {
        given.name: plan.projections[reference].out_dim if reference in plan.projections else shapes[reference][-1]
        for given, _, reference in entry.tensors
        if given.dtype == "float"
    }
    if entry.bank is not None:
        plan.bank = widths[entry.bank_input]
    for name in entry.fusions:
        modality = name.removesuffix("_fusion")
        plan.fusions[name] = (widths[f"student_{modality}"], widths[f"teacher_{modality}"])
    return plan, mistakes


def _plan_projections(
    entry: CheckedTerm, loss: Loss, shapes: Mapping[Reference, Size]
) -> tuple[dict[Reference, Reference], list[Mistake]]:
    """What is projected, and the tap whose size it is to have.

    Inputs whose annotations share a width's name must be equally wide, in sequences those at one place. Those that may
    move are the student's (``side: teacher``: the other models'), unless a projection would be trained where the loss
    cuts the gradient; they move to the width of the rest.
    """
    plan: dict[Reference, Reference] = {}
    mistakes = []
    width = {
        ref: shapes[ref][axis]
        for given, _, ref in entry.tensors
        if width_name(given) is not None and (axis := feature_axis(given)) is not None
    }
    for group in _groups(entry).values():
        moving = [ref for given, ref in group if _moves(entry, given, ref)]
        fixed = [ref for given, ref in group if not _moves(entry, given, ref)]
        wanted = {width[ref] for ref in fixed}
        if entry.projection is not None and moving and len(wanted) == 1:
            target = width[fixed[0]]
            for ref in moving:
                # One tap has one projection in a term, wherever it stands.
                same = [other for other in plan if (other.model, other.tap) == (ref.model, ref.tap)]
                before = {width[plan[other]] for other in same}
                if before - {target}:
                    why = f"{ref} meets widths of {before.pop()} and of {target} in one term; write a term for each"
                    mistakes.append(Mistake(ref.path, why))
                plan[ref] = fixed[0]
        elif len({width[ref] for _, ref in group}) > 1:
            mistakes.append(Mistake(f"{entry.path}.projection", _differ(loss, moving, fixed, width)))
    if entry.projection is not None and not plan and not mistakes:
        plan = _plan_by_side(entry, loss, width)
        if not plan:
            why = f"there is nothing to project: {loss.name} sets no tap of the student against another model's here"
            mistakes.append(Mistake(f"{entry.path}.projection", f"{why}; leave `projection` out"))
    return plan, mistakes


def _groups(entry: CheckedTerm) -> dict[tuple[str, Key], Group]:
    groups: dict[tuple[str, Key], Group] = {}
    for given, place, reference in entry.tensors:
        name = width_name(given)
        if name is not None:
            groups.setdefault((name, place if isinstance(place, int) else None), []).append((given, reference))
    return groups


def _sizes(entry: CheckedTerm, shapes: Mapping[Reference, Size], ref: Reference, target: Reference) -> Sizes:
    axes = {reference: feature_axis(given) for given, _, reference in entry.tensors}

    def split(reference: Reference) -> tuple[int, tuple[int, ...]]:
        shape, axis = list(shapes[reference]), axes[reference]
        assert axis is not None  # or it would have no width to project
        width = shape.pop(axis)
        return width, tuple(shape[1:])

    (in_dim, in_places), (out_dim, out_places) = split(ref), split(target)
    rung_dims = tuple(shapes[rung][-1] for rung in entry.rungs)
    return Sizes(in_dim, out_dim, in_places, out_places, rung_dims)


def _check_places(entry: CheckedTerm, targets: Mapping[Reference, Reference]) -> list[Mistake]:
    """Sequences whose length hangs on the batch have no places that a projection could be made for."""
    if entry.projection is None or not changes_places(PROJECTIONS[entry.projection]):
        return []
    found = [each for pair in targets.items() for each in pair if each.tap.partition(".")[0] != "image"]
    return [
        Mistake(
            f"{entry.path}.projection",
            f"{entry.projection} needs places of one number in every batch, such as an image's; {reference} is as long "
            "as the longest of its batch",
        )
        for reference in dict.fromkeys(found)
    ][:1]


def _check_once(entry: CheckedTerm, sizes: Mapping[Reference, Sizes]) -> list[Mistake]:
    """A tap has one projection in a term: one that changes places cannot serve two resolutions."""
    if entry.projection is None or not changes_places(PROJECTIONS[entry.projection]):
        return []
    first: dict[tuple[str, str], Sizes] = {}
    for ref, size in sizes.items():
        known = first.setdefault((ref.model, ref.tap), size)
        if known != size:
            places = f"{list(known.out_places)} and {list(size.out_places)}"
            return [Mistake(ref.path, f"{ref} meets places of {places} in one term; write a term for each")]
    return []


def _moves(entry: CheckedTerm, given: Input, reference: Reference) -> bool:
    fixed = entry.projection is not None and is_fixed(PROJECTIONS[entry.projection])
    return may_move(given, reference, entry.side, fixed=fixed)


def _plan_by_side(entry: CheckedTerm, loss: Loss, width: Mapping[Reference, int]) -> dict[Reference, Reference]:
    """Where a loss takes one tap of each side, of any widths, a projection that was asked for goes from one to the
    other's.
    """
    if (loss.num_student, loss.num_teacher) != (1, 1) or len(width) != 2:
        return {}
    student, teacher = entry.tensors
    if entry.side == "teacher":
        student, teacher = teacher, student
    return {student[2]: teacher[2]} if _moves(entry, student[0], student[2]) else {}


def _check_rank(loss: Loss, given: Input, reference: Reference, shape: Size) -> Mistake | None:
    """A tap of another number of axes than the loss takes."""
    if fits(given.axes, shape):
        return None
    wanted = f"[{', '.join(axis.removeprefix('_') for axis in given.axes)}]"
    mend = "; use a pooled tap, such as image.embedding" if len(given.axes) == 2 else ""
    return Mistake(reference.path, f"{reference} is {list(shape)} on this batch; {loss.name} takes {wanted}{mend}")


def _check_masks(entry: CheckedTerm, loss: Loss, shapes: Mapping[Reference, Size]) -> list[Mistake]:
    """A mask is as large as the axes that it shares with the inputs."""
    known: dict[str, tuple[tuple[int, ...], Reference]] = {}
    for given, _, reference in entry.tensors:
        for axis, size in sizes_of(given.axes, shapes[reference]).items():
            known.setdefault(axis, (size, reference))
    mistakes = []
    for mask in loss.masks:
        for _, reference in each(entry.masks[mask.name]) if mask.name in entry.masks else ():
            if not mask.axes or any(axis not in known for axis in mask.axes):
                continue  # the loss's own check remains
            wanted = [size for axis in mask.axes for size in known[axis][0]]
            if list(shapes[reference]) != wanted:
                masked = known[mask.axes[-1]][1]
                given_shape = f"{reference} is {list(shapes[reference])} on this batch"
                why = f"a mask has one entry an item: {wanted} for {masked}; {given_shape}"
                mistakes.append(Mistake(reference.path, why))
    return mistakes


def _differ(loss: Loss, moving: Sequence[Reference], fixed: Sequence[Reference], width: Mapping[Reference, int]) -> str:
    said = " and ".join(dict.fromkeys(f"{ref} ({width[ref]} wide)" for ref in [*moving, *fixed]))
    problem = f"{loss.name} compares {said}"
    if moving and len({width[ref] for ref in fixed}) == 1:
        return f"{problem}: add `projection: linear`"
    return f"{problem}: no projection can make them alike; use taps of one width"
