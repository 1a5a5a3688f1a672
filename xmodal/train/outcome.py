"""What a run prints: its title, its plan, and at the end a table and the next commands to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from xmodal.recipe import Recipe
from xmodal.term import Schedule
from xmodal.train.folder import RunFolder

if TYPE_CHECKING:
    from xmodal.adapters.encoder import Encoder
    from xmodal.train.build import Parts

_SHOWN = {
    "text_to_image_recall@1": "recall@1",
    "text_to_image_recall@10": "recall@10",
    "query_to_text_recall@1": "text recall@1",
    "query_to_text_recall@10": "text recall@10",
    "zero_shot_top1": "zero-shot top1",
    "teacher_agreement": "agreement",
}
"""Metric → the heading of its column; recall is text to image, text recall query to text."""


def print_title(console: Console, whole: Recipe, stage: Recipe, parts: Parts) -> None:
    """One line: who teaches whom, on how many samples."""
    teachers = " + ".join(_describe(teacher) for teacher in parts.teachers.values())
    arrow = f"{teachers} → " if teachers else ""
    samples = f"{parts.num_samples:,}".replace(",", " ")
    length = f"{stage.train.epochs:g} epochs" if stage.train.epochs else f"{parts.num_steps} steps"
    console.print(
        f"[bold]{whole.name}[/bold]   {arrow}{_describe(parts.student)}   {samples} samples, "
        f"batch {stage.train.batch_size}, {length}",
        highlight=False,
        soft_wrap=True,
    )


def print_plan(console: Console, recipe: Recipe, parts: Parts) -> None:
    """What a dry run found: models, taps, terms, projections, steps."""
    print_title(console, recipe, recipe, parts)
    for model, taps in parts.objective.taps().items():
        console.print(f"  {model:<10} {', '.join(taps)}", highlight=False)
    for label, term in zip(parts.objective.labels, recipe.objective, strict=True):
        console.print(f"  term       {label}  weight {_weight(term.weight)}", highlight=False)
    trained = sum(p.numel() for m in (parts.student, parts.objective) for p in m.parameters() if p.requires_grad)
    console.print(
        f"  trained    {trained / 1e6:.1f} M parameters, {parts.num_steps} steps. Nothing was written.", highlight=False
    )


def print_outcome(console: Console, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """The figures beside the baseline's, where the student lies, and what to try next."""
    baseline = (summary["baseline"] or {}).get("metrics", {})
    shown = [name for name in _SHOWN if any(name in split for split in summary["metrics"].values())]
    if shown:
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        table.add_column("", no_wrap=True)
        compared = {name for name in shown if any(name in split for split in baseline.values())}
        for name in shown:
            table.add_column(_SHOWN[name], justify="right", no_wrap=True)
            if name in compared:
                table.add_column("without", justify="right", style="dim", no_wrap=True)
        for split, metrics in summary["metrics"].items():
            row = [f"  {split}"]
            for name in shown:
                row.append(_number(metrics.get(name)))
                if name in compared:
                    row.append(_number(baseline.get(split, {}).get(name, {}).get("mean")))
            table.add_row(*row)
        console.print(table)
        if baseline:
            runs = next((figure["runs"] for split in baseline.values() for figure in split.values()), 0)
            note = f"without a teacher: recipe {summary['baseline']['recipe']}, mean of {runs} seeds"
            console.print(f"  {note}", style="dim", highlight=False, soft_wrap=True)
    run = folder.path
    console.print(f"student   {folder.student}   ({summary['student']['load']})", highlight=False, soft_wrap=True)
    console.print(f"report    {folder.report}", highlight=False, soft_wrap=True)
    for start, command in zip(("next      ", "          ", "          "), _next_commands(run, summary), strict=False):
        console.print(f"{start}{command}", highlight=False, soft_wrap=True)


def _next_commands(run: Any, summary: Mapping[str, Any]) -> list[str]:
    shards = _searchable(summary["data"])
    return [
        f'xmodal search "a sad cat" --student {run} --data "{shards}"',
        f'xmodal evaluate {run} --data "{shards}" --task mixed-index',
        f"xmodal zoo publish {run} --to my-zoo",
    ]


def _searchable(data: Mapping[str, Any]) -> str:
    """Shards to search in: the last evaluation split's, else those trained on."""
    val = data.get("val") or data["train"]
    shards = list(val.values())[-1] if isinstance(val, Mapping) else val
    if isinstance(shards, Mapping):  # one of several sources, with its settings
        shards = shards["shards"]
    return shards if isinstance(shards, str) else str(shards[0])


def _describe(encoder: Encoder) -> str:
    return f"{encoder.name} ({', '.join(encoder.modalities)}, {encoder.num_parameters() / 1e6:.1f} M)"


def _weight(weight: float | Schedule) -> str:
    return f"{weight.first:g} → {weight.last:g}" if isinstance(weight, Schedule) else f"{weight:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
