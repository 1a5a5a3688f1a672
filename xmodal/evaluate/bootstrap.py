"""Bootstrap: how far a figure would move if other samples of the same kind had been measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEVEL = 0.95
"""Of the intervals: the percentiles 2.5 and 97.5 of the resampled figures."""

_STRIP = 2**22
"""Numbers held at once: 32 MiB."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PerSample:
    """A figure that is a mean over samples, and what each of them brings to it."""

    values: Tensor
    """``[N]``: of each sample the mean over its queries."""
    queries: Tensor | None = None
    """``[N]``: how many those are, such as a picture's captions; one each by default."""
    classes: Tensor | None = None
    """``[N]`` whole numbers. With them the figure is the mean over the classes' means."""

    def mean(self) -> float:
        """The figure itself."""
        rows, counts = _distinct(self)
        return float(_figures(rows, counts[None].astype(np.float64))[0])

    def interval(self, *, resamples: int, seed: int, level: float = LEVEL) -> tuple[float, float]:
        """The percentile interval over ``resamples`` draws of N samples out of these N, with replacement.

        Samples that are alike are drawn together, as a multinomial count. So a hit-or-miss figure costs the same
        whatever N is, and nothing hangs on the order of the samples.

        >>> low, high = PerSample(torch.tensor([0.0, 1.0] * 50)).interval(resamples=1000, seed=0)
        >>> 0.38 < low < 0.42, 0.58 < high < 0.62
        (True, True)
        """
        rows, counts = _distinct(self)
        generator = np.random.default_rng(seed)
        height = max(1, _STRIP // len(rows))
        found = [
            _figures(rows, generator.multinomial(counts.sum(), counts / counts.sum(), size=size).astype(np.float64))
            for start in range(0, resamples, height)
            if (size := min(height, resamples - start))
        ]
        low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


Figures = Mapping[str, "PerSample | float"]
"""Metric → figure: what a task measures. Only means over samples have an interval."""


def settled(figures: Figures, *, resamples: int = 0, seed: int = 0) -> dict[str, float]:
    """Every figure as a number; with ``resamples``, an interval beside each mean: ``NAME_low`` and ``NAME_high``.

    Each figure has random numbers of its own, so that it does not matter which others are measured.
    """
    numbers: dict[str, float] = {}
    for name, figure in figures.items():
        if not isinstance(figure, PerSample):
            numbers[name] = figure
            continue
        numbers[name] = figure.mean()
        if resamples:
            own_seed = seed * 2**32 + crc32(name.encode())
            numbers[f"{name}_low"], numbers[f"{name}_high"] = figure.interval(resamples=resamples, seed=own_seed)
    return numbers


def per_group(values: Tensor, group: Tensor) -> PerSample:
    """Queries' ``values`` ``[Q]`` as those of the samples they belong to: ``group`` ``[Q]`` numbers these from 0.

    Captions of one picture stand or fall together; drawn one by one they would look like more evidence than they are.
    """
    queries = torch.bincount(group).double()
    sums = torch.zeros_like(queries).scatter_add(0, group, values.double())
    there = queries > 0
    return PerSample(sums[there] / queries[there], queries[there])


def _distinct(figure: PerSample) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distinct rows (class, queries, value), in the order of the classes, and how many samples have each."""
    ones = torch.ones(len(figure.values))
    columns = (figure.classes if figure.classes is not None else ones, figure.queries, figure.values)
    table = torch.stack([(ones if column is None else column).double().cpu() for column in columns], dim=1).numpy()
    rows, counts = np.unique(table.round(12), axis=0, return_counts=True)
    return rows, counts


def _figures(rows: Floats, drawn: Floats) -> Floats:
    """The figure of each of the draws ``[B, U]``: how often each distinct row is in it. Classes not drawn are out."""
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=np.nan))
    queries = np.add.reduceat(drawn * rows[:, 1], starts, axis=1)
    right = np.add.reduceat(drawn * (rows[:, 1] * rows[:, 2]), starts, axis=1)
    there = queries > 0
    means: Floats = np.divide(right, queries, out=np.zeros_like(right), where=there).sum(1) / there.sum(1)
    return means
