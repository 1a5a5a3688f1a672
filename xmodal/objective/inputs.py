"""Which of a term's taps goes to which input of its loss."""

from __future__ import annotations

from collections.abc import Sequence

from xmodal.errors import Mistake
from xmodal.losses import Input, Loss
from xmodal.losses.registration import Form
from xmodal.objective.references import STUDENT, Nested, Reference, Taps, each, form_of

_TAPS: dict[Form, str] = {"tensor": "a tap", "sequence": "a list of taps", "mapping": "a mapping from names to taps"}


def assign_inputs(
    loss: Loss, student: Nested | None, teacher: Nested | None, path: str
) -> tuple[tuple[Taps, ...], list[Mistake]]:
    """The taps of each input, in the loss's own order, from what stands under ``student`` and ``teacher``.

    A side lists one entry an input. Where its only input is a sequence, the list itself is that sequence. A loss none
    of whose inputs is a teacher's by name takes the student's entries, then the teacher's.
    """
    sides = {"student": student, "teacher": teacher}
    if loss.num_teacher == 0:
        entries = [entry for side, given in sides.items() for entry in _entries(given, loss.inputs, f"{path}.{side}")]
        if len(entries) != len(loss.inputs):
            said = f"{_count(student)} under student and {_count(teacher)} under teacher"
            wanted = f"{len(loss.inputs)} taps in all ({_names(loss.inputs)})"
            return (), [Mistake(path, f"{loss.name} takes {wanted}; given {said}")]
        pairs = list(zip(loss.inputs, entries, strict=True))
    else:
        pairs, mistakes = [], []
        for side, entries_given in sides.items():
            own = [entry for entry in loss.inputs if entry.detached == (side == "teacher")]
            entries = _entries(entries_given, own, f"{path}.{side}")
            if len(entries) != len(own):
                mistakes.append(Mistake(f"{path}.{side}", _miscounted(loss, own, len(entries))))
            else:
                pairs.extend(zip(own, entries, strict=True))
        if mistakes:
            return (), mistakes
    mistakes = [mistake for given, (where, taps) in pairs if (mistake := _misformed(loss, given, where, taps))]
    if not mistakes:
        trained = [reference for given, (_, taps) in pairs if not given.detached for _, reference in each(taps)]
        if not any(reference.model == STUDENT for reference in trained):
            why = "no tap here is the student's own, so the term could not teach it anything"
            mistakes.append(Mistake(f"{path}.student", why))
    taps = {given.name: tuple(taps) if isinstance(taps, list) else taps for given, (_, taps) in pairs}
    return tuple(taps[given.name] for given in loss.inputs), mistakes


def _entries(given: Nested | None, wanted: Sequence[Input], path: str) -> list[tuple[str, Nested]]:
    """What each input of a side gets, and the recipe's key for it."""
    if given is None:
        return []
    if not isinstance(given, list):
        return [(path, given)]
    flat = bool(given) and all(isinstance(entry, Reference) for entry in given)
    if (
        len(wanted) == 1
        and flat
        and "sequence" in wanted[0].forms
        and (len(given) > 1 or "tensor" not in wanted[0].forms)
    ):
        return [(path, given)]
    return [(f"{path}.{number}", entry) for number, entry in enumerate(given)]


def _misformed(loss: Loss, given: Input, path: str, taps: Nested) -> Mistake | None:
    form = form_of(taps)
    if form in given.forms and taps:
        return None
    wanted = " or ".join(_TAPS[form] for form in given.forms)
    said = f"{_TAPS[form]}, {taps.tap}" if isinstance(taps, Reference) else _TAPS[form] if taps else "none"
    return Mistake(path, f"{loss.name} takes {wanted} here ({given.name}); given {said}")


def _miscounted(loss: Loss, own: Sequence[Input], given: int) -> str:
    nouns = {_TAPS[form].removeprefix("a ") for entry in own for form in entry.forms}
    noun = nouns.pop() if len(nouns) == 1 else "entry"
    plural = {"entry": "entries", "list of taps": "lists of taps"}.get(noun, f"{noun}s")
    return f"{loss.name} takes {len(own)} {noun if len(own) == 1 else plural} here ({_names(own)}); given {given}"


def _count(given: Nested | None) -> int:
    return 0 if given is None else len(given) if isinstance(given, list) else 1


def _names(inputs: Sequence[Input]) -> str:
    return ", ".join(given.name for given in inputs)
