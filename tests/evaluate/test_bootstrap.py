from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xmodal.evaluate import Evaluation, evaluate
from xmodal.evaluate.bootstrap import PerSample, per_group, settled


def test_an_interval_is_scipys():
    """scipy draws sample by sample; the percentiles of 20 000 draws agree to their own spread."""
    generator = np.random.default_rng(3)
    for values in (generator.random(120), (generator.random(300) < 0.2).astype(float)):
        ours = PerSample(torch.tensor(values)).interval(resamples=20_000, seed=0)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
        assert ours == pytest.approx(theirs, abs=0.12 * values.std() / len(values) ** 0.5)


def test_a_mean_of_classes_is_drawn_as_loops_draw_it():
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 5, 80)
    values = (generator.random(80) < 0.2 + 0.15 * classes).astype(float)
    figure = PerSample(torch.tensor(values), classes=torch.tensor(classes))
    assert figure.mean() == pytest.approx(np.mean([values[classes == one].mean() for one in range(5)]))
    drawn = []
    for _ in range(4000):
        rows = generator.integers(0, 80, 80)
        there = np.unique(classes[rows])
        drawn.append(np.mean([values[rows][classes[rows] == one].mean() for one in there]))
    low, high = figure.interval(resamples=4000, seed=0)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


def test_captions_of_a_picture_are_drawn_together():
    """Five captions that always agree are one observation: the interval is as wide as that of the pictures."""
    found = torch.tensor([0.0, 1.0] * 40)
    group = torch.arange(80).repeat_interleave(5)
    together = per_group(found.repeat_interleave(5), group)
    pictures = PerSample(found)
    assert together.mean() == pictures.mean()
    options = {"resamples": 2000, "seed": 1}
    assert together.interval(**options) == pytest.approx(pictures.interval(**options), abs=0.01)
    low, high = PerSample(found.repeat_interleave(5)).interval(**options)
    assert high - low < 0.6 * (together.interval(**options)[1] - together.interval(**options)[0])


def test_a_mean_over_queries_weighs_pictures_by_their_captions():
    figure = per_group(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([2, 2, 2, 5]))
    assert figure.mean() == pytest.approx(0.75)  # of four captions three, not of two pictures one


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_order_changes_nothing_and_the_figure_lies_within_its_values(values, random):
    figure = PerSample(torch.tensor(values))
    shuffled = random.sample(values, len(values))
    low, high = figure.interval(resamples=200, seed=0)
    assert (low, high) == PerSample(torch.tensor(shuffled)).interval(resamples=200, seed=0)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert figure.mean() == pytest.approx(np.mean(values))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        values = torch.tensor((generator.random(200) < 0.3).astype(float))
        low, high = PerSample(values).interval(resamples=300, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.91 < covered / 300 < 0.98


def test_a_figure_has_its_own_random_numbers():
    figure = PerSample(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    alone = settled({"a": figure}, resamples=100, seed=4)
    among = settled({"b": figure, "a": figure, "count": 3}, resamples=100, seed=4)
    assert {name: among[name] for name in alone} == alone
    assert among["a_low"] != among["b_low"]
    assert set(among) == {"a", "a_low", "a_high", "b", "b_low", "b_high", "count"}


def test_evaluate_gives_means_an_interval_and_leaves_them_as_they_were(make_shard, clip, labelled, train):
    tasks = {"tasks": ["retrieval", "zero-shot", "knn", "probe"], "train": train}
    plain = evaluate(clip, make_shard(labelled), **tasks, seed=1).metrics["data"]
    found = evaluate(clip, make_shard(labelled), **tasks, bootstrap=200, seed=1).metrics["data"]
    assert {name: found[name] for name in plain} == plain
    bounded = {name.removesuffix("_low") for name in found if name.endswith("_low")}
    assert {"text_to_image_recall@10", "zero_shot_mean_per_class_recall", "knn_top1", "probe_top5"} < bounded
    assert not {"num_images", "chance_recall@10", "probe_c", "majority_top1"} & bounded
    for name in bounded:
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert evaluate(clip, make_shard(labelled), **tasks, bootstrap=200, seed=1).metrics["data"] == found
    other = evaluate(clip, make_shard(labelled), **tasks, bootstrap=200, seed=2).metrics["data"]
    assert other["knn_top1"] == found["knn_top1"]
    assert other != found
    backwards = evaluate(clip, make_shard(labelled[::-1], "b"), **tasks, bootstrap=200, seed=1).metrics["data"]
    assert backwards == pytest.approx(found, abs=1e-9)


def test_the_table_shows_intervals_beside_their_figures():
    values = {"knn_top1": 0.5, "knn_top1_low": 0.41, "knn_top1_high": 0.59, "probe_c": 1e-5, "num_train": 12}
    assert Evaluation({"seen": values}).table().splitlines() == [
        "                              seen",
        "knn_top1   0.5000 [0.4100, 0.5900]",
        "num_train                       12",
        "probe_c                      1e-05",
    ]
