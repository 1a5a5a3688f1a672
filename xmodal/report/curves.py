"""The training curves: one small panel for each thing that was logged, ready for the template to draw."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from xmodal.report import numbers, scale
from xmodal.report.history import Series

WIDTH, HEIGHT, TOP, BOTTOM, RIGHT = 300, 180, 12, 28, 8
_CHARACTER = 6.8  # width of a tick label's character at the panel's 12 px


@dataclass(frozen=True)
class Frame:
    """The plot's box and its ticks as (position, label), in the panel's own units."""

    left: float
    right: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x: scale.Scale
    y: scale.Scale
    width: int = WIDTH
    height: int = HEIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Curve:
    """One logged number over the steps."""

    title: str
    subtitle: str
    summary: str
    frame: Frame
    raw: str
    smooth: str
    dots: list[scale.Point]
    broken: list[float]
    evaluations: list[float]
    stages: list[float]
    window: int
    log: bool
    hover: str


def curve(
    series: Series,
    *,
    title: str,
    subtitle: str = "",
    evaluations: Sequence[int] = (),
    stages: Sequence[int] = (),
    smoothed: bool = True,
    from_zero: bool = False,
    show: Callable[[Any], str] = numbers.significant,
) -> Curve:
    """Draw ``series``. A value that is not finite breaks the line and is marked at the top edge.

    ``evaluations`` and ``stages`` are steps to be marked; ``smoothed`` adds the moving mean where there are 20 values
    or more. Neither line nor mean runs on from one stage into the next.
    """
    steps, values = series.steps, series.values
    known = [value for value in values if value is not None]
    frame = _frame(steps, known, show, from_zero=from_zero)
    window = scale.window_for(len(known)) if smoothed else 1
    xs = [frame.x(step) for step in steps]
    means: list[float | None] = []
    runs, smooth = [], []
    for part in _by_stage(steps, stages):
        of_part = scale.moving_mean(values[part], window)
        means += of_part
        runs += scale.runs_of_points(xs[part], _heights(values[part], frame.y))
        smooth += scale.runs_of_points(xs[part], _heights(of_part, frame.y)) if window > 1 else []
    broken = [x for x, value in zip(xs, values, strict=True) if value is None]
    return Curve(
        title=title,
        subtitle=subtitle,
        summary=_summary(steps, values, means, window, show),
        frame=frame,
        raw="".join(scale.path(scale.thin(run)) for run in runs if len(run) > 1),
        smooth="".join(scale.path(scale.thin(run)) for run in smooth if len(run) > 1),
        dots=[run[0] for run in runs if len(run) == 1],
        broken=scale.spaced(broken, 7),
        evaluations=[frame.x(step) for step in evaluations if frame.x.low <= step <= frame.x.high],
        stages=[frame.x(step) for step in stages if frame.x.low <= step <= frame.x.high],
        window=window,
        log=frame.y.log,
        hover=_hover(steps, xs, values, means, window, show),
    )


def _frame(steps: Sequence[int], known: Sequence[float], show: Callable[[Any], str], *, from_zero: bool) -> Frame:
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low > 0 and not from_zero and high / low > 100:
        return make_frame(steps, low / 1.3, high * 1.3, show, log=True)
    # A line that comes near zero is read better with zero in sight.
    bottom = 0.0 if (low >= 0 and (from_zero or low < 0.35 * high)) else low
    size = max(abs(bottom), abs(high))
    room = 0.2 * size if bottom == high else max(0.1 * (high - bottom), 1e-4 * size)
    room = room or 1.0
    return make_frame(steps, bottom - (room if bottom else 0), high + room, show)


def make_frame(
    steps: Sequence[int],
    low: float,
    high: float,
    show: Callable[[Any], str],
    *,
    log: bool = False,
    right: float = RIGHT,
) -> Frame:
    """A frame as high as ``low … high`` and as wide as ``steps``, from zero where they begin near it."""
    y_ticks = scale.log_ticks(low, high) if log else scale.linear_ticks(low, high)
    labels = _labels(y_ticks, show)
    left = 10 + _CHARACTER * max(map(len, labels), default=0)
    first, last = (steps[0], steps[-1]) if steps else (0, 1)
    first = 0 if 0 <= first <= last / 2 else first
    first, last = (first, last) if last > first else (first - 1, first + 1)
    x = scale.Scale(first, last, left, WIDTH - right)
    y = scale.Scale(low, high, HEIGHT - BOTTOM, TOP, log=log)
    fitting = max(1, int((WIDTH - right - left) / (_CHARACTER * (len(str(last)) + 2))))
    whole = [tick for tick in scale.linear_ticks(first, last, min(fitting, 5)) if tick == int(tick)]
    return Frame(
        left=left,
        right=WIDTH - right,
        x_ticks=[(x(tick), numbers.count(tick)) for tick in whole],
        y_ticks=[(y(tick), label) for tick, label in zip(y_ticks, labels, strict=True)],
        x=x,
        y=y,
    )


def _labels(ticks: Sequence[float], show: Callable[[Any], str]) -> list[str]:
    """What stands at the ticks, with as many digits as tell them apart."""
    labels = [show(tick) for tick in ticks]
    for digits in range(4, 9):
        if len(set(labels)) == len(labels):
            break
        labels = [numbers.significant(tick, digits) for tick in ticks]
    return labels


def _by_stage(steps: Sequence[int], stages: Sequence[int]) -> list[slice]:
    """Where each stage's values lie; ``stages`` are the last steps of all stages but the last."""
    cuts = [0, *(bisect_right(steps, stage) for stage in stages), len(steps)]
    return [slice(start, end) for start, end in pairwise(cuts) if end > start]


