"""Which inputs of a loss must be equally wide, and which projections make them so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Size

from xmodal.errors import Mistake
from xmodal.losses import Input, Loss
from xmodal.objective.checking import CheckedTerm
from xmodal.objective.layout import is_variadic, may_move
from xmodal.objective.references import Reference

Plan = dict[Reference, tuple[int, int]]
"""Reference → widths before and after its projection."""


def plan_projections(entry: CheckedTerm, loss: Loss, shapes: Mapping[Reference, Size]) -> tuple[Plan, list[Mistake]]:
    """The projections that a term needs, and what none can mend.

    Inputs whose annotations share the name of the last axis must be equally wide. Those that may move are the student's
    (``side: teacher``: the other models'), unless the loss cuts their gradient; they move to the width of the rest.
    ``shapes`` are those of the taps on a real batch, as the loss gets them.
    """
    pairs = list(zip(loss.inputs, entry.references, strict=True))
    mistakes = [m for given, ref in pairs if (m := _check_rank(loss, given, ref, shapes[ref]))]
    mistakes.extend(_check_mask(entry, shapes))
    if mistakes:
        return {}, mistakes
    plan: Plan = {}
    for axis in dict.fromkeys(given.width for given in loss.inputs):
        group = [(given, ref) for given, ref in pairs if given.width == axis]
        moving = [ref for given, ref in group if may_move(given, ref, entry.side)]
        fixed = [ref for given, ref in group if not may_move(given, ref, entry.side)]
        width = {ref: shapes[ref][-1] for _, ref in group}
        wanted = {width[ref] for ref in fixed}
        if entry.projection is not None and moving and len(wanted) == 1:
            target = wanted.pop()
            plan.update({ref: (width[ref], target) for ref in moving})
        elif len(set(width.values())) > 1:
            mistakes.append(Mistake(f"{entry.path}.projection", _differ(loss, moving, fixed, width)))
    if entry.projection is not None and not plan and not mistakes:
        why = f"there is nothing to project: {loss.name} sets no tap of the student against another model's here"
        mistakes.append(Mistake(f"{entry.path}.projection", f"{why}; leave `projection` out"))
    return plan, mistakes


def _check_rank(loss: Loss, given: Input, reference: Reference, shape: Size) -> Mistake | None:
    """A tap of another number of axes than the loss takes."""
    if not given.axes or is_variadic(given) or len(shape) == len(given.axes):
        return None
    wanted = f"[{', '.join(given.axes)}]"
    mend = "; use a pooled tap, such as image.embedding" if len(given.axes) == 2 else ""
    return Mistake(reference.path, f"{reference} is {list(shape)} on this batch; {loss.name} takes {wanted}{mend}")


def _check_mask(entry: CheckedTerm, shapes: Mapping[Reference, Size]) -> list[Mistake]:
    """A mask has an entry for each item of the first input."""
    if entry.mask is None:
        return []
    masked = entry.references[0]
    given, wanted = list(shapes[entry.mask]), list(shapes[masked])
    if given == wanted[:-1]:
        return []
    why = f"a mask has one entry an item: {wanted[:-1]} for {masked}; {entry.mask} is {given} on this batch"
    return [Mistake(entry.mask.path, why)]


def _differ(loss: Loss, moving: Sequence[Reference], fixed: Sequence[Reference], width: Mapping[Reference, int]) -> str:
    said = " and ".join(dict.fromkeys(f"{ref} ({width[ref]} wide)" for ref in [*moving, *fixed]))
    problem = f"{loss.name} compares {said}"
    if moving and len({width[ref] for ref in fixed}) == 1:
        return f"{problem}: add `projection: linear`"
    return f"{problem}: no projection can make them alike; use taps of one width"
