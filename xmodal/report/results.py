"""The metrics of every split, with the baseline's and chance beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.evaluate.metrics import METRICS
from xmodal.report import numbers
from xmodal.report.files import RunFiles, mapping
from xmodal.report.history import History, last_evaluation

_HEADLINES = (
    "text_to_image_recall@10",
    "image_to_text_recall@10",
    "query_to_text_recall@10",
    "zero_shot_top1",
    "teacher_agreement",
    "neighbor_agreement@10",
)


@dataclass(frozen=True)
class Cell:
    """One metric of one split, in words; empty where it was not measured."""

    value: str = ""
    baseline: str = ""
    spread: str = ""
    gain: str = ""


@dataclass(frozen=True)
class Row:
    """One metric, a cell for each split; ``aside`` marks what is no merit of the student: chance and counts."""

    label: str
    aside: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Mark:
    """A place on the scale 0 … 1 as a percentage, for the drawing, and in words."""

    at: float
    text: str


@dataclass(frozen=True)
class Comparison:
    """One split's headline metric: student, baseline (with its spread) and chance on one scale."""

    split: str
    value: Mark
    baseline: Mark | None
    spread: tuple[float, float] | None
    chance: Mark | None


@dataclass(frozen=True)
class Results:
    """All that the section on results shows."""

    source: str
    rows: list[Row]
    headline: str
    comparisons: list[Comparison]
    curve_metrics: list[str]
    splits: list[str]
    baseline_name: str
    baseline_runs: str
    definitions: list[tuple[str, str]]
    has_chance: bool  # in the comparisons


def read_results(run: RunFiles, history: History) -> Results:
    """From summary.json, else evaluation.json, else the last evaluation in metrics.jsonl."""
    metrics, source = _metrics(run, history)
    summary = mapping(run.summary.get("baseline"))
    baseline = {split: mapping(entry) for split, entry in mapping(summary.get("metrics")).items()}
    splits = _in_recipe_order(metrics, run.recipe)
    present = list(dict.fromkeys(name for split in splits for name in metrics[split]))
    headlines = [name for name in _HEADLINES if name in present]
    headline = next(iter(headlines), "")
    shown = [c for split in splits if (c := _comparison(split, headline, metrics[split], baseline.get(split, {})))]
    return Results(
        source=source,
        rows=[
            _row(name, [(metrics[split].get(name), baseline.get(split, {}).get(name)) for split in splits])
            for name in _in_reading_order(present)
        ],
        headline=headline,
        comparisons=shown,
        curve_metrics=headlines[:3],
        splits=splits,
        baseline_name=str(summary.get("recipe") or "") if baseline else "",
        baseline_runs=_runs(baseline),
        definitions=[
            (_words(name), text) for name, text in METRICS.items() if name in present and not name.startswith("num_")
        ],
        has_chance=any(row.chance for row in shown),
    )


def _metrics(run: RunFiles, history: History) -> tuple[dict[str, dict[str, float]], str]:
    for name, found in (
        ("summary.json", run.summary.get("metrics")),
        ("evaluation.json", run.evaluation.get("metrics", run.evaluation)),
    ):
        by_split = {split: _finite_entries(entry) for split, entry in mapping(found).items()}
        by_split = {split: entry for split, entry in by_split.items() if entry}
        if by_split:
            return by_split, name
    return last_evaluation(history), "metrics.jsonl"


def _finite_entries(entry: Any) -> dict[str, float]:
    pairs = ((name, numbers.finite(value)) for name, value in mapping(entry).items())
    return {name: value for name, value in pairs if value is not None}


def _in_recipe_order(metrics: Iterable[str], recipe: Mapping[str, Any]) -> list[str]:
    listed = list(mapping(mapping(recipe.get("data")).get("val")))
    return sorted(metrics, key=lambda split: listed.index(split) if split in listed else len(listed))


def _in_reading_order(names: Sequence[str]) -> list[str]:
    """Metrics, each with its chance level after it; counts last."""
    chances = {_chance_name(name): name for name in names}
    apart = [name for name in names if name.startswith("num_") or name in chances]
    ordered = []
    for name in names:
        if name not in apart:
            ordered += [name, *([_chance_name(name)] if _chance_name(name) in names else [])]
    return ordered + [name for name in apart if name not in ordered]


def _row(name: str, figures: Sequence[tuple[float | None, Any]]) -> Row:
    aside = name.startswith(("num_", "chance_"))
    return Row(_words(name), aside, [_cell(name, value, None if aside else theirs) for value, theirs in figures])


def _cell(name: str, value: float | None, baseline: Any) -> Cell:
    if value is None:
        return Cell()
    shown = numbers.count(value) if name.startswith("num_") else numbers.measured(value)
    mean, std = _mean_and_std(baseline)
    if mean is None:
        return Cell(shown)
    spread = "" if std is None else f"±\u202f{numbers.measured(std)}"
    return Cell(shown, numbers.measured(mean), spread, numbers.signed(value - mean))


def _chance_name(name: str) -> str:
    return "chance_recall@10" if name == "text_to_image_recall@10" else f"chance_{name}"


def _comparison(
    split: str, metric: str, metrics: Mapping[str, float], baseline: Mapping[str, Any]
) -> Comparison | None:
    value = metrics.get(metric)
    if value is None or not 0 <= value <= 1:
        return None
    mean, std = _mean_and_std(baseline.get(metric))
    chance = metrics.get(_chance_name(metric))
    return Comparison(
        split=split,
        value=Mark(_percent(value), numbers.measured(value)),
        baseline=None if mean is None else Mark(_percent(mean), numbers.measured(mean)),
        spread=None if mean is None or not std else (_percent(mean - std), _percent(mean + std)),
        chance=None if chance is None else Mark(_percent(chance), numbers.measured(chance)),
    )


def _percent(value: float) -> float:
    return round(100 * min(max(value, 0.0), 1.0), 2)


def _mean_and_std(entry: Any) -> tuple[float | None, float | None]:
    if not isinstance(entry, dict):
        return numbers.finite(entry), None
    return numbers.finite(entry.get("mean")), numbers.finite(entry.get("std"))


def _runs(baseline: Mapping[str, Mapping[str, Any]]) -> str:
    """How many runs the baseline's figures come from: one number, or the range where metrics differ."""
    found = {
        int(runs)
        for entry in baseline.values()
        for figure in entry.values()
        if isinstance(figure, dict) and (runs := numbers.finite(figure.get("runs"))) is not None
    }
    if not found:
        return ""
    low, high = min(found), max(found)
    return f"{low} run{'' if low == 1 else 's'}" if low == high else f"{low} to {high} runs"


def _words(name: str) -> str:
    if name == "num_bad":
        return "number left out"
    return (f"number of {name[4:]}" if name.startswith("num_") else name).replace("_", " ")
