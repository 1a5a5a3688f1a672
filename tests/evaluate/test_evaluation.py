from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from xmodal.errors import EvaluationError
from xmodal.evaluate import METRICS, METRICS_OF, TASKS, Evaluation, evaluate


def test_retrieval_is_what_sorted_lists_say(make_shard, clip, animals, vectors, brute_force_retrieval):
    image_texts = [row["text"] for row in animals]
    texts = sorted(set(image_texts))
    images, text_vectors = vectors(clip, "image", [row["image"] for row in animals]), vectors(clip, "text", texts)
    metrics = evaluate(clip, make_shard(animals)).metrics["data"]
    expected = brute_force_retrieval(images, image_texts, texts, text_vectors)
    assert 0 < expected["text_to_image_recall@10"] < 1
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    sizes = [image_texts.count(text) for text in texts]
    chance = np.mean([1 - hypergeom.pmf(0, len(images), size, 10) for size in sizes])
    assert metrics["chance_recall@10"] == pytest.approx(chance)
    assert (metrics["num_images"], metrics["num_texts"], metrics["num_samples"], metrics["num_bad"]) == (60, 24, 60, 0)


def test_a_student_that_embeds_all_alike_scores_chance(make_shard, make_encoder, labelled, train):
    constant = make_encoder(("image", "text"), broken=lambda features: torch.ones_like(features))
    shards = make_shard(labelled)
    teacher = make_encoder(("image",), seed=9)
    metrics = evaluate(
        constant, shards, tasks=list(TASKS), query="txt", teachers={"teacher": teacher}, train=train
    ).metrics["data"]
    assert metrics["text_to_image_recall@10"] == pytest.approx(metrics["chance_recall@10"])
    assert metrics["image_to_text_recall@5"] == pytest.approx(5 / 24)
    assert metrics["zero_shot_top1"] == pytest.approx(metrics["chance_zero_shot_top1"]) == pytest.approx(1 / 24)
    assert metrics["zero_shot_top5"] == pytest.approx(metrics["chance_zero_shot_top5"])
    assert metrics["neighbor_agreement@10"] == pytest.approx(metrics["chance_neighbor_agreement@10"])
    assert metrics["chance_neighbor_agreement@10"] == pytest.approx(10 / 59)
    assert metrics["knn_top1"] == metrics["probe_top1"] == metrics["majority_top1"] == pytest.approx(3 / 60)


def test_identical_pictures_under_two_names_share_the_first_place(make_shard, clip):
    rows = [
        {"key": name, "image": 5, "text": name} for name in ("cat", "tac")
    ]  # the same letters: the same text vector
    metrics = evaluate(clip, make_shard(rows)).metrics["data"]
    assert metrics["text_to_image_recall@1"] == pytest.approx(0.5)
    assert metrics["image_to_text_recall@1"] == pytest.approx(0.5)


def test_pictures_without_a_text_are_neither_queries_nor_pool(make_shard, clip, animals):
    nameless = [{"key": f"n{index}", "image": 100 + index} for index in range(9)]
    mixed = [row for pair in zip(animals, [*nameless, *[None] * 51], strict=True) for row in pair if row is not None]
    expected = evaluate(clip, make_shard(animals, "named")).metrics["data"]
    evaluation = evaluate(clip, make_shard(mixed, "mixed"), batch_size=10, gallery=4)
    assert not any(hit["text"] is None for row in evaluation.gallery for hit in row["hits"])
    keys = [[hit["key"] for hit in row["hits"]] for row in evaluation.gallery]
    named = evaluate(clip, make_shard(animals, "named"), gallery=4).gallery
    assert keys == [[hit["key"] for hit in row["hits"]] for row in named]
    found = evaluation.metrics["data"]
    assert found.pop("num_samples") == expected.pop("num_samples") + 9
    assert found == pytest.approx(expected)


