"""How a zoo reads on a terminal: a table of its students, and one student's page. Plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xmodal.transfer.download import readable_size
from xmodal.zoo.index import Entry

FIRST_METRICS = ("text_to_image_recall@10", "zero_shot_top1", "image_to_text_recall@10", "teacher_agreement")


def render_list(entries: Sequence[Entry]) -> str:
    """One line an entry, with one metric and the baseline's beside it."""
    if not entries:
        return "This zoo has no students yet. Publish one: xmodal zoo publish RUN --to FOLDER"
    rows = [("name", "modality", "library", "teacher", "size", "metric", "", "baseline")]
    for entry in entries:
        split, metric = headline(entry.metrics)
        rows.append(
            (
                entry.name,
                entry.modality,
                entry.library,
                (entry.teacher or "").rpartition("/")[2],
                readable_size(entry.size),
                f"{metric}, {split}" if metric else "",
                _number(entry.metrics.get(split, {}).get(metric)),
                _baseline(entry.baseline, split, metric),
            )
        )
    return align(rows, right=(4, 6))


def render_entry(entry: Entry) -> str:
    """Everything that the index says about one student."""
    space = entry.space or {}
    teacher = space.get("teacher") or {}
    whose = teacher.get("model") or teacher.get("name") or "?"
    facts = {
        "name": entry.name,
        "about": entry.description,
        "modality": entry.modality,
        "space": " ".join(str(part) for part in (whose, space.get("tap"), space.get("dim")) if part)
        if space
        else "its own",
        "teacher": entry.teacher,
        "data": entry.data,
        "recipe": entry.recipe,
        "licence": entry.licence or "not said",
        "parameters": f"{entry.parameters:,}".replace(",", " ") if entry.parameters else None,
        "weights": entry.weights,
        "published": f"{entry.published or '?'} by xmodal {entry.xmodal_version or '?'}",
        "load": f"{entry.load}   ({entry.library})",
    }
    files = [(path, readable_size(file.size), file.sha256) for path, file in entry.files.items()]
    blocks = [
        align([(fact, value) for fact, value in facts.items() if value]),
        align([("file", "size", "sha256"), *files, ("in all", readable_size(entry.size), "")], right=(1,)),
    ]
    if entry.metrics:
        figures = [
            (split, metric, _number(value), _baseline(entry.baseline, split, metric))
            for split, values in entry.metrics.items()
            for metric, value in values.items()
        ]
        blocks.append(align([("split", "metric", "value", "baseline"), *figures], right=(2,)))
    if entry.baseline:
        blocks[-1] += f"\nbaseline: the same without the teacher, recipe {entry.baseline.get('recipe', '?')}"
    return "\n\n".join(blocks)


def headline(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The split and metric that stand for the rest: the last split, as the hardest, and the first metric we know."""
    if not metrics:
        return "", ""
    split = list(metrics)[-1]
    known = [metric for metric in FIRST_METRICS if metric in metrics[split]] or list(metrics[split])
    return split, known[0] if known else ""


def align(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of one length as lines with columns; those in ``right`` end together."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _baseline(baseline: Mapping[str, Any] | None, split: str, metric: str) -> str:
    """The same figure without the teacher: mean over its runs, and their spread."""
    figure = ((baseline or {}).get("metrics") or {}).get(split, {}).get(metric)
    if isinstance(figure, Mapping):
        mean, spread = figure.get("mean"), figure.get("std")
        return _number(mean) + (f" ± {_number(spread)}" if mean is not None and spread else "")
    return _number(figure)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:g}" if value == int(value) or abs(value) >= 100 else f"{value:.3f}"
