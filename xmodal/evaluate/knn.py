"""Nearest neighbours: a sample's class is the one that its most similar training samples vote for."""

from __future__ import annotations

import torch
from torch import Tensor

from xmodal.errors import EvaluationError
from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.ranking import TIE, FirstHits, class_hits, strips
from xmodal.evaluate.space import Space
from xmodal.evaluate.split import Split
from xmodal.evaluate.training_set import TrainingSet, device_of, facts, need_training_set, own_side

_LEAST_ROWS = 64
"""Queries at once: with fewer, a training set of a million would be read anew for each handful of them."""


def knn(split: Split, space: Space, *, train: TrainingSet | None, k: int, temperature: float) -> Figures:
    """DINO's weighted neighbours: each of the ``k`` nearest votes for its class with exp(cosine / temperature)."""
    train = need_training_set(train, "knn")
    side = own_side(space)
    known, labels = train.read(side)
    if k > len(known.classes):
        raise EvaluationError(
            f"{k} neighbours were asked for, and the training set has {len(known.classes)} labelled samples. "
            "Ask for fewer: --knn-k"
        )
    asked = train.asked(split, side)
    device = device_of(side)
    hits = neighbor_hits(
        asked.embeddings.to(device),
        known.embeddings.to(device),
        asked.classes.to(device),
        known.classes.to(device),
        k=k,
        temperature=temperature,
    )
    return {
        **{f"knn_top{place}": PerSample(hits.within(place)) for place in (1, 5)},
        **facts(asked, known, labels),
    }


def neighbor_hits(
    queries: Tensor, pool: Tensor, query_class: Tensor, pool_class: Tensor, *, k: int, temperature: float
) -> FirstHits:
    """Where each query's class lands by the votes of its ``k`` nearest in ``pool``; rows have length one.

    Candidates tied at the border of the neighbourhood share its last places. A class without a vote is not found.
    """
    num_classes = int(torch.maximum(query_class.max(), pool_class.max())) + 1
    parts = []
    for rows, scores in strips(queries, pool, least_rows=_LEAST_ROWS):
        votes = _votes(scores, pool_class, num_classes, k, temperature)
        parts.append(class_hits(votes, query_class[rows], found_above=0.0))
    return FirstHits(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ahead", "beside", "right")))


def _votes(scores: Tensor, pool_class: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """Each class's share of the votes, ``[q, C]``, from cosines ``[q, N]``."""
    nearest = scores.topk(k, dim=1).values
    best, border = nearest[:, :1], nearest[:, -1:]
    above = (scores > border + TIE).sum(1)
    level = (scores >= border - TIE).sum(1) - above
    row, column = (scores >= border - TIE).nonzero(as_tuple=True)
    score = scores[row, column]
    chosen = torch.where(score > border[row, 0] + TIE, 1.0, ((k - above) / level)[row])
    weight = chosen.double() * ((score - best[row, 0]).double() / temperature).exp()
    votes = scores.new_zeros((len(scores), num_classes), dtype=torch.float64)
    votes.index_put_((row, pool_class[column]), weight, accumulate=True)
    return votes / votes.sum(1, keepdim=True)
