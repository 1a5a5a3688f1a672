"""Which of a term's mask taps goes to which mask of its loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor

from xmodal.adapters.encoder import Features
from xmodal.errors import Mistake, hint
from xmodal.losses import Loss
from xmodal.losses.registration import Form
from xmodal.objective.references import Nested, Reference, Taps, change, form_of

_FORMS: dict[Form, str] = {"tensor": "one tap", "sequence": "a list of taps", "mapping": "a mapping from names to taps"}


def assign_masks(loss: Loss, given: Nested | None, path: str) -> tuple[dict[str, Taps], list[Mistake]]:
    """Mask → its taps: one tap is the loss's only mask, a list has one an entry, a mapping goes by the masks' names."""
    names = [mask.name for mask in loss.masks]
    if given is None:
        parameters = inspect.signature(loss.function).parameters
        missing = [name for name in names if parameters[name].default is inspect.Parameter.empty]
        return {}, [Mistake(path, f"is missing: {loss.name} needs {', '.join(missing)}")] if missing else []
    if not names:
        return {}, [Mistake(path, f"{loss.name} takes no mask")]
    if isinstance(given, Mapping):
        if not given or any(isinstance(taps, Mapping) and not taps for taps in given.values()):
            empty = [f"{path}.{name}" for name, taps in given.items() if name in names and taps == {}]
            wanted = f"{loss.name} takes {', '.join(names)}"
            return {}, [
                Mistake(where, f"names no tap: {wanted}; without a mask, leave `mask` out") for where in empty or [path]
            ]
        unknown = [name for name in given if name not in names]
        if unknown:
            return {}, [
                Mistake(f"{path}.{name}", f"no such mask of {loss.name}. {hint(name, names)}") for name in unknown
            ]
        named = {name: (f"{path}.{name}", taps) for name, taps in given.items()}
    else:
        entries = given if isinstance(given, list) else [given]
        if len(entries) != len(names):
            example = "{" + ", ".join(f"{name}: …" for name in names) + "}"
            many = f"{len(names)} masks" if len(names) > 1 else "1 mask"
            message = f"{loss.name} takes {many} ({', '.join(names)}), or {example}; given {len(entries)}"
            return {}, [Mistake(path, message)]
        where = [f"{path}.{number}" for number in range(len(entries))] if isinstance(given, list) else [path]
        named = dict(zip(names, zip(where, entries, strict=True), strict=True))
    mistakes = []
    for mask in loss.masks:
        if mask.name in named and form_of(named[mask.name][1]) not in mask.forms:
            wanted = " or ".join(_FORMS[form] for form in mask.forms)
            message = f"{mask.name} of {loss.name} takes {wanted}; given {_FORMS[form_of(named[mask.name][1])]}"
            if "mapping" in mask.forms and not isinstance(given, Mapping):
                message += f". Write {{{mask.name}: {{NAME: TAP}}}}"
            mistakes.append(Mistake(named[mask.name][0], message))
    return {name: tuple(taps) if isinstance(taps, list) else taps for name, (_, taps) in named.items()}, mistakes


def given_masks(masks: Mapping[str, Taps], features: Mapping[str, Features]) -> dict[str, Tensor]:
    """The loss's mask arguments: mask taps as booleans, valid where they are not 0."""

    def valid(_: int | str | None, reference: Reference) -> Tensor:
        return features[reference.model][reference.tap] != 0

    return {name: change(taps, valid) for name, taps in masks.items()}  # type: ignore[misc]