def test_the_teacher_gives_the_side_that_the_student_lacks(
    make_shard, make_encoder, animals, vectors, brute_force_retrieval
):
    student, teacher = make_encoder(("image",)), make_encoder(("text",), seed=1)
    metrics = evaluate(student, make_shard(animals), teachers={"teacher": teacher}).metrics["data"]
    image_texts = [row["text"] for row in animals]
    texts = sorted(set(image_texts))
    images, text_vectors = vectors(student, "image", [row["image"] for row in animals]), vectors(teacher, "text", texts)
    expected = brute_force_retrieval(images, image_texts, texts, text_vectors)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_a_text_student_searches_its_image_teachers_pictures(
    make_shard, make_encoder, animals, vectors, brute_force_retrieval
):
    student, teacher = make_encoder(("text",)), make_encoder(("image",), seed=1)
    found = evaluate(student, make_shard(animals), teachers={"t": teacher}, tasks=["retrieval", "mixed-index"])
    image_texts = [row["text"] for row in animals]
    texts = sorted(set(image_texts))
    images, text_vectors = vectors(teacher, "image", [row["image"] for row in animals]), vectors(student, "text", texts)
    expected = brute_force_retrieval(images, image_texts, texts, text_vectors)
    metrics = found.metrics["data"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert metrics["teacher_index_recall@5"] == metrics["text_to_image_recall@5"]
    assert metrics["student_index_recall@5"] == metrics["image_to_text_recall@5"]


def test_the_recorded_teacher_is_made_and_its_recorded_tap_used(make_shard, make_encoder, animals, monkeypatch):
    import xmodal.adapters

    teacher = make_encoder(("text",), seed=1)
    made = []

    def create_teacher(name, **options):
        made.append((name, options))
        return teacher

    monkeypatch.setattr(xmodal.adapters, "create_teacher", create_teacher)
    spec = {"name": "sentence", "model": "some/model"}
    metadata = {"space": {"teacher": spec, "tap": "text.raw", "dim": 16}}
    student, shards = make_encoder(("image",), metadata=metadata), make_shard(animals)
    by_record = evaluate(student, shards, tasks=["retrieval", "agreement"]).metrics["data"]
    assert made == [("sentence", {"model": "some/model"})]
    assert spec == {"name": "sentence", "model": "some/model"}  # the student's record is untouched
    passed = evaluate(student, shards, tasks=["retrieval", "agreement"], teachers={"teacher": teacher}).metrics["data"]
    assert len(made) == 1
    assert by_record == passed
    student.metadata = {}
    other_tap = evaluate(student, shards, tasks=["retrieval", "agreement"], teachers={"teacher": teacher}).metrics[
        "data"
    ]
    assert other_tap["teacher_agreement"] != passed["teacher_agreement"]  # text.embedding is not text.raw


def test_of_several_teachers_the_recorded_one_or_the_one_that_fits_is_taken(make_shard, make_encoder, animals):
    shards = make_shard(animals)
    right, wide, other = (make_encoder(("text",), width=width, seed=5) for width in (16, 32, 16))
    student = make_encoder(("image",))
    expected = evaluate(student, shards, teachers={"right": right}).metrics
    assert evaluate(student, shards, teachers={"wide": wide, "right": right}).metrics == expected
    with pytest.raises(EvaluationError, match="2 teachers were given"):
        evaluate(student, shards, teachers={"right": right, "other": other})
    spec = {"name": "right one"}
    student.metadata = {"space": {"teacher": spec, "tap": "text.embedding"}}
    right.spec, other.spec = spec, {"name": "x"}
    assert evaluate(student, shards, teachers={"right": right, "other": other}).metrics == expected


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (7, 2), (64, 1)])
def test_figures_do_not_depend_on_batch_size_or_workers(
    make_shard, make_encoder, clip, labelled, train, batch_size, num_workers
):
    options = {
        "tasks": list(TASKS),
        "query": "txt",
        "teachers": {"t": make_encoder(("image", "text"), seed=8)},
        "gallery": 3,
    }
    shards, options = make_shard(labelled), {**options, "train": train, "bootstrap": 100}
    expected = evaluate(clip, shards, **options)
    found = evaluate(clip, shards, **options, batch_size=batch_size, num_workers=num_workers)
    assert found.metrics["data"] == pytest.approx(expected.metrics["data"], abs=1e-6)
    assert [hit["key"] for row in found.gallery for hit in row["hits"]] == [
        hit["key"] for row in expected.gallery for hit in row["hits"]
    ]


def test_several_splits_are_measured_each_as_if_alone_and_a_text_is_embedded_once(make_shard, clip, animals):
    first, second = make_shard(animals[:40], "first"), make_shard(animals[30:], "second")
    alone = [evaluate(clip, shards, tasks=["retrieval", "zero-shot"]).metrics["data"] for shards in (first, second)]
    clip.texts_read = 0
    both = evaluate(clip, {"a b": first, "second": [second]}, tasks=["retrieval", "zero-shot"], gallery=2)
    assert both.metrics == {"a b": pytest.approx(alone[0]), "second": pytest.approx(alone[1])}
    assert clip.texts_read == len({row["text"] for row in animals})
    assert [row["split"] for row in both.gallery] == ["a b", "a b", "second", "second"]


def test_modes_are_restored_and_no_tensor_moves(make_shard, make_encoder, clip, labelled, train):
    teacher = make_encoder(("image",), seed=2).freeze()
    clip.train()
    before, state = (clip.state_hash(), teacher.state_hash()), torch.random.get_rng_state()
    evaluate(
        clip, make_shard(labelled), tasks=list(TASKS), query="txt", teachers={"t": teacher}, train=train, num_workers=1
    )
    assert (clip.state_hash(), teacher.state_hash()) == before
    assert clip.training
    assert clip.norm.training
    assert not teacher.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_gallery_rows_are_the_nearest_pictures_with_the_right_ones_marked(make_shard, clip, animals, vectors):
    shards = make_shard(animals)
    rows = evaluate(clip, shards, gallery=5, seed=1).gallery
    images = vectors(clip, "image", [row["image"] for row in animals])
    assert len({row["query"] for row in rows}) == 5
    for row in rows:
        scores = images @ vectors(clip, "text", [row["query"]])[0]
        order = np.argsort(-scores)[:6]
        assert [hit["key"] for hit in row["hits"]] == [animals[index]["key"] for index in order]
        assert [hit["score"] for hit in row["hits"]] == pytest.approx(scores[order].tolist(), abs=1e-6)
        assert [hit["correct"] for hit in row["hits"]] == [animals[index]["text"] == row["query"] for index in order]
    again = evaluate(clip, make_shard(animals[::-1], "other-order"), gallery=5, seed=1).gallery
    assert [row["query"] for row in again] == [row["query"] for row in rows]
    other = evaluate(clip, shards, gallery=5, seed=2).gallery
    assert [row["query"] for row in other] != [row["query"] for row in rows]
    assert len(evaluate(clip, shards, gallery=500).gallery) == 24


def test_every_figure_of_every_task_is_defined_and_every_definition_is_measured(
    make_shard, make_encoder, clip, labelled, train
):
    options = {
        "tasks": list(TASKS),
        "query": "txt",
        "teachers": {"t": make_encoder(("image", "text"), seed=8)},
        "train": train,
    }
    metrics = evaluate(clip, make_shard(labelled), **options).metrics["data"]
    assert list(metrics) == list(METRICS)
    assert set(METRICS_OF) == {"every task", *TASKS}
    for values in metrics.values():
        assert isinstance(values, (int, float))


def test_what_cannot_be_measured_is_said(make_shard, make_encoder, clip, animals):
    shards = make_shard(animals)
    student = make_encoder(("image",))
    with pytest.raises(EvaluationError, match="records no teacher whose space it shares, so nothing embeds text"):
        evaluate(student, shards)
    with pytest.raises(
        EvaluationError, match=r"Neither fake image encoder \(image\) nor fake image encoder \(image\) embeds text"
    ):
        evaluate(student, shards, teachers={"t": make_encoder(("image",))})
    with pytest.raises(
        EvaluationError, match=r"image.embedding of fake image encoder is 16 wide and .* 24 wide: they share no space"
    ):
        evaluate(student, shards, teachers={"t": make_encoder(("text",), width=24)})
    textless = make_shard([{"key": row["key"], "image": row["image"]} for row in animals], "textless")
    for task in ("retrieval", "zero-shot", "mixed-index"):
        with pytest.raises(EvaluationError, match="No sample of split 'val' has a text in its member 'txt'"):
            evaluate(clip, {"val": textless}, tasks=[task], teachers={"t": clip})
    with pytest.raises(EvaluationError, match=r"'retreival' is not a task\. Nearest: retrieval"):
        evaluate(clip, shards, tasks=["retreival"])
    with pytest.raises(EvaluationError, match=r"tasks is a list of names: \['retrieval'\]"):
        evaluate(clip, shards, tasks="retrieval")
    with pytest.raises(EvaluationError, match="No task was given"):
        evaluate(clip, shards, tasks=[])
    with pytest.raises(EvaluationError, match="No split was given"):
        evaluate(clip, {})


def test_the_table_shows_every_figure_once():
    evaluation = Evaluation({"seen": {"text_to_image_recall@1": 0.51234, "num_texts": 24}, "new": {"num_texts": 7}})
    assert evaluation.table().splitlines() == [
        "                          seen  new",
        "text_to_image_recall@1  0.5123    –",
        "num_texts                   24    7",
    ]


def test_names_of_metrics_are_known_without_torch():
    code = "import sys; from xmodal.evaluate import METRICS, TASKS; sys.exit('torch' in sys.modules or not METRICS)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_random_weights_find_little_among_the_emoji_that_ship(make_encoder):
    metrics = evaluate(make_encoder(("image", "text")), "package://emoji/names-*.tar", num_workers=2).metrics["data"]
    assert metrics["num_bad"] == 0
    assert metrics["num_images"] > metrics["num_texts"] > 200
    assert metrics["text_to_image_recall@10"] < 0.3  # random weights


def test_the_docs_list_every_metric_with_its_definition():
    import pathlib

    page = (pathlib.Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    for metrics in METRICS_OF.values():
        for metric, definition in metrics.items():
            assert f"| `{metric}` | {definition} |" in page
