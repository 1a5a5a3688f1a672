"""``xmodal data``: pack, index, check, show shards, and say which sample comes when."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from xmodal.cli.group import Group
from xmodal.cli.printing import count, format_option, only_result_on_stdout, print_json, print_table, progress, size
from xmodal.cli.shards import as_shards, shards_argument


@click.group(cls=Group)
def data() -> None:
    """Sharded data: pack, index, check, show.

    SHARDS is a path, a folder, a glob or a brace pattern, any number of them.
    """


@data.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder for the shards; new or empty."
)
@click.option("--shard-size", type=click.IntRange(min=1), default=10_000, show_default=True, help="Samples a shard.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order in which samples are packed.")
@click.option("--keep-order", is_flag=True, help="Pack in the order of the source instead.")
@click.option(
    "--incomplete",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="What to do about samples that lack a part or do not open.",
)
@click.option("--description", default="", help="One sentence for the manifest.")
@click.option("--licence", default="", help="Licence of the data, for the manifest.")
def pack(
    source: Path,
    out: Path,
    shard_size: int,
    seed: int,
    keep_order: bool,
    incomplete: Literal["refuse", "skip"],
    description: str,
    licence: str,
) -> None:
    """Pack SRC into shards with index and manifest.

    SRC is a folder of NAME.png + NAME.txt (and other members of the same NAME), a folder with a folder of pictures a
    class, or a csv or jsonl file with columns image, text, audio, label.
    """
    from xmodal.data.pack import pack as write

    with progress("packing") as done:
        manifest = write(
            source,
            out,
            shard_size=shard_size,
            seed=None if keep_order else seed,
            incomplete=incomplete,
            description=description,
            licence=licence,
            progress=done,
        )
    fields = sorted({field for shard in manifest.shards for field in shard.fields})
    click.echo(
        f"{out}   {count(manifest.num_samples, 'sample')} in {count(len(manifest.shards), 'shard')}, "
        f"{size(sum(shard.size for shard in manifest.shards))}: {', '.join(fields)}"
    )


@data.command()
@shards_argument
def index(shards: tuple[str, ...]) -> None:
    """Write an index beside every shard, and the folder's manifest.

    With them, opening shards reads nothing else. What stood there is replaced.
    """
    from xmodal.data.formats.img2dataset import disagreement
    from xmodal.data.index import index_path
    from xmodal.data.indexing import index_shards
    from xmodal.data.uri import expand_local

    patterns = as_shards(shards)
    for path, entry in zip(expand_local(patterns), index_shards(patterns), strict=True):
        remark = disagreement(path, entry.samples)
        click.echo(f"{index_path(path)}   {count(entry.samples, 'sample')}" + (f"   ({remark})" if remark else ""))


@data.command()
@shards_argument
@format_option
@click.pass_context
def check(context: click.Context, shards: tuple[str, ...], form: str) -> None:
    """Read every sample and list what is broken.

    An error stops a run or costs it a sample; a warning is seldom meant. Exits with 1 if there is either.
    """
    from xmodal.data.check import check as examine

    with only_result_on_stdout(form), progress("checking") as done:
        findings = examine(as_shards(shards), done)
    if form == "json":
        print_json([asdict(finding) for finding in findings])
    elif findings:
        rows = [(finding.level, finding.shard, finding.key or "", finding.problem) for finding in findings]
        print_table(rows, ("", "shard", "key", "problem"))
        levels = [count(n, level) for level in ("error", "warning") if (n := sum(row[0] == level for row in rows))]
        click.echo(", ".join(levels))
    else:
        click.echo("Nothing is wrong.")
    if findings:
        context.exit(1)


@data.command()
@shards_argument
@format_option
def show(shards: tuple[str, ...], form: str) -> None:
    """Print what shards hold: samples, bytes, members."""
    from xmodal.data.show import show as describe

    rows = describe(as_shards(shards))
    if form == "json":
        print_json(rows)
        return
    lines = [[row["shard"], str(row["samples"]), size(row["bytes"]), row["members"], row["first_key"]] for row in rows]
    columns = ["shard", "samples", "size", "members", "first key"]
    if any(row["note"] for row in rows):
        columns.append("note")
        lines = [[*line, row["note"]] for line, row in zip(lines, rows, strict=True)]
    print_table(lines, columns, right=(1, 2))
    if len(rows) > 1:
        click.echo(f"{count(sum(row['samples'] for row in rows), 'sample')} in {count(len(rows), 'shard')}")


@data.command()
@shards_argument
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), required=True, help="Global: over all ranks.")
@click.option("--world-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--rank", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--start", type=click.IntRange(min=0), default=0, show_default=True, help="First batch.")
@click.option("--batches", type=click.IntRange(min=0), help="How many batches.  [default: to the end of the epoch]")
@click.option("--slots", type=click.IntRange(min=1), help="data.slots of the recipe.")
def keys(
    shards: tuple[str, ...],
    seed: int,
    epoch: int,
    batch_size: int,
    world_size: int,
    rank: int,
    start: int,
    batches: int | None,
    slots: int | None,
) -> None:
    """Print the keys of an epoch in a run's order.

    A batch a line, as a JSON list of its keys.
    """
    from xmodal.data.keys import keys as order

    for batch in order(
        as_shards(shards),
        seed=seed,
        epoch=epoch,
        batch_size=batch_size,
        world_size=world_size,
        rank=rank,
        start=start,
        batches=batches,
        slots=slots,
    ):
        click.echo(json.dumps(batch, ensure_ascii=False))
