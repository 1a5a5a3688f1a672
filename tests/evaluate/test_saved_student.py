"""A student on disk, its teacher found through what the student records: the whole way, with the real libraries."""

from __future__ import annotations

import pytest
import torch

from xmodal.adapters import create_student, create_teacher
from xmodal.errors import AdapterError
from xmodal.evaluate import TASKS, evaluate
from xmodal.export.native import save_student
from xmodal.search import search

SPEC = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}


@pytest.fixture
def student():
    torch.manual_seed(0)
    return create_student("image", model="mobilenetv3_small_050", weights="random", embed_dim=384, image_size=32)


def test_a_run_folder_is_evaluated_with_the_teacher_that_its_student_records(
    student, make_shard, labelled, train, tmp_path
):
    shards, tasks = (
        make_shard(labelled),
        {"tasks": [task for task in TASKS if task != "text-retrieval"], "train": train},
    )
    folder = save_student(
        student,
        tmp_path / "run" / "student",
        {"teachers": {"teacher": SPEC}, "space": {"teacher": SPEC, "tap": "text.embedding", "dim": 384}},
    )
    teacher = create_teacher(**SPEC)
    expected = evaluate(student, shards, **tasks, teachers={"teacher": teacher}, gallery=2)
    for place in (folder, folder.parent, str(folder)):
        found = evaluate(place, shards, **tasks, gallery=2)
        assert found.metrics["data"] == pytest.approx(expected.metrics["data"], abs=1e-6)
    hits = search("thing called h", student=folder.parent, data=shards, count=3)
    again = search("thing called h", student=student, data=shards, teachers={"teacher": teacher}, count=3)
    assert [(hit.key, hit.text) for hit in hits] == [(hit.key, hit.text) for hit in again]
    # memory of another alignment sums in another order: the last bit may differ
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in again], abs=1e-6)


def test_a_two_tower_student_reads_its_own_texts(make_shard, animals):
    torch.manual_seed(0)
    tower = {"model": "mobilenetv3_small_050", "weights": "random", "image_size": 32}
    student = create_student("clip", image=tower, text={"num_layers": 1, "width": 64, "num_heads": 2}, embed_dim=32)
    metrics = evaluate(student, make_shard(animals), tasks=["retrieval", "zero-shot"], num_workers=1).metrics["data"]
    assert metrics["num_images"] == 60


def test_a_folder_without_a_student_is_an_error_of_the_adapters(tmp_path):
    with pytest.raises(AdapterError):
        evaluate(tmp_path, "package://emoji/names-*.tar")
