"""What the other commands hand on, and what they print of it. The functions behind them have tests of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from xmodal.doctor import Finding
from xmodal.recipes import load_recipe
from xmodal.search import Hit


class Spy:
    """Remembers how it was called, writes rubbish to stdout as libraries do, and answers."""

    def __init__(self, answer: object = None, chatter: str = "") -> None:
        self.answer, self.chatter = answer, chatter

    def __call__(self, *arguments: object, **options: object) -> object:
        print(self.chatter, end="", file=sys.stdout)
        self.arguments, self.options = arguments, options
        return self.answer


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run, as far as commands look into it."""
    folder = tmp_path / "run"
    (folder / "student").mkdir(parents=True)
    recipe = load_recipe("emoji-text-to-image", ["data.text=json.name"])
    (folder / "recipe.resolved.yaml").write_text(recipe.to_yaml())
    return folder


def test_distill_hands_on_recipe_overrides_and_folder(xmodal, monkeypatch):
    spy = Spy()
    monkeypatch.setattr("xmodal.distillation.distill", spy)
    assert (
        xmodal("distill", "emoji-text-to-image", "train.seed=1", "--out", "runs/a", "train.epochs=2", "--resume").code
        == 0
    )
    assert spy.arguments == ("emoji-text-to-image",)
    assert spy.options == {"out": Path("runs/a"), "overrides": ("train.seed=1", "train.epochs=2"), "resume": True}


def test_a_dry_run_needs_no_folder(xmodal, monkeypatch):
    spy = Spy()
    monkeypatch.setattr("xmodal.distillation.dry_run", spy)
    assert xmodal("distill", "mine.yaml", "train.seed=1", "--dry-run").code == 0
    assert (spy.arguments, spy.options) == (("mine.yaml",), {"overrides": ("train.seed=1",)})


METRICS = {"text_to_image_recall@10": 0.9, "num_texts": 3}


def evaluation(*splits: str) -> SimpleNamespace:
    return SimpleNamespace(metrics=dict.fromkeys(splits, METRICS), table=lambda: "a table")


def test_evaluate_measures_a_run_on_its_own_splits(xmodal, monkeypatch, run):
    for student in (run, run / "student"):
        spy = Spy(evaluation("seen"))
        monkeypatch.setattr("xmodal.evaluate.evaluate", spy)
        outcome = xmodal("evaluate", student, "--task", "retrieval", "--task", "agreement")
        assert outcome.out == "a table\n"
        assert spy.arguments[0] == student
        assert set(spy.arguments[1]) == {"seen", "unseen names", "unseen style"}
        assert spy.options["tasks"] == ("retrieval", "agreement")
        assert spy.options["text"] == "json.name"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["--data", "a.tar"], METRICS),
        (["--data", "mine=a.tar", "--data", "yours=b.tar"], {"mine": METRICS, "yours": METRICS}),
    ],
)
def test_json_is_one_object_of_metrics_and_nothing_else(data, expected, xmodal, monkeypatch, tmp_path):
    splits = ["mine", "yours"] if len(data) > 2 else ["data"]
    spy = Spy(evaluation(*splits), chatter="Loading weights: 100%\n")
    monkeypatch.setattr("xmodal.evaluate.evaluate", spy)
    outcome = xmodal("evaluate", tmp_path, *data, "--format", "json", "--batch-size", "7", "--workers", "2")
    assert json.loads(outcome.out) == expected
    assert "Loading weights" in outcome.err
    assert (spy.options["batch_size"], spy.options["num_workers"], spy.options["text"]) == (7, 2, "txt")


def test_class_names_come_from_a_file_a_line_each(xmodal, monkeypatch, tmp_path):
    spy = Spy(evaluation("data"))
    monkeypatch.setattr("xmodal.evaluate.evaluate", spy)
    names = tmp_path / "names.txt"
    names.write_text("cat\n\ndog \n")
    xmodal(
        "evaluate",
        tmp_path,
        "--data",
        "a",
        "--task",
        "zero-shot",
        "--class-names",
        names,
        "--template",
        "a {}",
        "--template",
        "the {}",
    )
    assert spy.options["class_names"] == ["cat", "dog"]
    assert spy.options["templates"] == ("a {}", "the {}")
    missing = xmodal("evaluate", tmp_path, "--data", "a", "--class-names", tmp_path / "none.txt")
    assert missing.code == 2
    assert "none.txt" in missing.err


