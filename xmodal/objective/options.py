"""Options of a term against the signature of its loss or projection: what fits, and every mistake."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from xmodal.errors import Mistake, nearest
from xmodal.losses.options import Option, kinds_of
from xmodal.losses.state import LearnedBias, LearnedScale
from xmodal.objective.schedules import is_schedule, read_schedule
from xmodal.recipes.complaints import describe, show
from xmodal.term import Schedule

DEFAULT_MAX = 100.0
"""Where CLIP clamps its logit scale."""


@dataclass(frozen=True)
class Learned:
    """A number that is trained: a scale from ``first`` up to ``max``, in log space; without ``max`` a bias."""

    first: float
    max: float | None

    def make(self) -> nn.Module:
        """The module that holds it."""
        return LearnedBias(self.first) if self.max is None else LearnedScale(self.first, self.max)


@dataclass
class Options:
    """What a term says of its loss's options: numbers that stay, that change during the run, that are trained."""

    fixed: dict[str, Any] = field(default_factory=dict)
    scheduled: dict[str, Schedule] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)


def check_options(
    given: Mapping[str, Any],
    options: Mapping[str, Option],
    path: str,
    owner: str,
    also_known: Collection[str] = (),
    may_change: bool = False,
    elsewhere: Mapping[str, str] | None = None,
) -> tuple[Options, list[Mistake]]:
    """The options of ``given`` as their types want them, and every mistake: unknown, missing, of the wrong type or
    beyond the range of its numbers.

    ``also_known`` are keys that stand beside the options and may be what a misspelt one means. ``may_change``: numbers
    with a fraction may be schedules. ``elsewhere`` says of names that are right in another place where that is.
    """
    read, mistakes = Options(), []
    for key, value in given.items():
        option, where = options.get(key), f"{path}.{key}"
        if option is None:
            why = _unknown(key, options, path, owner, also_known, (elsewhere or {}).get(key))
            mistakes.append(Mistake(where, why))
        elif isinstance(value, Mapping) and "learn" in value:
            learned, found = _read_learned(value, option, where, owner)
            mistakes.extend(found)
            if learned is not None:
                read.learned[key] = learned
        elif may_change and is_schedule(value):
            schedule, found = _read_schedule(value, option, where, options.values())
            mistakes.extend(found)
            if schedule is not None:
                read.scheduled[key] = schedule
        else:
            try:
                read.fixed[key] = _convert(value, option.annotation)
            except ValueError:
                wanted = _wanted(option, may_change and isinstance(value, Mapping))
                mistakes.append(Mistake(where, f"expected {wanted}; given {show(value)}"))
    mistakes.extend(
        Mistake(f"{path}.{option.name}", f"is missing: {owner} needs it, {describe(option.annotation)}")
        for option in options.values()
        if option.required and option.name not in given
    )
    return read, mistakes


def _unknown(
    key: str,
    options: Mapping[str, Option],
    path: str,
    owner: str,
    also_known: Collection[str],
    elsewhere: str | None,
) -> str:
    takes = f"takes {', '.join(options)}" if options else "takes no options"
    # a key of the term is meant by a slip of the pen only: bank, max and tile are no misspelt mask or side
    beside = [] if elsewhere else [name for name in also_known if _is_slip(key, name)]
    close = [f"{path}.{name}" for name in nearest(key, [*options, *beside])]
    said = [f"no such option; {owner} {takes}.", elsewhere, f"Nearest: {', '.join(close)}" if close else None]
    return " ".join(part for part in said if part)


def _is_slip(given: str, name: str) -> bool:
    return SequenceMatcher(None, name, given).ratio() >= 0.7 or (len(given) > 2 and name.startswith(given))


def _wanted(option: Option, may_change: bool) -> str:
    words = [describe(option.annotation)]
    if option.learnable:
        words.append("{learn: NUMBER}" if _is_bias(option) else "{learn: NUMBER, max: NUMBER}")
    if may_change and option.may_change:
        words.append("{from: NUMBER, to: NUMBER}")
    return " or ".join(words)


def _read_schedule(
    value: Mapping[str, Any], option: Option, path: str, options: Collection[Option]
) -> tuple[Schedule | None, list[Mistake]]:
    """A schedule of an option that may have one, both its ends within the option's range: so is all between them."""
    if not option.may_change:
        may = ", ".join(["weight", *(other.name for other in options if other.may_change)])
        wanted = f"expected {describe(option.annotation)}, the same for the whole run"
        return None, [Mistake(path, f"{wanted}; given a schedule. What may change in this term: {may}")]
    schedule, mistakes = read_schedule(value, path)
    for key, end in (("from", schedule.first), ("to", schedule.last)) if schedule is not None else ():
        try:
            _convert(end, option.number)
        except ValueError:
            mistakes.append(Mistake(f"{path}.{key}", f"expected {describe(option.number)}; given {show(value[key])}"))
    return (None if mistakes else schedule), mistakes


def _is_bias(option: Option) -> bool:
    return option.name.endswith("bias")


def _read_learned(
    value: Mapping[str, Any], option: Option, path: str, owner: str
) -> tuple[Learned | None, list[Mistake]]:
    if not option.learnable:
        return None, [Mistake(path, f"{owner} cannot learn this option; give {describe(option.annotation)}")]
    keys = ("learn",) if _is_bias(option) else ("learn", "max")
    takes = "a learned bias takes learn, its first value" if _is_bias(option) else _SCALE_TAKES
    mistakes = [Mistake(f"{path}.{key}", f"no such key; {takes}") for key in value if key not in keys]
    numbers = {"max": DEFAULT_MAX, **value}
    first, largest = _number(numbers["learn"]), _number(numbers["max"])
    for key, number in (("learn", first), ("max", largest)):
        if number is None and key in keys:
            mistakes.append(Mistake(f"{path}.{key}", f"expected a number; given {show(value[key])}"))
    if _is_bias(option):
        return (None if first is None or mistakes else Learned(first, None)), mistakes
    if first is not None and largest is not None and not 0 < first <= largest:
        said = f"given {first:g} and {largest:g}"
        mistakes.append(Mistake(path, f"a learned scale starts above 0 and at most at its max; {said}"))
    return (None if first is None or mistakes else Learned(first, largest)), mistakes


_SCALE_TAKES = "a learned scale takes learn (its first value) and max"


def _number(value: Any) -> float | None:
    try:
        return float(_convert(value, float))
    except ValueError:
        return None


def _convert(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation``, or ValueError. ``"2e-3"`` is a number to us, ``true`` is none."""
    kinds = kinds_of(annotation)
    entries = value if isinstance(value, (list, tuple)) else [value]
    if bool not in kinds and Any not in kinds and any(isinstance(entry, bool) for entry in entries):
        raise ValueError
    try:
        return TypeAdapter(annotation, config={"allow_inf_nan": False}).validate_python(value)
    except ValidationError as error:
        raise ValueError from error
