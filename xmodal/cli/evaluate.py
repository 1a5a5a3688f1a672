"""``xmodal evaluate``: measure a student."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xmodal.cli.printing import format_option, only_result_on_stdout, print_json
from xmodal.cli.shards import as_splits, data_option, of_run
from xmodal.errors import EvaluationError


@click.command()
@click.argument("student", metavar="RUN_OR_STUDENT", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=["retrieval"],
    help="retrieval, zero-shot, agreement or mixed-index; repeatable.",
)
@click.option("--text", help="Member that holds the text, such as txt or json.caption.  [default: the run's, or txt]")
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
    class_names: Path | None,
    templates: tuple[str, ...],
    captions: Literal["one", "all"] | None,
    batch_size: int,
    workers: int,
    form: str,
) -> None:
    """Measure a student: the folder of a run or of a student.

    --data NAME=SHARDS names a split. Without --data, a run is measured on the splits of its recipe. As JSON: an object
    of metrics, or with named splits an object of splits that hold one each.
    """
    from xmodal.evaluate import evaluate as measure

    run = of_run(student)
    splits = as_splits(data) if data else run.get("val")
    if not splits:
        raise EvaluationError(f"{student} names no shards to measure it on; give some: --data SHARDS")
    with only_result_on_stdout(form):
        evaluation = measure(
            student,
            splits,
            tasks=tasks,
            class_names=_lines(class_names),
            templates=templates or None,
            captions=captions,
            batch_size=batch_size,
            num_workers=workers,
            text=text or run.get("text", "txt"),
        )
    if form == "json":
        print_json(evaluation.metrics if isinstance(splits, dict) else next(iter(evaluation.metrics.values())))
    else:
        click.echo(evaluation.table())


def _lines(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"--class-names {file} cannot be read: {error}") from None
