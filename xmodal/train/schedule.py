"""Learning-rate schedules as pure functions of the step, so that resuming needs no schedule state."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["one_cycle", "cosine", "linear", "constant"]


def learning_rate_factor(step: int, num_steps: int, schedule: Schedule, warmup: float) -> float:
    """What multiplies the peak learning rate at ``step`` (0 is the first) of ``num_steps``.

    ``warmup`` is the share of the steps in which it rises: along a cosine from 1/25 for ``one_cycle`` (Smith 2018,
    arXiv:1708.07120), else linearly from zero. Then ``one_cycle`` and ``cosine`` fall along a cosine, and ``linear``
    along a line, to nearly zero at the last step; ``constant`` stays at 1.

    >>> [round(learning_rate_factor(step, 10, "linear", 0.2), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.125]
    """
    rising = warmup * num_steps
    if step < rising:
        share = (step + 1) / math.ceil(rising)
        if schedule == "one_cycle":
            return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * share)) / 2
        return share
    falling = (step - math.ceil(rising)) / max(1, num_steps - math.ceil(rising))
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - falling
    return (1 + math.cos(math.pi * falling)) / 2
