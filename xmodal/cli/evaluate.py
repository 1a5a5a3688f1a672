"""``xmodal evaluate``: measure a student."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xmodal.cli.printing import format_option, only_result_on_stdout, print_json
from xmodal.cli.shards import as_shards, as_splits, data_option, of_run
from xmodal.errors import EvaluationError


@click.command()
@click.argument("student", metavar="RUN_OR_STUDENT", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=["retrieval"],
    help="retrieval, text-retrieval, zero-shot, knn, probe, agreement or mixed-index; repeatable.",
)
@click.option("--text", help="Member that holds the text, such as txt or json.caption.  [default: the run's, or txt]")
@click.option(
    "--query", help="For text-retrieval: another text of each sample, such as json.name.  [default: the run's]"
)
@click.option(
    "--class-names",
    type=click.Path(path_type=Path),
    help="For zero-shot: a file with a name a line, in the order of the labels.  [default: the data's own]",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help='For zero-shot: such as "a photo of a {}"; repeatable.  [default: the data\'s own, or {}]',
)
@click.option(
    "--templates",
    "template_file",
    type=click.Path(path_type=Path),
    help="For zero-shot: a file with a template a line, with {} or {c} for the name.",
)
@click.option(
    "--label",
    help="Member that holds the label, an integer or a name, or a path: json.group.  [default: the run's, or cls]",
)
@click.option(
    "--train",
    multiple=True,
    metavar="SHARDS",
    help="For knn and probe: labelled shards to learn from; repeatable.  [default: the run's evaluate.train]",
)
@click.option("--knn-k", type=click.IntRange(min=1), help="For knn: how many neighbours vote.  [default: 20]")
@click.option("--knn-temperature", type=float, default=0.07, show_default=True, help="For knn: it divides the cosines.")
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Resamples for 95 % intervals, such as 1000; 0: none.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the resamples and of the probe's held-out part.",
)
@click.option(
    "--captions",
    type=click.Choice(["one", "all"]),
    help="For retrieval: one text a sample, or every line of it (every entry of a JSON list).  "
    "[default: all where the data says that it is for retrieval]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read and decode."
)
@format_option
def evaluate(
    student: Path,
    data: tuple[str, ...],
    tasks: tuple[str, ...],
    text: str | None,
    query: str | None,
    class_names: Path | None,
    templates: tuple[str, ...],
    template_file: Path | None,
    label: str | None,
    train: tuple[str, ...],
    knn_k: int | None,
    knn_temperature: float,
    bootstrap: int,
    seed: int,
    captions: Literal["one", "all"] | None,
    batch_size: int,
    workers: int,
    form: str,
) -> None:
    """Measure a student: the folder of a run or of a student.

    --data NAME=SHARDS names a split. Without --data, a run is measured on the splits of its recipe. As JSON: an object
    of metrics, or with named splits an object of splits that hold one each. --bootstrap adds METRIC_low and
    METRIC_high.
    """
    from xmodal.evaluate import evaluate as measure

    run = of_run(student)
    splits = as_splits(data) if data else run.get("val")
    if not splits:
        raise EvaluationError(f"{student} names no shards to measure it on; give some: --data SHARDS")
    if templates and template_file is not None:
        raise EvaluationError("Give --template or --templates FILE, not both.")
    from_file = [line.replace("{c}", "{}") for line in _lines(template_file, "--templates") or ()]
    with only_result_on_stdout(form):
        evaluation = measure(
            student,
            splits,
            tasks=tasks,
            class_names=_lines(class_names, "--class-names"),
            templates=templates or from_file or None,
            captions=captions,
            batch_size=batch_size,
            num_workers=workers,
            text=text or run.get("text", "txt"),
            query=query or run.get("query"),
            label=label or run.get("label", "cls"),
            train=as_shards(train) if train else run.get("train"),
            knn_k=knn_k or run.get("knn_k", 20),
            knn_temperature=knn_temperature,
            bootstrap=bootstrap,
            seed=seed,
        )
    if form == "json":
        print_json(evaluation.metrics if isinstance(splits, dict) else next(iter(evaluation.metrics.values())))
    else:
        click.echo(evaluation.table())


def _lines(file: Path | None, option: str) -> list[str] | None:
    if file is None:
        return None
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{option} {file} cannot be read: {error}") from None
