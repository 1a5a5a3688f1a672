"""Numbers of a term that change during the run, as pure functions of how far it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from xmodal.errors import Mistake
from xmodal.recipes.complaints import mistakes_of
from xmodal.term import Schedule


def value_at(value: float | Schedule, progress: float) -> float:
    """A fixed value as it is, a schedule's at ``progress``: 0 at a stage's first step, 1 at its last.

    >>> warm_up = Schedule(**{"from": 0, "to": 2, "after": 0.1, "until": 0.3})
    >>> [round(value_at(warm_up, progress), 3) for progress in (0, 0.1, 0.2, 0.3, 1)]
    [0.0, 0.0, 1.0, 2.0, 2.0]
    """
    if not isinstance(value, Schedule):
        return value
    if progress >= value.until:
        return value.last  # exactly
    share = max(0.0, (progress - value.after) / (value.until - value.after))
    if value.shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return value.first + share * (value.last - value.first)


def is_schedule(value: Any) -> bool:
    """Whether an option is given as a schedule, perhaps a wrong one."""
    return isinstance(value, Mapping) and ("from" in value or "to" in value)


def read_schedule(value: Mapping[str, Any], path: str) -> tuple[Schedule | None, list[Mistake]]:
    """A schedule, or all that is wrong with it."""
    try:
        return Schedule.model_validate(value), []
    except ValidationError as error:
        found = mistakes_of(error, Schedule, value)
        return None, [Mistake(f"{path}.{wrong.path}" if wrong.path else path, wrong.message) for wrong in found]
