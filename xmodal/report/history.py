"""metrics.jsonl as series: one for each number that was logged, and one for each metric of each split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from xmodal.report.files import mapping
from xmodal.report.numbers import finite

_NOT_SERIES = {"stage", "step", "time", "terms", "evaluation"}


@dataclass(frozen=True)
class Series:
    """Values by step, ascending. None where what was logged is not a finite number."""

    name: str
    steps: list[int]
    values: list[float | None]

    @property
    def points(self) -> list[tuple[int, float]]:
        return [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None]


@dataclass(frozen=True)
class History:
    """``terms`` by label, ``others`` by key (loss, learning_rate, …), ``evaluations`` by split and metric.

    The steps of all stages are counted on; ``stage_starts`` are the last steps before the second, third, … stage.
    """

    terms: dict[str, Series]
    others: dict[str, Series]
    evaluations: dict[str, dict[str, Series]]
    evaluation_steps: list[int]
    stage_starts: list[int]
    last_step: int | None


@dataclass
class _Log:
    values: dict[str, dict[int, float | None]] = field(default_factory=dict)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            # A step logged twice was done twice: the run went back to a checkpoint. What it came to last counts.
            self.values.setdefault(name, {})[step] = finite(value)

    def series(self) -> dict[str, Series]:
        ordered = {name: sorted(found.items()) for name, found in self.values.items()}
        return {name: Series(name, [s for s, _ in pairs], [v for _, v in pairs]) for name, pairs in ordered.items()}


def read_history(rows: Iterable[Mapping[str, Any]]) -> History:
    """Lines of metrics.jsonl, in the order written, as series. Lines without a step are left out."""
    placed = [(place, row) for row in rows if (place := _place(row)) is not None]
    offsets = _offsets(place for place, _ in placed)
    terms, others, evaluations, evaluation_steps = _Log(), _Log(), dict[str, _Log](), set[int]()
    for (stage, step_of_stage), row in placed:
        step = offsets[stage] + step_of_stage
        terms.add(step, mapping(row.get("terms")))
        others.add(
            step, {str(key): value for key, value in row.items() if key not in _NOT_SERIES and _is_number(value)}
        )
        for split, metrics in mapping(row.get("evaluation")).items():
            evaluation_steps.add(step)
            evaluations.setdefault(split, _Log()).add(step, mapping(metrics))
    return History(
        terms=terms.series(),
        others=others.series(),
        evaluations={split: log.series() for split, log in evaluations.items()},
        evaluation_steps=sorted(evaluation_steps),
        stage_starts=[offset for stage, offset in sorted(offsets.items())][1:],
        last_step=max((offsets[stage] + step for (stage, step), _ in placed), default=None),
    )


def last_evaluation(history: History) -> dict[str, dict[str, float]]:
    """The newest finite value of every metric of every split."""
    found = {
        split: {name: series.points[-1][1] for name, series in metrics.items() if series.points}
        for split, metrics in history.evaluations.items()
    }
    return {split: metrics for split, metrics in found.items() if metrics}


def _place(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """(stage, step of the stage); None for a line that does not say its step."""
    stage, step = finite(row.get("stage", 0)), finite(row.get("step"))
    return None if stage is None or step is None else (int(stage), int(step))


def _offsets(places: Iterable[tuple[int, int]]) -> dict[int, int]:
    """For each stage, how many steps came before it."""
    lengths: dict[int, int] = {}
    for stage, step in places:
        lengths[stage] = max(step, lengths.get(stage, 0))
    stages = sorted(lengths)
    return (
        dict(zip(stages, accumulate((lengths[stage] for stage in stages[:-1]), initial=0), strict=True))
        if stages
        else {}
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
