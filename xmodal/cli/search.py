"""``xmodal search``: pictures found by a sentence."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from xmodal.cli.printing import format_option, only_result_on_stdout, print_json, print_table
from xmodal.cli.shards import as_shards, data_option, of_run
from xmodal.errors import EvaluationError
from xmodal.recipe import Shards


@click.command()
@click.argument("query")
@click.option(
    "--student",
    required=True,
    metavar="RUN_OR_STUDENT",
    type=click.Path(path_type=Path),
    help="Folder of a run or a student.",
)
@data_option
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="How many pictures.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the pictures found, with their texts, to this PNG."
)
@click.option("--text", help="Member that holds a picture's text.  [default: the run's, or txt]")
@format_option
def search(
    query: str, student: Path, data: tuple[str, ...], count: int, save: Path | None, text: str | None, form: str
) -> None:
    """Find pictures by a sentence.

    Without --data, among the pictures that the run was evaluated on.
    """
    from xmodal.search import search as find

    run = of_run(student)
    shards = as_shards(data) if data else _all_splits(run.get("val"))
    if not shards:
        raise EvaluationError(f"{student} names no shards to search in; give some: --data SHARDS")
    with only_result_on_stdout(form):
        hits = find(query, student=student, data=shards, count=count, save=save, text=text or run.get("text", "txt"))
    if form == "json":
        print_json([asdict(hit) for hit in hits])
        return
    print_table([(f"{hit.score:.3f}", hit.key, hit.text or "") for hit in hits])
    if save is not None:
        click.echo(f"pictures   {save}")


def _all_splits(val: Shards | dict[str, Shards] | None) -> Shards:
    splits = list(val.values()) if isinstance(val, dict) else [val or []]
    return list(
        dict.fromkeys(pattern for split in splits for pattern in ([split] if isinstance(split, str) else split))
    )