def _heights(values: Sequence[float | None], y: scale.Scale) -> list[float | None]:
    return [None if value is None else y(value) for value in values]


def _summary(
    steps: Sequence[int],
    values: Sequence[float | None],
    means: Sequence[float | None],
    window: int,
    show: Callable[[Any], str],
) -> str:
    """The curve in words: for those who cannot see it, and for those who want the figures."""
    ends = [mean for mean in means if mean is not None]
    if not ends:
        return f"Logged {len(values)} times and never finite."
    low, at = min((value, step) for step, value in zip(steps, values, strict=True) if value is not None)
    if len(ends) == 1:
        text = f"{show(low)} at step {numbers.count(at)}, the only value."
    else:
        # What is a millionth of the largest value is zero to the eye: a learning rate of 3e-35 at the end.
        nothing = 1e-6 * max(abs(value) for value in values if value is not None)
        first, last, low = (0.0 if abs(value) < nothing else value for value in (ends[0], ends[-1], low))
        means_of = f"Mean of up to {window} values: " if window > 1 else ""
        lowest = f"Lowest value {show(low)}, at step {numbers.count(at)}."
        text = f"{means_of}{show(first)} at first, {show(last)} at last. {lowest}"
    broken = len(values) - len(ends)
    return text + (f" Not finite {broken} of {len(values)} times (×)." if broken else "")


def _hover(
    steps: Sequence[int],
    xs: Sequence[float],
    values: Sequence[float | None],
    means: Sequence[float | None],
    window: int,
    show: Callable[[Any], str],
) -> str:
    """What the pointer reads out, at no more than 150 places: [[x, text], …] as JSON."""
    stride = math.ceil(len(steps) / 150) or 1
    rows = []
    for index in range(0, len(steps), stride):
        value, mean = values[index], means[index]
        text = f"step {numbers.count(steps[index])}: {'not finite' if value is None else show(value)}"
        rows.append([round(xs[index], 1), text + (f" (mean {show(mean)})" if window > 1 and mean is not None else "")])
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def term_subtitles(recipe: Mapping[str, Any]) -> dict[str, str]:
    """For each term of the recipe's objective, by the label it is logged under, what it compares and its weight."""
    subtitles: dict[str, str] = {}
    stages = recipe.get("stages")
    for part in [recipe, *(stages if isinstance(stages, list) else [])]:
        objective = part.get("objective") if isinstance(part, Mapping) else None
        of_this_part: dict[str, str] = {}
        for term in objective if isinstance(objective, list) else []:
            if isinstance(term, dict):
                name = str(term.get("label") or term.get("loss"))
                same = sum(label.split("#")[0] == name for label in of_this_part)
                of_this_part[f"{name}#{same + 1}" if same else name] = _subtitle(term)
        subtitles |= of_this_part
    return subtitles


def _subtitle(term: Mapping[str, Any]) -> str:
    sides = " ← ".join(filter(None, [_side(term.get("student")), _side(term.get("teacher"))]))
    return f"{sides} · weight\u00a0{_weight(term.get('weight', 1.0))}"


def _weight(weight: Any) -> str:
    if isinstance(weight, Mapping):  # a schedule
        return f"{numbers.significant(weight.get('from'))}\u00a0→\u00a0{numbers.significant(weight.get('to'))}"
    return numbers.significant(weight)


def _side(taps: Any) -> str:
    if isinstance(taps, Mapping):
        return ", ".join(map(str, taps.values()))
    return ", ".join(map(_side, taps)) if isinstance(taps, list) else str(taps or "")
