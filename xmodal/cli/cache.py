"""``xmodal cache``: store what a recipe's teachers say of its samples."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xmodal.cli.printing import count, print_table, size
from xmodal.cli.printing import progress as checking
from xmodal.cli.shards import as_shards

if TYPE_CHECKING:
    from xmodal.data.cache.contract import TopK
    from xmodal.data.cache.job import Job


@click.command()
@click.argument("recipe", required=False)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--teacher", metavar="NAME", help="Without a recipe: the teacher's name, such as sentence or timm.")
@click.option("--option", "options", metavar="K=V", multiple=True, help="An option of that teacher; repeat it.")
@click.option("--taps", metavar="TAP,TAP", help="What to store of that teacher.")
@click.option("--shards", metavar="SHARDS", multiple=True, help="The shards for that teacher; repeat it.")
@click.option("--text", metavar="MEMBER", help="The member that holds the text there.  [default: txt]")
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the cache; default: by the shards."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Processes that share the shards.  [default: this one]"
)
@click.option("--part", metavar="I/N", help="Only every N-th shard from the I-th on, from 1: for an array of jobs.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Samples the teacher sees at once."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--top-k", type=click.IntRange(min=1), help="Of logits, how many classes logits.values and the like keep."
)
@click.option("--temperature", type=float, help="Of the softmax they are taken from, with --top-k.  [default: 1.0]")
@click.option("--replace", is_flag=True, help="Write over a cache that was made with other settings.")
@click.option("--dry-run", is_flag=True, help="Measure one batch; say how many bytes and how long; write nothing.")
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Find what is missing, stale, short, foreign or broken. Exits with 1 if anything is.",
)
@click.pass_context
def cache(
    context: click.Context,
    recipe: str | None,
    overrides: tuple[str, ...],
    teacher: str | None,
    options: tuple[str, ...],
    taps: str | None,
    shards: tuple[str, ...],
    text: str | None,
    out: Path | None,
    workers: int,
    part: str | None,
    batch_size: int,
    device: str,
    top_k: int | None,
    temperature: float | None,
    replace: bool,
    dry_run: bool,
    only_check: bool,
) -> None:
    """Store what frozen teachers say of every sample, for training without them.

    RECIPE is a recipe's name or a path that ends in .yaml: every teacher of it, the taps its objective asks for, over
    its data.train. KEY=VALUE changes a key of it. Without one, give --teacher, --taps and --shards.

    Killed at any moment, the same command does what is left. It may run many times at once.
    """
    share = _part(part)
    if (recipe is None) == (teacher is None):
        raise click.UsageError("Give a recipe, or --teacher with --taps and --shards.")
    if teacher is None and (options or taps or shards or text):
        raise click.UsageError("--option, --taps, --shards and --text are for --teacher; a recipe has its own.")
    kept = _top_k(top_k, temperature)
    common: dict[str, Any] = {
        "out": str(out) if out else None,
        "batch_size": batch_size,
        "device": device,
        "replace": replace,
        "top_k": kept,
    }
    if recipe is not None:
        jobs = _jobs_of_recipe(recipe, overrides, common)
    else:
        jobs = [_job_of_teacher(str(teacher), options, taps, shards, text, common)]
    if dry_run:
        _estimate(jobs, share, workers)
    elif only_check:
        if _check(jobs, share):
            context.exit(1)
    else:
        _run(jobs, share, workers)


def _jobs_of_recipe(recipe: str, overrides: Sequence[str], common: dict[str, Any]) -> list[Job]:
    from xmodal.data.cache.recipe import jobs_of
    from xmodal.errors import RecipeError
    from xmodal.recipes import check, load_recipe

    loaded = load_recipe(recipe, overrides)
    if mistakes := check(loaded):
        raise RecipeError(mistakes, f"recipe {recipe}")
    jobs = jobs_of(loaded, **common)
    if not jobs:
        raise click.UsageError(f"Recipe {recipe} has no teacher to cache.")
    return jobs


def _job_of_teacher(
    name: str,
    options: Sequence[str],
    taps: str | None,
    shards: Sequence[str],
    text: str | None,
    common: dict[str, Any],
) -> Job:
    from xmodal.adapters import TEACHERS
    from xmodal.data import open_shards
    from xmodal.data.cache.job import Job
    from xmodal.errors import RecipeError
    from xmodal.plain import read_yaml
    from xmodal.recipes.options import option_mistakes

    if not taps or not shards:
        raise click.UsageError("--teacher needs --taps and --shards.")
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise click.UsageError(f"--option {option!r} is not K=V.")
        given[key] = read_yaml(value)
    if mistakes := list(option_mistakes("--option", f"teacher {name!r}", TEACHERS[name], given)):
        raise RecipeError(mistakes, "the command")
    named = tuple(tap.strip() for tap in taps.split(",") if tap.strip())
    return Job({"name": name, **given}, named, open_shards(as_shards(shards)), text=text or "txt", **common)


def _part(text: str | None) -> tuple[int, int]:
    """``2/8`` → (1, 8), times what torchrun makes of it."""
    from xmodal.data.cache.job import part_of_launcher

    rank, ranks = part_of_launcher()
    if text is None:
        return rank, ranks
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{text!r} is not I/N with I from 1 to N, such as 1/8.", param_hint="--part")
    return (int(match[1]) - 1) * ranks + rank, int(match[2]) * ranks


def _top_k(k: int | None, temperature: float | None) -> TopK | None:
    if temperature is not None and k is None:
        raise click.UsageError("--temperature is of the classes that --top-k keeps: give --top-k too.")
    if temperature is not None and not 0 < temperature < float("inf"):  # NaN is neither
        raise click.BadParameter(f"{temperature} is not a number above 0.", param_hint="--temperature")
    from xmodal.data.cache.contract import TopK

    return None if k is None else TopK(k, 1.0 if temperature is None else temperature)


def _run(jobs: Sequence[Job], part: tuple[int, int], workers: int) -> None:
    from xmodal.data.cache.job import by_job, units_of
    from xmodal.data.cache.job import cache as write

    with _bars(jobs, units_of(jobs, part)) as report:
        done = write(jobs, workers=workers, part=part, report=report)
    for job, own in by_job(jobs, (unit for unit, status in done.units.items() if status != "nothing")):
        samples = sum(job.shards.counts[shard] for _, shard in own)
        written = sum(done.units[unit] == "written" for unit in own)
        held = f"{count(samples, 'sample')} in {count(len(own), 'shard')}"
        told = f"{written} written, {len(own) - written} there already"
        click.echo(f"{job.teacher['name']}   {', '.join(job.taps)}   {held}: {told}")
    where = next((f'"{job.out}"' for job in jobs if job.out), "true")
    click.echo(f"in the recipe   teacher: {{…, cached: {where}}}")


def _estimate(jobs: Sequence[Job], part: tuple[int, int], workers: int) -> None:
    from xmodal.data.cache.estimate import estimate

    found = estimate(jobs, part)
    rows = [
        (
            each.teacher,
            ", ".join(each.taps),
            f"{each.sample_bytes:.0f} B",
            count(each.samples, "sample"),
            size(each.bytes),
            _duration(each.seconds / max(1, workers)),
        )
        for each in found
    ]
    print_table(rows, ("teacher", "taps", "a sample", "samples", "in all", "takes"), right=(2, 3, 4, 5))
    total, seconds = sum(each.bytes for each in found), sum(each.seconds for each in found) / max(1, workers)
    processes = "1 process" if workers < 2 else f"{workers} processes"
    click.echo(f"{size(total)}, {_duration(seconds)} with {processes}. Nothing was written.")


def _check(jobs: Sequence[Job], part: tuple[int, int]) -> bool:
    from xmodal.data.cache.check import check

    with checking("checking") as done:
        findings = check(jobs, done, part=part)
    if findings:
        print_table([tuple(asdict(finding).values())[1:] for finding in findings])
        click.echo(f"{count(len(findings), 'finding')}. Run the same command without --check.")
    else:
        click.echo("Nothing is wrong.")
    return bool(findings)


@contextlib.contextmanager
def _bars(
    jobs: Sequence[Job], units: Sequence[tuple[int, int]]
) -> Iterator[Callable[[str, tuple[int, int], Any], None]]:
    """Two bars on a terminal's stderr, shards and samples with the time left; a line a shard elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    sizes = {(job, shard): jobs[job].shards.counts[shard] for job, shard in units}
    seen: dict[tuple[int, int], int] = {}
    finished: set[tuple[int, int]] = set()
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal) as bar:
        shards = bar.add_task("shards", total=len(units), note="")
        samples = bar.add_task("samples", total=sum(sizes.values()), note="")

        def report(kind: str, unit: tuple[int, int], value: Any) -> None:
            if kind == "waiting":
                bar.update(shards, note=f"waiting for {value}")
                return
            seen[unit] = sizes[unit] if kind == "shard" else min(sizes[unit], seen.get(unit, 0) + value)
            bar.update(samples, completed=sum(seen.values()))
            if kind == "shard":
                finished.add(unit)
                bar.update(shards, completed=len(finished), note="")
                if not console.is_terminal and value == "written":
                    name = jobs[unit[0]].shards.names[unit[1]]
                    console.print(f"{len(finished)}/{len(units)}  {name}", highlight=False, soft_wrap=True)

        yield report


def _duration(seconds: float) -> str:
    """A time as people say it.

    >>> _duration(0.5), _duration(75), _duration(7300)
    ('0:01', '1:15', '2:01:40')
    """
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
