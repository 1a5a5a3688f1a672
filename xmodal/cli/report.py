"""``xmodal report``: write a run's page again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write a run's HTML report again, from its folder."""
    from xmodal.report import write_report

    click.echo(str(write_report(run)))
