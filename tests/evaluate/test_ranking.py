from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, spearmanr

from xmodal.evaluate import ranking
from xmodal.evaluate.ranking import first_hits, neighbor_overlap, random_order, rank_correlation, strips, top


def mean_over_tie_breaks(scores: list[int], right: list[bool], k: int) -> float:
    """Share of all orders of the candidates, stably sorted by score, that put a right one among the first k."""
    found = 0
    orders = list(permutations(range(len(scores))))
    for order in orders:
        ranked = sorted(order, key=lambda candidate: -scores[candidate])
        found += any(right[candidate] for candidate in ranked[:k])
    return found / len(orders)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=st.integers(1, 7), num=st.integers(1, 6), strip=st.sampled_from([1, 5, 2**22]))
def test_recall_with_ties_is_the_mean_over_every_way_to_break_them(data, k, num, strip):
    queries = data.draw(st.integers(1, 4))
    scores = data.draw(
        st.lists(st.lists(st.integers(0, 2), min_size=num, max_size=num), min_size=queries, max_size=queries)
    )
    pool_group = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    query_group = data.draw(st.lists(st.sampled_from(pool_group), min_size=queries, max_size=queries))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "STRIP", strip)
        hits = first_hits(
            torch.tensor(scores).float(), torch.eye(num), torch.tensor(query_group), torch.tensor(pool_group)
        )
    expected = [
        mean_over_tie_breaks(row, [member == group for member in pool_group], k)
        for row, group in zip(scores, query_group, strict=True)
    ]
    np.testing.assert_allclose(hits.within(k).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("error", [-1e-7, 0.0, 1e-7])
def test_scores_that_differ_by_rounding_are_tied(error):
    pool = torch.tensor([[0.6, 0.8], [0.6 + error, 0.8], [0.0, 1.0]])
    hits = first_hits(torch.tensor([[1.0, 0.0]]), pool, torch.tensor([0]), torch.tensor([0, 1, 2]))
    assert (hits.recall(1), hits.recall(2)) == (0.5, 1.0)
    assert neighbor_overlap(pool[[2, 0, 1]], pool[[2, 0, 1]], 1)[0] == 0.5  # either of two, in either space


@pytest.mark.parametrize(("pool", "right", "k"), [(20, 1, 10), (240, 3, 10), (1911, 2, 5), (7, 7, 1), (5, 2, 10)])
def test_chance_is_hypergeometric(pool, right, k):
    expected = 1 - hypergeom.pmf(0, pool, right, min(k, pool))
    assert random_order(torch.tensor([right]), pool).recall(k) == pytest.approx(expected, rel=1e-12)


def mean_overlap(first: np.ndarray, second: np.ndarray, sample: int, k: int) -> float:
    others = [other for other in range(len(first)) if other != sample]

    def neighbourhoods(vectors):
        for order in permutations(others):
            yield set(sorted(order, key=lambda other: -float(vectors[sample] @ vectors[other]))[:k])

    overlaps = [len(one & two) / k for one in neighbourhoods(first) for two in neighbourhoods(second)]
    return sum(overlaps) / len(overlaps)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), num=st.integers(3, 5), strip=st.sampled_from([1, 7, 2**22]))
def test_neighbor_overlap_with_ties_is_the_mean_over_every_way_to_break_them(data, num, strip):
    def draw(width):
        return np.array(
            data.draw(
                st.lists(st.lists(st.integers(-1, 1), min_size=width, max_size=width), min_size=num, max_size=num)
            )
        )

    first, second, k = draw(2), draw(3), data.draw(st.integers(1, num - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "STRIP", strip)
        overlap = neighbor_overlap(torch.from_numpy(first).float(), torch.from_numpy(second).float(), k)
    expected = [mean_overlap(first, second, sample, k) for sample in range(num)]
    np.testing.assert_allclose(overlap.numpy(), expected, atol=1e-6)


def test_no_strip_holds_more_similarities_than_it_may(monkeypatch):
    monkeypatch.setattr(ranking, "STRIP", 1000)
    queries, pool = torch.randn(50, 3), torch.randn(90, 3)
    seen = [(rows, scores) for rows, scores in strips(queries, pool)]
    assert max(scores.numel() for _, scores in seen) <= 1000
    torch.testing.assert_close(torch.cat([scores for _, scores in seen]), queries @ pool.T)
    assert [row for rows, _ in seen for row in range(rows.start, rows.stop)] == list(range(50))


def test_similarities_are_exact_where_training_runs_on_coarse_matmuls():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        queries, pool = torch.randn(64, 384), torch.randn(64, 384)
        (_, scores), *_ = strips(queries, pool)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(scores.numpy(), queries.double().numpy() @ pool.double().numpy().T, atol=1e-4)


def test_top_lists_equal_scores_in_the_order_of_the_pool():
    scores, index = top(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.0], [1.0, 3.0]]), 3)
    assert index.tolist() == [[1, 3, 2]]
    assert scores.tolist() == [[1.0, 1.0, 0.5]]
    assert top(torch.ones(1, 2), torch.ones(2, 2), 10)[1].tolist() == [[0, 1]]


@settings(max_examples=30)
@given(num=st.integers(3, 12), most=st.integers(3, 15), strip=st.sampled_from([1, 30, 2**22]), seed=st.integers(0, 99))
def test_rank_correlation_is_scipys_spearman_over_the_others(num, most, strip, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(-2, 3, (num, width), generator=generator).float() for width in (3, 5))  # with ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "STRIP", strip)
        found = rank_correlation(first, second, most)
    picked = np.unique(np.round(np.linspace(0, num - 1, min(most, num))).astype(int))
    for sample, value in enumerate(found.tolist()):
        others = [other for other in picked if other != sample]
        one, two = (vectors[others].numpy() @ vectors[sample].numpy() for vectors in (first, second))
        flat = len(set(one)) == 1 or len(set(two)) == 1  # then scipy has no number to give
        assert value == pytest.approx(0.0 if flat else spearmanr(one, two).statistic, abs=1e-9)
