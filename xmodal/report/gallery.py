"""The gallery: text queries and the pictures the student found for them, right and wrong told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.report import numbers
from xmodal.report.files import RunFiles, mapping
from xmodal.report.pictures import find_pictures

_HITS, _QUERIES = 6, 12  # shown of a query, of a split
PICTURE_BYTES = 1_300_000
"""What all pictures together may add to the page."""


@dataclass(frozen=True)
class Hit:
    """One picture that was found; ``uri`` is None where the picture itself cannot be shown."""

    text: str
    score: str
    correct: bool
    uri: str | None


@dataclass(frozen=True)
class Query:
    """One text and its nearest pictures, nearest first."""

    text: str
    hits: list[Hit]


@dataclass(frozen=True)
class SplitGallery:
    """Queries of one split; ``summary`` counts how many found a right picture."""

    split: str
    summary: str
    queries: list[Query]
    left_out: int


def read_gallery(run: RunFiles, splits: Sequence[str]) -> list[SplitGallery]:
    """The galleries in the order of ``splits``, then any other. Notes on missing pictures go to ``run.notes``."""
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    for row in run.gallery:
        rows.setdefault(str(row.get("split", "val")), []).append(row)
    rows = {split: of_split for split, of_split in rows.items() if of_split}
    wanted = {
        split: {key for row in of_split[:_QUERIES] for hit in _hits(row) if (key := _key(hit)) is not None}
        for split, of_split in rows.items()
    }
    pictures = find_pictures(mapping(run.recipe.get("data")).get("val"), wanted, run.notes) if rows else {}
    return [_gallery(split, of_split, pictures, PICTURE_BYTES // len(rows)) for split, of_split in rows.items()]


def _gallery(
    split: str, rows: Sequence[Mapping[str, Any]], pictures: Mapping[tuple[str, str], str], budget: int
) -> SplitGallery:
    queries: list[Query] = []
    for row in rows[:_QUERIES]:
        hits = [
            Hit(
                text=str(hit.get("text") or "without text"),
                score=numbers.measured(hit.get("score")),
                correct=hit.get("correct") is True,
                uri=pictures.get((split, _key(hit) or "")),
            )
            for hit in _hits(row)
        ]
        budget -= sum(len(hit.uri) for hit in hits if hit.uri)
        if budget < 0 and queries:
            break
        queries.append(Query(str(row.get("query", "")), hits))
    first = sum(bool(query.hits) and query.hits[0].correct for query in queries)
    some = sum(any(hit.correct for hit in query.hits) for query in queries)
    shown = max((len(query.hits) for query in queries), default=0)
    summary = f"{first} of {len(queries)} queries have a right picture first, {some} have one among the {shown} shown."
    return SplitGallery(split, summary, queries, len(rows) - len(queries))


def _hits(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    hits = row.get("hits")
    return [hit for hit in hits if isinstance(hit, dict)][:_HITS] if isinstance(hits, list) else []


def _key(hit: Mapping[str, Any]) -> str | None:
    return hit["key"] if isinstance(hit.get("key"), str) else None