@pytest.mark.parametrize("command", [("evaluate",), ("search", "a cat", "--student")])
def test_a_student_alone_must_be_told_its_data(command, xmodal, tmp_path):
    outcome = xmodal(*command, tmp_path)
    assert outcome.code == 2
    assert "--data SHARDS" in outcome.err


def test_search_prints_hits_and_looks_through_all_of_a_run_s_splits(xmodal, monkeypatch, run):
    spy = Spy(
        [Hit("p1", "a cat", 0.5, "a.tar", 3), Hit("p2", None, 0.25, "a.tar", 4)],
        chatter="noise\n",
    )
    monkeypatch.setattr("xmodal.search.search", spy)
    outcome = xmodal("search", "a sad cat", "--student", run, "--count", "2", "--format", "json")
    assert [hit["key"] for hit in json.loads(outcome.out)] == ["p1", "p2"]
    assert spy.arguments == ("a sad cat",)
    assert spy.options["data"] == [f"package://emoji/{name}-*.tar" for name in ("train", "names", "style")]
    assert (spy.options["count"], spy.options["text"], spy.options["save"]) == (2, "json.name", None)
    spy.chatter = ""
    outcome = xmodal("search", "a sad cat", "--student", run, "--data", "b.tar", "--save", "found.png")
    assert outcome.out == "0.500  p1  a cat\n0.250  p2\npictures   found.png\n"
    assert spy.options["data"] == "b.tar"


def test_report_prints_the_page(xmodal, monkeypatch):
    spy = Spy(Path("runs/a/report.html"))
    monkeypatch.setattr("xmodal.report.write_report", spy)
    assert xmodal("report", "runs/a").out == "runs/a/report.html\n"
    assert spy.arguments == (Path("runs/a"),)


def test_zoo_commands_hand_on_index_folder_and_offline(xmodal, monkeypatch):
    spy = Spy(Path("cache/a"))
    monkeypatch.setattr("xmodal.zoo.download", spy)
    assert xmodal("zoo", "download", "a", "--from", "http://x", "--to", "here").out == "cache/a\n"
    assert (spy.arguments, spy.options) == (("a",), {"index": "http://x", "to": Path("here"), "offline": None})
    xmodal("zoo", "download", "a", "--offline")
    assert spy.options == {"index": None, "to": None, "offline": True}
    listing = Spy([])
    monkeypatch.setattr("xmodal.zoo.list_entries", listing)
    assert json.loads(xmodal("zoo", "list", "--from", "z", "--format", "json").out) == []
    assert (listing.arguments, listing.options) == (("z",), {"offline": None})
    publishing = Spy()
    monkeypatch.setattr("xmodal.zoo.publish", publishing)
    assert xmodal("zoo", "publish", "runs/a", "--to", "z", "--full", "--licence", "MIT").code == 0
    assert publishing.arguments == (Path("runs/a"), "z")
    assert publishing.options["half"] is False
    assert publishing.options["licence"] == "MIT"
    assert publishing.options["overwrite"] is False


def test_doctor_prints_findings_with_their_mend_and_exits_with_1_on_a_problem(xmodal, monkeypatch):
    findings = [Finding("python", "ok", "3.12"), Finding("recipe", "problem", "one\ntwo", "mend it")]
    spy = Spy(findings)
    monkeypatch.setattr("xmodal.doctor.examine", spy)
    outcome = xmodal("doctor", "mine.yaml", "train.seed=1")
    assert spy.arguments == ("mine.yaml", ("train.seed=1",))
    assert outcome.code == 1
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["ok", "python", "3.12"],
        ["problem", "recipe", "one"],
        ["two"],
        ["→", "mend", "it"],
    ]
    spy.answer = findings[:1]
    outcome = xmodal("doctor", "--format", "json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == [{"subject": "python", "state": "ok", "detail": "3.12", "mend": ""}]
