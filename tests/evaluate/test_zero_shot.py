from __future__ import annotations

import numpy as np
import pytest

from xmodal.errors import EvaluationError
from xmodal.evaluate import evaluate


def test_zero_shot_over_labels_is_what_loops_say(make_shard, clip, vectors):
    names = ["cat", "dog", "emu", "fox", "gnu", "hen", "ibex"]
    rows = [{"key": f"k{index}", "image": index, "cls": index * 3 % 7} for index in range(40)]
    templates = ["a picture of {}", "{}, drawn: a {}"]
    found = evaluate(clip, make_shard(rows), tasks=["zero-shot"], class_names=names, templates=templates)
    images = vectors(clip, "image", range(40))
    classes = []
    for name in names:
        mean = np.mean(vectors(clip, "text", [f"a picture of {name}", f"{name}, drawn: a {name}"]), axis=0)
        classes.append(mean / np.linalg.norm(mean))
    for k in (1, 5):
        right = [
            row["cls"] in np.argsort(-(np.stack(classes) @ image))[:k] for row, image in zip(rows, images, strict=True)
        ]
        assert found.metrics["data"][f"zero_shot_top{k}"] == pytest.approx(np.mean(right))
        assert found.metrics["data"][f"chance_zero_shot_top{k}"] == pytest.approx(k / 7)
    assert (found.metrics["data"]["num_labelled"], found.metrics["data"]["num_classes"]) == (40, 7)


def test_labels_need_not_start_at_0(make_shard, clip):
    names = ["cat", "dog", "emu", "fox", "gnu", "hen"]
    rows = [{"key": f"k{index}", "image": index, "cls": index % 6} for index in range(30)]
    shifted = [{**row, "cls": row["cls"] + 100} for row in rows]
    options = {"tasks": ["zero-shot"], "templates": ["a {}"]}
    expected = evaluate(clip, make_shard(rows, "a"), class_names=names, **options).metrics
    in_order = evaluate(clip, make_shard(shifted, "b"), class_names=names, **options).metrics
    mapped = {100 + index: name for index, name in enumerate(names)}
    by_mapping = evaluate(clip, make_shard(shifted, "c"), class_names=mapped, **options).metrics
    assert expected == in_order == by_mapping


def test_class_names_count_from_0_where_some_labels_do_not_occur(make_shard, clip):
    names = ["cat", "dog", "emu", "fox"]
    rows = [{"key": f"k{index}", "image": index, "cls": 1 + index % 2} for index in range(30)]
    found = evaluate(clip, make_shard(rows, "a"), tasks=["zero-shot"], class_names=names).metrics["data"]
    mapped = evaluate(clip, make_shard(rows, "b"), tasks=["zero-shot"], class_names=dict(enumerate(names))).metrics[
        "data"
    ]
    assert found == mapped
    assert found["num_classes"] == 4


def test_class_names_that_do_not_fit_the_labels_are_refused(make_shard, clip):
    rows = [{"key": f"k{index}", "image": index, "cls": 1 + index % 3} for index in range(9)]
    shards = make_shard(rows)
    with pytest.raises(EvaluationError, match=r"run from 1 to 3 \(3 of them occur\), and 2 class names were given"):
        evaluate(clip, shards, tasks=["zero-shot"], class_names=["a", "b"])
    with pytest.raises(EvaluationError, match=r"No class name for the labels \[3\]"):
        evaluate(clip, shards, tasks=["zero-shot"], class_names={1: "a", 2: "b"})
    with pytest.raises(EvaluationError, match="Label 1 of split 'data' has no text"):
        evaluate(clip, shards, tasks=["zero-shot"])


def test_a_label_is_named_by_the_text_of_its_samples(make_shard, clip):
    names = ["cat", "dog", "emu", "fox", "gnu", "hen"]
    rows = [{"key": f"k{i}", "image": i, "cls": 3 + i % 6, "text": names[i % 6]} for i in range(30)]
    options = {"tasks": ["zero-shot"], "templates": ["a {}"]}
    found = evaluate(clip, make_shard(rows, "a"), **options).metrics
    assert (
        found
        == evaluate(clip, make_shard(rows, "b"), class_names={3 + i: names[i] for i in range(6)}, **options).metrics
    )
    unlabelled = [{key: value for key, value in row.items() if key != "cls"} for row in rows]
    assert found == evaluate(clip, make_shard(unlabelled, "c"), **options).metrics  # every distinct text is a class
    rows[8]["text"] = "hippo"
    with pytest.raises(EvaluationError, match="Label 5 of split 'data' has 2 different texts"):
        evaluate(clip, make_shard(rows, "d"), **options)


def test_class_names_without_labels_are_refused(make_shard, clip, animals):
    with pytest.raises(EvaluationError, match="has no labels"):
        evaluate(clip, make_shard(animals), tasks=["zero-shot"], class_names=["a"])


@pytest.mark.parametrize("templates", [["a picture"], [], ["{}", "{name}"]])
def test_a_template_without_a_place_for_the_name_is_refused_before_anything_is_read(clip, templates):
    with pytest.raises(EvaluationError, match="Every template needs"):
        evaluate(clip, "/nowhere/*.tar", tasks=["zero-shot"], templates=templates)
