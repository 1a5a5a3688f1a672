"""``xmodal zoo``: trained students by name."""

from __future__ import annotations

from pathlib import Path

import click

from xmodal.cli.group import Group
from xmodal.cli.printing import format_option, print_json

from_option = click.option(
    "--from", "index", metavar="INDEX", help="Folder or address of another zoo.  [default: the index in this package]"
)
offline_option = click.option(
    "--offline", is_flag=True, default=None, help="Reach for no network.  [default: $XMODAL_OFFLINE]"
)


@click.group(cls=Group)
def zoo() -> None:
    """Trained students: list, download, publish."""


@zoo.command("list")
@from_option
@offline_option
@format_option
def list_(index: str | None, offline: bool | None, form: str) -> None:
    """Every student of the zoo."""
    from xmodal.zoo import list_entries, render_list

    entries = list_entries(index, offline=offline)
    if form == "json":
        print_json([entry.model_dump(mode="json") for entry in entries])
    else:
        click.echo(render_list(entries))


@zoo.command()
@click.argument("name")
@from_option
@offline_option
@format_option
def show(name: str, index: str | None, offline: bool | None, form: str) -> None:
    """Print all about the student NAME."""
    from xmodal.zoo import render_entry
    from xmodal.zoo import show as find

    entry = find(name, index=index, offline=offline)
    if form == "json":
        print_json(entry.model_dump(mode="json"))
    else:
        click.echo(render_entry(entry))


@zoo.command()
@click.argument("name")
@from_option
@click.option(
    "--to", metavar="DIR", type=click.Path(path_type=Path), help="Folder to download into.  [default: one in the cache]"
)
@offline_option
def download(name: str, index: str | None, to: Path | None, offline: bool | None) -> None:
    """Download the student NAME and print its folder."""
    from xmodal.zoo import download as fetch

    click.echo(str(fetch(name, index=index, to=to, offline=offline)))


@zoo.command()
@click.argument("name")
@from_option
@offline_option
def load(name: str, index: str | None, offline: bool | None) -> None:
    """Download the student NAME and see that it loads."""
    from xmodal.zoo import load as fetch_and_load

    encoder = fetch_and_load(name, index=index, offline=offline)
    width = f", {encoder.embed_dim}-d" if encoder.embed_dim else ""
    click.echo(
        f"{encoder.name} ({', '.join(encoder.modalities)}{width}, {encoder.num_parameters() / 1e6:.1f} M) loads."
    )
    click.echo(f'in Python  xmodal.zoo.load("{name}"' + (f', index="{index}")' if index else ")"))


@zoo.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="ZOO", help="Folder or address of the zoo, such as hf://user/zoo.")
@click.option("--name", help="Name of the entry.  [default: the recipe's]")
@click.option("--full", is_flag=True, help="Keep float32 weights; stored as float16 otherwise.")
@click.option("--overwrite", is_flag=True, help="Replace the entry of that name.")
@click.option("--description", help="One sentence about the student.  [default: the recipe's]")
@click.option("--licence", help="Licence of the weights, such as Apache-2.0.")
def publish(
    run: str, to: str, name: str | None, full: bool, overwrite: bool, description: str | None, licence: str | None
) -> None:
    """Put the student of the finished RUN into a zoo."""
    from xmodal.zoo import publish as put

    put(
        run,
        to,
        name=name,
        half=not full,
        overwrite=overwrite,
        description=description,
        licence=licence,
        say=click.echo,
    )
