"""Options of a term against the signature of its loss or projection: what fits, and every mistake."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from xmodal.errors import Mistake, nearest
from xmodal.losses.options import Option
from xmodal.recipes.complaints import describe, show

DEFAULT_MAX = 100.0
"""Where CLIP clamps its logit scale."""


def check_options(
    given: Mapping[str, Any], options: Mapping[str, Option], path: str, owner: str, also_known: Collection[str] = ()
) -> tuple[dict[str, Any], list[Mistake]]:
    """Values of ``given`` as their types want them, and every mistake: unknown, missing, of the wrong type.

    ``also_known`` are keys that stand beside the options and may be what a misspelt one means. A learned scale stays
    the mapping that it is.
    """
    values, mistakes = {}, []
    for key, value in given.items():
        option = options.get(key)
        if option is None:
            mistakes.append(Mistake(f"{path}.{key}", _unknown(key, options, path, owner, also_known)))
        elif isinstance(value, Mapping) and "learn" in value:
            values[key] = value
            mistakes.extend(_check_learned(value, option, f"{path}.{key}", owner))
        else:
            try:
                values[key] = _convert(value, option.annotation)
            except ValueError:
                wanted = describe(option.annotation) + (" or {learn: NUMBER, max: NUMBER}" if option.learnable else "")
                mistakes.append(Mistake(f"{path}.{key}", f"expected {wanted}; given {show(value)}"))
    mistakes.extend(
        Mistake(f"{path}.{option.name}", f"is missing: {owner} needs it, {describe(option.annotation)}")
        for option in options.values()
        if option.required and option.name not in given
    )
    return values, mistakes


def _unknown(key: str, options: Mapping[str, Option], path: str, owner: str, also_known: Collection[str]) -> str:
    takes = f"takes {', '.join(options)}" if options else "takes no options"
    close = [f"{path}.{name}" for name in nearest(key, [*options, *also_known])]
    return f"no such option; {owner} {takes}." + (f" Nearest: {', '.join(close)}" if close else "")


def _check_learned(value: Mapping[str, Any], option: Option, path: str, owner: str) -> list[Mistake]:
    if not option.learnable:
        return [Mistake(path, f"{owner} cannot learn this option; give {describe(option.annotation)}")]
    mistakes = [
        Mistake(f"{path}.{key}", "no such key; a learned scale takes learn (its first value) and max")
        for key in value
        if key not in ("learn", "max")
    ]
    first, largest = _number(value["learn"]), _number(value.get("max", DEFAULT_MAX))
    for key, number in (("learn", first), ("max", largest)):
        if number is None:
            mistakes.append(Mistake(f"{path}.{key}", f"expected a number; given {show(value[key])}"))
    if first is not None and largest is not None and not 0 < first <= largest < float("inf"):
        said = f"given {first:g} and {largest:g}"
        mistakes.append(Mistake(path, f"a learned scale starts above 0 and at most at its max; {said}"))
    return mistakes


def _number(value: Any) -> float | None:
    try:
        return float(_convert(value, float))
    except ValueError:
        return None


def _convert(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation``, or ValueError. ``"2e-3"`` is a number to us, ``true`` is none."""
    if isinstance(value, bool) and annotation in (float, int, float | None, int | None):
        raise ValueError
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError from error
