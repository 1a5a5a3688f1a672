"""Measure the worked examples over seeds, beside their baselines and teachers, and write docs/examples-results.md.

    python benchmarks/examples.py [NAME ...] [--seeds 0 1 2] [--out runs/examples]

Each run is a run folder of its own; a finished one is not run again, an interrupted one goes on. Figures come from the
run folders and from evaluating their students only, and are kept in benchmarks/examples.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import aggregate
from rich.console import Console

import xmodal
from xmodal.evaluate import evaluate
from xmodal.recipe import Recipe
from xmodal.recipes import load_recipe
from xmodal.recipes.cached import without_cache

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "examples.json"


@dataclass(frozen=True)
class Example:
    """A recipe of examples/, its baseline, and what of both is shown."""

    title: str
    shown: dict[str, str]
    """Metric → heading."""
    more: Callable[[], dict[str, Any]] | None = None
    """Options of an evaluation beside the recipe's own, ``data`` among them."""


def emoji() -> dict[str, Any]:
    """What emoji of a style never seen belong to, by emoji of other styles; no model here was trained on any."""
    return {
        "data": {"emoji of an unseen style": "package://emoji/style-*.tar"},
        "train": "package://emoji/train-*.tar",
        "label": "json.group",
        "tasks": ["knn", "probe"],
    }


def languages() -> dict[str, Any]:
    """Every language for itself; one that is in no recipe's split is named by its code."""
    files = sorted(Path("runs/data/names").glob("test-*-000000.tar"))
    data = {file.name.split("-")[1]: str(file) for file in files}
    return {"data": data, "tasks": ["text-retrieval"], "text": "json.english", "query": "txt"}


EXAMPLES = {
    "image-to-image": Example(
        "Pictures to pictures: EfficientNet-Lite2 → MobileNetV4",
        {"knn_top1": "kNN top-1", "probe_top1": "linear probe top-1"},
        emoji,
    ),
    "text-to-text": Example(
        "Texts to texts: MiniLM → 1.6 million parameters",
        {
            "query_to_text_recall@10": "word → definition recall@10",
            "text_to_query_recall@10": "definition → word recall@10",
            "rank_agreement": "rank correlation with the teacher",
        },
    ),
    "two-towers": Example(
        "Two towers to two towers: EfficientNet-Lite2 + MiniLM → under six million parameters",
        {
            "text_to_image_recall@10": "text → image recall@10",
            "image_to_text_recall@10": "image → text recall@10",
            "zero_shot_top1": "zero-shot top-1",
        },
    ),
    "text-across-languages": Example(
        "Texts across languages: MiniLM → 31 languages",
        {"query_to_text_recall@1": "name → English name recall@1", "query_to_text_recall@10": "recall@10"},
        languages,
    ),
}
VARIANTS = {"": "with teacher", "-without-teacher": "without"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(EXAMPLES), metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "examples")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every recipe")
    options = parser.parse_args()
    for name in options.names:
        for ending in VARIANTS:
            for seed in options.seeds:
                run(name, ending, seed, options.out, options.set)
        measure_teacher(name, options.out)
        keep(name, options.out, options.seeds)


def run(name: str, ending: str, seed: int, out: Path, changes: list[str]) -> None:
    """One run, and what is measured of its student beside the recipe's own splits."""
    folder = out / f"{name}{ending}-seed-{seed}"
    recipe = ROOT / "examples" / f"{name}{ending}.yaml"
    overrides = [f"train.seed={seed}", *changes]
    xmodal.distill(recipe, out=folder, overrides=overrides, resume=folder.exists(), console=Console())
    measure_more(name, folder / "student", folder / "more.json")


def measure_teacher(name: str, out: Path) -> None:
    """The teacher in its student's place."""
    recipe = load_recipe(ROOT / "examples" / f"{name}.yaml")
    spec = without_cache(next(iter(recipe.all_teachers().values())))
    teacher = xmodal.create_teacher(spec.pop("name"), **spec)
    file = out / f"{name}-teacher.json"
    if not file.exists():
        found = measure_splits(recipe, teacher)
        file.parent.mkdir(parents=True, exist_ok=True)
        measure_more(name, teacher, out / f"{name}-teacher-more.json")
        parameters = teacher.num_parameters()
        file.write_text(json.dumps({"metrics": found, "parameters": parameters}), encoding="utf-8")


