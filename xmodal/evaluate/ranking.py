"""Where the right answers land in a ranking. Computed in strips of rows: no whole similarity matrix is ever held.

Ties are broken at random, and every figure is the expectation over that: a model that embeds everything alike scores
exactly what chance scores, and a figure does not hang on the order of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 3e-7
"""Scores this close are one score: float32 dot products of unit vectors are not surer than that."""

_NOWHERE = 2**31
"""More wrong answers ahead than any place that is asked for."""

STRIP = 2**22
"""Similarities held at once: 16 MiB in float32, of which a processor's cache holds a good part."""


@dataclass(frozen=True)
class FirstHits:
    """For each query: what stands before, and beside, its best right answer. Three ``[Q]`` counts."""

    ahead: Tensor
    """Wrong answers with a higher score."""
    beside: Tensor
    """Wrong answers with the same score."""
    right: Tensor
    """Right answers with that score."""

    def within(self, k: int) -> Tensor:
        """The probability, ``[Q]`` in float64, that a right answer is among the first ``k``."""
        places = k - self.ahead
        beside, level = self.beside.double(), (self.beside + self.right).double()
        missed = torch.ones_like(level)  # the probability that all those places go to wrong answers, one after another
        for place in range(k):
            wrong = (beside - place).clamp(min=0) / (level - place).clamp(min=1)
            missed = torch.where(place < places, missed * wrong, missed)
        return 1 - missed

    def recall(self, k: int) -> float:
        """The share of queries with a right answer among the first ``k``."""
        return float(self.within(k).mean())


def random_order(right: Tensor, pool: int) -> FirstHits:
    """What a random order of ``pool`` candidates gives queries that have ``right`` ``[Q]`` right answers each.

    >>> round(random_order(torch.tensor([1, 1]), pool=20).recall(10), 9)
    0.5
    """
    return FirstHits(torch.zeros_like(right), pool - right, right)


