"""Mixed-index retrieval: can a student search an index that its teacher built, and the other way round?"""

from __future__ import annotations

import torch
from torch import Tensor

from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.metrics import RANKS
from xmodal.evaluate.ranking import first_hits
from xmodal.evaluate.space import Side, Space
from xmodal.evaluate.split import Split, need_one_width


def mixed_index(split: Split, space: Space) -> Figures:
    """Recall where the pool is one model's and the queries are the other's. Right is what carries the query's text."""
    split.need_texts()
    metrics: dict[str, PerSample | float] = {}
    for owner in ("teacher", "student"):
        pool_side, query_side = sides(space, owner)
        pool, pool_group = _rows(split, pool_side)
        queries, query_group = _rows(split, query_side)
        need_one_width(queries, pool, query_side, pool_side)
        hits = first_hits(queries, pool, query_group, pool_group)
        metrics.update({f"{owner}_index_recall@{k}": PerSample(hits.within(k)) for k in RANKS})
    return metrics


def sides(space: Space, owner: str) -> tuple[Side, Side]:
    """The pool's side, which is the ``owner``'s, and the queries', which is the other model's.

    Pictures searched by texts where the two models allow it, else texts searched by pictures, else the one modality
    that both have, searched by itself.
    """
    teacher = space.teacher()
    pool_model, query_model = (teacher, space.student) if owner == "teacher" else (space.student, teacher)
    ways = [("image", "text"), ("text", "image"), ("image", "image"), ("text", "text")]
    pool, query = next(way for way in ways if way[0] in pool_model.modalities and way[1] in query_model.modalities)
    if owner == "teacher":
        return space.teacher_side(pool), space.student_side(query)
    return space.student_side(pool), space.teacher_side(query)


def _rows(split: Split, side: Side) -> tuple[Tensor, Tensor]:
    if side.modality == "text":
        return split.distinct(side), torch.arange(len(split.distinct_texts))
    return split.samples_with_text(side), split.text_numbers