def measure_splits(recipe: Recipe, encoder: xmodal.Encoder) -> dict[str, dict[str, float]]:
    asked, data = recipe.evaluate, recipe.data
    tasks = [task for task in asked.tasks if task not in ("agreement", "mixed-index")]
    splits = data.val if isinstance(data.val, dict) else {"val": data.val}
    return evaluate(
        encoder,
        splits,
        tasks=tasks,
        text=asked.text or data.text,
        query=asked.query,
        label=asked.label or data.label,
        train=recipe.probe_shards() if {"knn", "probe"} & set(tasks) else None,
    ).metrics


def measure_more(name: str, student: Any, file: Path) -> None:
    if file.exists():
        return
    more = EXAMPLES[name].more
    found = evaluate(student, **more()).metrics if more is not None else {}
    file.write_text(json.dumps(found), encoding="utf-8")


def keep(name: str, out: Path, seeds: list[int]) -> None:
    """Mean and deviation over the seeds, into the file of figures and the page."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    figures[name] = {}
    for ending, title in VARIANTS.items():
        folders = [out / f"{name}{ending}-seed-{seed}" for seed in seeds]
        summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
        more = [json.loads((folder / "more.json").read_text(encoding="utf-8")) for folder in folders]
        runs = [merged(summary["metrics"], other) for summary, other in zip(summaries, more, strict=True)]
        figures[name][title] = {
            "metrics": aggregate(runs),
            "parameters": summaries[0]["student"]["parameters"],
            "minutes": round(sum(summary["training"]["seconds"] for summary in summaries) / len(seeds) / 60, 1),
        }
    teacher = json.loads((out / f"{name}-teacher.json").read_text(encoding="utf-8"))
    more_of_teacher = json.loads((out / f"{name}-teacher-more.json").read_text(encoding="utf-8"))
    teacher["metrics"] = aggregate([merged(teacher["metrics"], more_of_teacher)])
    figures[name]["teacher"] = teacher
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "examples-results.md"
    page.write_text(page_of(figures), encoding="utf-8")


def merged(*tables: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Split → metric → figure of all the tables."""
    return {split: {m: x for table in tables for m, x in table.get(split, {}).items()} for t in tables for split in t}


def page_of(figures: dict[str, Any]) -> str:
    return HEAD + "".join(section(name, figures[name]) for name in EXAMPLES if name in figures)


def section(name: str, figures: dict[str, Any]) -> str:
    example = EXAMPLES[name]
    order = [title for title in (*VARIANTS.values(), "teacher") if title in figures]
    lines = [
        f"\n## {example.title}\n",
        f"`examples/{name}.yaml`, `examples/{name}-without-teacher.yaml`\n",
        "| data | measure | " + " | ".join(order) + " |",
        "|---|---|" + "--:|" * len(order),
    ]
    splits = list(figures[order[0]]["metrics"])
    if len(splits) > 12:  # every language is a line: one measure a table is enough
        splits = [split for split in splits if len(split) == 2]
    for split in splits:
        for metric, heading in example.shown.items():
            cells = [cell(figures[title]["metrics"].get(split, {}).get(metric)) for title in order]
            if any(cells):
                lines.append(f"| {split} | {heading} | " + " | ".join(cells) + " |")
    runs = {title: max(f["runs"] for s in figures[title]["metrics"].values() for f in s.values()) for title in order}
    lines.append("| | seeds | " + " | ".join("" if title == "teacher" else str(runs[title]) for title in order) + " |")
    sizes = " | ".join(f"{figures[title]['parameters'] / 1e6:.1f} M" for title in order)
    lines.append(f"| | parameters | {sizes} |")
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.3f}" + (f" ± {figure['std']:.3f}" if figure["runs"] > 1 else "")


HEAD = """# The worked examples, measured

`python benchmarks/examples.py` runs each example and its baseline with three seeds and writes this page from the run
folders: mean ± standard deviation over the seeds that have been run. *With teacher* is the example's own recipe;
*without* the same student on the same data for as many steps, its recipe beside the other; *teacher* is the teacher in
the student's place. What the data are: [Data of the examples](examples-data.md).
"""

if __name__ == "__main__":
    main()
