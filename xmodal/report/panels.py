"""Which curves the page shows, in which order, and what each is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.report import numbers, scale
from xmodal.report.curves import BOTTOM, HEIGHT, Curve, Frame, curve, make_frame, term_subtitles
from xmodal.report.history import History, Series

_MARKS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Line:
    """One split's metric over the evaluations; ``mark`` tells the lines apart without colour."""

    name: str
    short: str
    mark: str
    index: int
    path: str
    points: list[tuple[float, float, str]]
    label_y: float


@dataclass(frozen=True)
class EvaluationPanel:
    """One metric, a line for each split."""

    title: str
    summary: str
    frame: Frame
    lines: list[Line]


def objective_curves(history: History, recipe: Mapping[str, Any]) -> list[Curve]:
    """The whole loss, then every term."""
    subtitles = term_subtitles(recipe)
    wanted = [(series, name, subtitles.get(name, "")) for name, series in history.terms.items()]
    if "loss" in history.others:
        wanted.insert(0, (history.others["loss"], "loss", "all terms, weighted"))
    marks: dict[str, Any] = {"evaluations": history.evaluation_steps, "stages": history.stage_starts}
    return [curve(series, title=title, subtitle=subtitle, **marks) for series, title, subtitle in wanted]


def machine_curves(history: History) -> list[Curve]:
    """What else was logged: the learning rate, the gradient's norm, how fast it went."""
    others = history.others
    marks: dict[str, Any] = {"evaluations": history.evaluation_steps, "stages": history.stage_starts}
    known: dict[str, dict[str, Any]] = {
        "learning_rate": {"smoothed": False, "from_zero": True},
        "grad_norm": {"title": "gradient norm", "subtitle": "before clipping"},
        "samples_per_second": {"from_zero": True},
        "data_wait": {
            "subtitle": "share of the time spent waiting for data",
            "from_zero": True,
            "show": numbers.percent,
        },
    }
    names = [name for name in known if name in others] + [
        name for name in others if name not in known and name != "loss"
    ]
    curves = []
    for name in names:
        options = {"title": name.replace("_", " "), **known.get(name, {})}
        curves.append(curve(others[name], **marks, **options))
    return curves


def evaluation_panels(history: History, metrics: Sequence[str], splits: Sequence[str]) -> list[EvaluationPanel]:
    """A panel for each of ``metrics`` that was measured at two steps or more."""
    panels = []
    for metric in metrics:
        lines = {split: history.evaluations.get(split, {}).get(metric) for split in splits}
        measured = {split: series for split, series in lines.items() if series is not None and series.points}
        if any(len(series.points) > 1 for series in measured.values()):
            panels.append(_panel(metric, measured))
    return panels


def _panel(metric: str, lines: Mapping[str, Series]) -> EvaluationPanel:
    values = [value for series in lines.values() for _, value in series.points]
    steps = sorted({step for series in lines.values() for step, _ in series.points})
    short = {name: name if len(name) <= 14 else f"{name[:13]}…" for name in lines}
    frame = make_frame(
        steps,
        min(0.0, *values),
        max(max(values) * 1.05, 0.01),
        numbers.significant,
        right=22 + 6.6 * max(map(len, short.values())),
    )
    ends = _apart({name: frame.y(series.points[-1][1]) for name, series in lines.items()})
    drawn = []
    for index, (name, series) in enumerate(lines.items()):
        places = [(frame.x(step), frame.y(value)) for step, value in series.points]
        texts = [f"{name}, step {numbers.count(step)}: {numbers.measured(value)}" for step, value in series.points]
        points = [(x, y, text) for (x, y), text in zip(places, texts, strict=True)]
        mark = _MARKS[index % len(_MARKS)]
        drawn.append(Line(name, short[name], mark, index % len(_MARKS), scale.path(places), points, ends[name]))
    summary = "; ".join(
        f"{name} {numbers.measured(series.points[0][1])} to {numbers.measured(series.points[-1][1])}"
        for name, series in lines.items()
    )
    return EvaluationPanel(metric.replace("_", " "), f"From first to last: {summary}.", frame, drawn)


def _apart(wanted: Mapping[str, float], room: float = 14.0) -> dict[str, float]:
    """Heights for labels, as near as may be to those wanted and at least ``room`` apart."""
    placed: dict[str, float] = {}
    floor = float("-inf")
    for name, y in sorted(wanted.items(), key=lambda entry: entry[1]):
        placed[name] = floor = max(y, floor + room)
    # The lowest may have been pushed off the panel: push all back up by what is over.
    ceiling = float(HEIGHT - BOTTOM)
    for name in sorted(placed, key=lambda key: -placed[key]):
        placed[name] = ceiling = min(placed[name], ceiling)
        ceiling -= room
    return placed
