"""What commands print: aligned columns, JSON, and nothing else on stdout where JSON was asked for."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


def print_json(value: Any) -> None:
    """One JSON value."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), right: Sequence[int] = ()) -> None:
    """Rows of texts in aligned columns; columns numbered in ``right`` are flush right."""
    lines = [*([header] if header else []), *rows]
    if not lines:
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def count(number: int, noun: str) -> str:
    """A number with its noun, thousands apart.

    >>> count(1, "sample"), count(12345, "sample")
    ('1 sample', '12 345 samples')
    """
    return f"{number:,} {noun}".replace(",", " ") + ("" if number == 1 else "s")


def size(num_bytes: int) -> str:
    """Bytes in the unit that keeps the number short.

    >>> size(512), size(8_100_000)
    ('512 B', '8.1 MB')
    """
    amount, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, for work that reports how many of how many are done; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def only_result_on_stdout(form: str) -> Iterator[None]:
    """While the work runs, what libraries print goes to stderr, where JSON will be the output."""
    if form != "json":
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield
