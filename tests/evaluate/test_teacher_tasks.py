from __future__ import annotations

import numpy as np
import pytest

from xmodal.errors import EvaluationError
from xmodal.evaluate import evaluate


def brute_force_neighbors(first, second, k=10):
    shares = []
    for sample in range(len(first)):
        others = [other for other in range(len(first)) if other != sample]
        near = [
            set(sorted(others, key=lambda other: -float(vectors[sample] @ vectors[other]))[:k])
            for vectors in (first, second)
        ]
        shares.append(len(near[0] & near[1]) / k)
    return float(np.mean(shares))


def test_agreement_across_modalities_is_what_loops_say(make_shard, make_encoder, animals, vectors):
    # Texts that occur once: neighbours among equal teacher vectors would be a matter of tie-breaking.
    rows = [{**row, "text": f"{row['text']} {'xyz'[index % 3] * (index + 1)}"} for index, row in enumerate(animals)]
    student, teacher = make_encoder(("image",)), make_encoder(("text",), seed=1)
    metrics = evaluate(student, make_shard(rows), tasks=["agreement"], teachers={"t": teacher}).metrics["data"]
    ours = vectors(student, "image", [row["image"] for row in rows])
    theirs = vectors(teacher, "text", [row["text"] for row in rows])
    assert metrics["teacher_agreement"] == pytest.approx(
        float(np.mean([a @ b for a, b in zip(ours, theirs, strict=True)])), abs=1e-6
    )
    assert metrics["neighbor_agreement@10"] == pytest.approx(brute_force_neighbors(ours, theirs), abs=1e-9)


def test_agreement_compares_pictures_where_both_models_see_them(make_shard, make_encoder, clip, animals, vectors):
    teacher = make_encoder(("image",), width=40, seed=1)
    shards = make_shard([{key: value for key, value in row.items() if key != "text"} for row in animals])
    metrics = evaluate(clip, shards, tasks=["agreement"], teachers={"t": teacher}).metrics["data"]
    ours, theirs = (vectors(encoder, "image", [row["image"] for row in animals]) for encoder in (clip, teacher))
    assert metrics["neighbor_agreement@10"] == pytest.approx(brute_force_neighbors(ours, theirs), abs=1e-9)
    assert "teacher_agreement" not in metrics  # 16 against 40 wide: there is no cosine


def test_a_student_agrees_wholly_with_itself(make_shard, clip, animals):
    metrics = evaluate(clip, make_shard(animals), tasks=["agreement"], teachers={"t": clip}).metrics["data"]
    assert metrics["teacher_agreement"] == pytest.approx(1)
    assert metrics["neighbor_agreement@10"] == pytest.approx(1)


def test_text_models_agree_over_texts_alone(make_shard, make_encoder, animals):
    rows = [{"key": row["key"], "text": row["text"]} for row in animals]
    student, teacher = make_encoder(("text",)), make_encoder(("text",), seed=1)
    found = evaluate(student, make_shard(rows), tasks=["agreement", "mixed-index"], teachers={"t": teacher})
    assert found.metrics["data"]["num_samples"] == 60
    assert -1 < found.metrics["data"]["teacher_agreement"] < 1


def test_agreement_of_one_sample_is_refused(make_shard, clip, animals):
    with pytest.raises(EvaluationError, match="two samples or more"):
        evaluate(clip, make_shard(animals[:1]), tasks=["agreement"], teachers={"t": clip})


def test_mixed_index_searches_each_models_pictures_with_the_others_texts(
    make_shard, make_encoder, clip, animals, vectors, brute_force_retrieval
):
    teacher = make_encoder(("image", "text"), seed=8)
    metrics = evaluate(clip, make_shard(animals), tasks=["mixed-index"], teachers={"t": teacher}).metrics["data"]
    image_texts = [row["text"] for row in animals]
    texts = sorted(set(image_texts))
    for owner, pool, searcher in (("teacher", teacher, clip), ("student", clip, teacher)):
        images = vectors(pool, "image", [row["image"] for row in animals])
        expected = brute_force_retrieval(images, image_texts, texts, vectors(searcher, "text", texts))
        for k in (1, 5, 10):
            assert metrics[f"{owner}_index_recall@{k}"] == pytest.approx(
                expected[f"text_to_image_recall@{k}"], abs=1e-9
            )


def test_mixed_index_of_an_image_student_and_a_text_teacher_is_retrieval_both_ways(make_shard, make_encoder, animals):
    student, teacher = make_encoder(("image",)), make_encoder(("text",), seed=1)
    tasks = ["retrieval", "mixed-index"]
    metrics = evaluate(student, make_shard(animals), tasks=tasks, teachers={"t": teacher}).metrics["data"]
    for k in (1, 5, 10):
        assert metrics[f"teacher_index_recall@{k}"] == metrics[f"image_to_text_recall@{k}"]
        assert metrics[f"student_index_recall@{k}"] == metrics[f"text_to_image_recall@{k}"]


def test_a_teacher_whose_folder_was_replaced_by_its_own_student_is_not_followed_for_ever(
    make_shard, make_encoder, animals
):
    teacher = make_encoder(("image",), seed=1)
    teacher.spec = {"name": "trained", "folder": "runs/x"}
    teacher.metadata = {"space": {"teacher": teacher.spec, "tap": "image.embedding"}}
    with pytest.raises(EvaluationError, match="records itself as its own teacher"):
        evaluate(make_encoder(("image",)), make_shard(animals), tasks=["retrieval"], teachers={"t": teacher})
