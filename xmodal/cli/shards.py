"""What commands take for shards: any number of patterns, names for splits, or a run's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xmodal.errors import DataError
from xmodal.recipe import Shards

shards_argument = click.argument("shards", nargs=-1, required=True)
data_option = click.option(
    "--data",
    "data",
    multiple=True,
    metavar="SHARDS",
    help="Path, folder, glob or brace pattern of shards; repeat it for several.",
)


def as_shards(patterns: Sequence[str]) -> Shards:
    """Patterns as one set of shards."""
    return patterns[0] if len(patterns) == 1 else list(patterns)


def as_splits(patterns: Sequence[str]) -> Shards | dict[str, Shards]:
    """``NAME=SHARDS`` makes a split of that name; without names all patterns are one set.

    A name holds no slash: a path such as ``date=2024/x.tar`` is written ``./date=2024/x.tar``.

    >>> as_splits(["mine=a/*.tar", "yours=b/*.tar"])
    {'mine': 'a/*.tar', 'yours': 'b/*.tar'}
    """
    named: dict[str, list[str]] = {}
    for pattern in patterns:
        name, equals, shards = pattern.partition("=")
        if equals and name and "/" not in name:
            named.setdefault(name, []).append(shards)
    if not named:
        return as_shards(patterns)
    if sum(map(len, named.values())) < len(patterns):
        raise DataError("Give a name to every --data, or to none: --data NAME=SHARDS.")
    return {name: as_shards(shards) for name, shards in named.items()}


def of_run(student: Path) -> dict[str, Any]:
    """What the run in a folder was evaluated on; empty for a mere student.

    ``val`` (shards or splits), ``text``, ``query``, ``label``; for the probe and the neighbours ``train`` and
    ``knn_k``.
    """
    from xmodal.recipes import load_recipe

    for folder in (student, student.parent):  # RUN, or RUN/student
        file = folder / "recipe.resolved.yaml"
        if file.is_file():
            recipe = load_recipe(file)
            data = recipe.data
            return {
                "val": data.val,
                "text": recipe.evaluate.text or data.text,
                "query": recipe.evaluate.query,
                "label": recipe.evaluate.label or data.label,
                "train": recipe.probe_shards(),
                "knn_k": recipe.evaluate.knn_k,
            }
    return {}
