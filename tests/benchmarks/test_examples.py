"""The driver of the worked examples: what it measures exists, and its page says what the run folders say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from xmodal.recipes import check, load_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("examples")


def write_run(folder: Path, recall: float, more: float) -> None:
    folder.mkdir(parents=True)
    summary = {
        "metrics": {"held-out words": {"query_to_text_recall@10": recall}},
        "student": {"parameters": 1_600_000},
        "training": {"seconds": 120.0},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "more.json").write_text(json.dumps({"held-out words": {"rank_agreement": more}}))


def test_every_example_has_a_recipe_and_a_baseline_with_the_same_student_and_length(examples):
    for name in examples.EXAMPLES:
        taught, alone = (load_recipe(ROOT / "examples" / f"{name}{ending}.yaml") for ending in examples.VARIANTS)
        assert taught.train == alone.train
        assert (taught.data.train, taught.data.val) == (alone.data.train, alone.data.val)
        assert alone.all_teachers() == {}
        built = ("data.", "student.texts")  # by scripts, and not there in a clone
        assert not [mistake for mistake in check(alone) if not mistake.path.startswith(built)]


def test_every_language_that_was_built_is_measured(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/data/names")
    folder.mkdir(parents=True)
    for name in ("train-000000.tar", "test-el-000000.tar", "test-zh-000000.tar"):
        (folder / name).touch()
    assert list(examples.languages()["data"]) == ["el", "zh"]


def test_the_page_says_what_the_run_folders_say(examples, tmp_path, monkeypatch):
    for ending, recalls in {"": (0.5, 0.6), "-without-teacher": (0.3, 0.3)}.items():
        for seed, recall in enumerate(recalls):
            write_run(tmp_path / f"text-to-text{ending}-seed-{seed}", recall, 0.25)
    teacher = {"metrics": {"held-out words": {"query_to_text_recall@10": 0.9}}, "parameters": 22_700_000}
    (tmp_path / "text-to-text-teacher.json").write_text(json.dumps(teacher))
    (tmp_path / "text-to-text-teacher-more.json").write_text("{}")
    monkeypatch.setattr(examples, "ROOT", tmp_path)
    monkeypatch.setattr(examples, "FIGURES", tmp_path / "figures.json")
    (tmp_path / "docs").mkdir()
    examples.keep("text-to-text", tmp_path, [0, 1])
    page = (tmp_path / "docs" / "examples-results.md").read_text()
    assert "| held-out words | word → definition recall@10 | 0.550 ± 0.071 | 0.300 ± 0.000 | 0.900 |" in page
    assert "rank correlation with the teacher | 0.250 ± 0.000 | 0.250 ± 0.000 |  |" in page
    assert "| | seeds | 2 | 2 |  |" in page
    assert "| | parameters | 1.6 M | 1.6 M | 22.7 M |" in page
    assert "## Pictures to pictures" not in page  # what was not measured is not there
