"""From data to the plane: scales, round ticks, a moving mean, and thinning that keeps every extreme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Maps ``low … high`` to ``start … end``, in proportion or, with ``log``, in proportion to the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        # halves keep the difference of huge numbers finite
        share = (value / 2 - low / 2) / (high / 2 - low / 2)
        return self.start + share * (self.end - self.start)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high``, at most ``count`` steps apart.

    >>> linear_ticks(0.13, 0.92), linear_ticks(-1, 4.55)
    ([0.2, 0.4, 0.6, 0.8], [0.0, 2.0, 4.0])
    """
    step = _round_step(high / count - low / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(index * step, digits) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between ``low`` and ``high``, thinned to at most six.

    >>> log_ticks(0.002, 3), len(log_ticks(1e-20, 1e20))
    ([0.01, 0.1, 1.0], 6)
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = math.ceil((last - first + 1) / 6) or 1
    return [float(f"1e{exponent}") for exponent in range(first, last + 1, stride)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))


def window_for(count: int) -> int:
    """How many logged values the dark line averages: a twentieth of them, an odd number; 1 is no smoothing.

    >>> [window_for(n) for n in (8, 40, 200, 10_000)]
    [1, 3, 11, 501]
    """
    return count // 20 // 2 * 2 + 1 if count >= 20 else 1


def moving_mean(values: Sequence[float | None], window: int) -> list[float | None]:
    """The mean over ``window`` values around each; at the ends over those there are. None stays None, uncounted.

    >>> moving_mean([1.0, 2.0, None, 6.0], 3)
    [1.5, 1.5, None, 6.0]
    """
    known = np.array([value is not None for value in values])
    filled = np.array([0.0 if value is None else value for value in values])
    counts, sums = _windows(known.astype(float), window), _windows(filled, window)
    return [total / count if there else None for total, count, there in zip(sums, counts, known, strict=True)]


def _windows(values: NDArray[np.float64], window: int) -> list[float]:
    """The sum over each window; summed anew each time, so that a spike leaves no rounding behind it."""
    padded = np.pad(values, window // 2)
    return [float(total) for total in np.lib.stride_tricks.sliding_window_view(padded, window).sum(axis=1)]


def runs_of_points(xs: Sequence[float], ys: Sequence[float | None]) -> list[list[Point]]:
    """Stretches without a gap: a value that is missing breaks the line."""
    runs: list[list[Point]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def thin(points: Sequence[Point], columns: int = 300) -> list[Point]:
    """At most four points a column: its first, lowest, highest and last, so that no spike is lost."""
    if len(points) <= 4 * columns:
        return list(points)
    first, last = points[0][0], points[-1][0]
    buckets: dict[int, list[int]] = {}
    for index, (x, _) in enumerate(points):
        buckets.setdefault(int((x - first) / (last - first) * columns), []).append(index)
    kept: set[int] = set()
    for indices in buckets.values():
        kept |= {indices[0], indices[-1]}
        kept |= {min(indices, key=lambda i: points[i][1]), max(indices, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


def spaced(xs: Sequence[float], room: float) -> list[float]:
    """Of ascending ``xs`` those that are ``room`` or more from the last one kept.

    >>> spaced([1, 3, 9, 10, 30], 7)
    [1, 9, 30]
    """
    kept: list[float] = []
    for x in xs:
        if not kept or x - kept[-1] >= room:
            kept.append(x)
    return kept


def path(points: Sequence[Point]) -> str:
    """An SVG path through ``points``.

    >>> path([(0, 1), (2.04, 3)])
    'M0 1L2 3'
    """
    return "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points) if points else ""


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