def first_hits(queries: Tensor, pool: Tensor, query_group: Tensor, pool_group: Tensor) -> FirstHits:
    """Rank ``pool`` ``[N, D]`` by dot product with each of ``queries`` ``[Q, D]``.

    A candidate is right where its group is the query's; groups are whole numbers from 0, and every query's group must
    be in the pool. Memory: one strip of :data:`STRIP` similarities.

    >>> axes = torch.eye(3)
    >>> hits = first_hits(axes[:2], axes, torch.tensor([0, 2]), torch.tensor([0, 1, 2]))
    >>> hits.ahead.tolist(), hits.beside.tolist()
    ([0, 1], [0, 1])
    """
    num_groups = int(torch.maximum(query_group.max(), pool_group.max())) + 1
    members = pool_group.argsort(stable=True)
    sizes = torch.bincount(pool_group, minlength=num_groups)
    starts = sizes.cumsum(0) - sizes
    found = []
    for rows, scores in strips(queries, pool):
        group = query_group[rows]
        count = sizes[group]
        assert bool((count > 0).all()), "a query without a right answer"
        row = torch.arange(len(group), device=scores.device).repeat_interleave(count)
        within_group = torch.arange(len(row), device=scores.device) - (count.cumsum(0) - count)[row]
        found.append(_around_the_best(scores, row, scores[row, members[starts[group][row] + within_group]]))
    return FirstHits(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def first_hits_of_pairs(queries: Tensor, pool: Tensor, pairs: Tensor) -> FirstHits:
    """The same, where a candidate may be right for several queries: ``pairs`` ``[P, 2]``, a query's and a candidate's
    number, distinct; every query is in one.

    >>> axes = torch.eye(3)
    >>> first_hits_of_pairs(axes[:2], axes, torch.tensor([[0, 2], [0, 0], [1, 2]])).ahead.tolist()
    [0, 1]
    """
    pairs = pairs[pairs[:, 0].argsort(stable=True)].to(queries.device)
    found = []
    for rows, scores in strips(queries, pool):
        first, last = torch.searchsorted(
            pairs[:, 0].contiguous(), torch.tensor([rows.start, rows.stop]).to(pairs)
        ).tolist()
        row, candidate = pairs[first:last, 0] - rows.start, pairs[first:last, 1]
        found.append(_around_the_best(scores, row, scores[row, candidate]))
    return FirstHits(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def _around_the_best(scores: Tensor, row: Tensor, right_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What :class:`FirstHits` counts, of each row of ``scores``; ``right_scores`` are right answers of the ``row``."""
    best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, row, right_scores, "amax")
    ahead = (scores > best[:, None] + TIE).sum(1)
    level = (scores >= best[:, None] - TIE).sum(1) - ahead
    right = torch.zeros_like(ahead).scatter_add(0, row, (right_scores >= best[row] - TIE).long())
    return ahead, level - right, right


def neighbor_overlap(first: Tensor, second: Tensor, k: int) -> Tensor:
    """The share, ``[N]``, of a sample's ``k`` nearest others in ``first`` ``[N, D]`` that are so in ``second``, too.

    The two spaces may differ in width; N must exceed k.
    """
    assert len(first) == len(second) > k
    shares = []
    for (rows, one), (_, two) in zip(strips(first, first), strips(second, second), strict=True):
        index = torch.arange(len(one), device=one.device)
        own = torch.arange(rows.start, rows.stop, device=one.device)
        one[index, own] = two[index, own] = -torch.inf
        shares.append((_chosen(one, k) * _chosen(two, k)).sum(1).cpu().double() / k)
    return torch.cat(shares)


def rank_correlation(first: Tensor, second: Tensor, most: int) -> Tensor:
    """Spearman's correlation, ``[N]`` in float64, of each sample's similarities to others in ``first`` and ``second``.

    The others are ``most`` samples evenly spaced, or all; equal similarities share their mean rank. N must exceed 2.

    >>> rank_correlation(torch.eye(3), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), most=10).tolist()
    [0.0, 0.0, 0.0]
    """
    assert len(first) == len(second) > 2
    others = torch.linspace(0, len(first) - 1, min(most, len(first)), dtype=torch.float64).round().long()
    found = []
    for (rows, one), (_, two) in zip(strips(first, first[others]), strips(second, second[others]), strict=True):
        own = others[None] == torch.arange(rows.start, rows.stop)[:, None]
        ranks = [_centred_ranks(scores, own.to(scores.device)) for scores in (one, two)]
        sizes = [each.square().sum(1).sqrt() for each in ranks]
        product = (ranks[0] * ranks[1]).sum(1) / (sizes[0] * sizes[1]).clamp(min=1e-12)
        found.append(product.cpu())
    return torch.cat(found)


def _centred_ranks(scores: Tensor, left_out: Tensor) -> Tensor:
    """Ranks of each row's scores without what is ``left_out``, ties at their mean, less the row's mean; float64."""
    scores = scores.masked_fill(left_out, -torch.inf)
    ordered = scores.sort(dim=1).values.contiguous()
    below, up_to = torch.searchsorted(ordered, scores - TIE), torch.searchsorted(ordered, scores + TIE, right=True)
    ranks = (below + up_to).double() / 2
    ranks = ranks.masked_fill(left_out, 0)
    mean = ranks.sum(1, keepdim=True) / (~left_out).sum(1, keepdim=True)
    return (ranks - mean).masked_fill(left_out, 0)


def top(queries: Tensor, pool: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and indices, ``[Q, min(k, N)]`` each, of the nearest in ``pool``; equal scores in its order."""
    found = []
    for _, scores in strips(queries, pool):
        ordered, index = scores.sort(dim=1, descending=True, stable=True)
        found.append((ordered[:, :k].cpu(), index[:, :k].cpu()))
    scores, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return scores, index


def class_hits(scores: Tensor, classes: Tensor, *, found_above: float = -torch.inf) -> FirstHits:
    """Where each row's own class lands among ``scores`` ``[Q, C]``, one a class.

    A class that scores ``found_above`` or less is found at no place.

    >>> class_hits(torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([2])).ahead.tolist()
    [1]
    """
    own = scores.gather(1, classes[:, None])
    ahead = (scores > own + TIE).sum(1)
    beside = (scores >= own - TIE).sum(1) - ahead - 1
    ahead = torch.where(own[:, 0] > found_above, ahead, _NOWHERE)
    return FirstHits(ahead.cpu(), beside.cpu(), torch.ones_like(classes).cpu())


def strips(queries: Tensor, pool: Tensor, *, least_rows: int = 1) -> Iterator[tuple[slice, Tensor]]:
    """``queries @ pool.T`` a strip of rows at a time, in full float32 whatever the global matmul precision."""
    height = max(least_rows, STRIP // max(1, len(pool)))
    for start in range(0, len(queries), height):
        rows = slice(start, min(start + height, len(queries)))
        with _full_precision():
            scores = queries[rows] @ pool.T
        yield rows, scores


def _chosen(scores: Tensor, k: int) -> Tensor:
    """The probability of each candidate, ``[Q, N]``, to be among its row's first ``k``."""
    border = scores.topk(k, dim=1).values[:, -1:]
    above = scores > border + TIE
    level = (scores >= border - TIE) & ~above
    odds = (k - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)
    return above.float() + level * odds


@contextmanager
def _full_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
