"""The figures of the page are the run's, each beside its own baseline."""

from __future__ import annotations

import pytest


def table(page) -> dict[str, list[str]]:
    rows = page.one(id="results").one("table", "metrics").one("tbody").all("tr")
    return {row.children[0].text: [cell.text for cell in row.children[1:]] for row in rows}


def test_each_metric_stands_beside_its_baseline_for_every_split(report, contents):
    page, summary = report(), contents.summary()
    heads = page.one(id="results").one("table", "metrics").one("thead").all("tr")
    assert [th.text for th in heads[0].all("th")] == ["metric", *contents.splits]
    assert [th.text for th in heads[1].all("th")] == ["student", "baseline", "gain"] * 3
    cells = table(page)["text to image recall@10"]
    for number, split in enumerate(contents.splits):
        value = summary["metrics"][split]["text_to_image_recall@10"]
        mean = summary["baseline"]["metrics"][split]["text_to_image_recall@10"]["mean"]
        student, baseline, gain = cells[3 * number : 3 * number + 3]
        assert float(student) == pytest.approx(value, abs=5e-4)
        assert baseline.replace("\u202f", " ") == f"{mean:.3f} ± 0.012"
        assert float(gain) == pytest.approx(value - mean, abs=1e-3)
    assert "mean and standard deviation of 3 runs" in page.one(id="results").text


def test_a_loss_against_the_baseline_is_shown_as_one(report, contents):
    summary = contents.summary()
    summary["baseline"]["metrics"]["seen"]["text_to_image_recall@10"]["mean"] = 0.99
    assert table(report(summary=summary))["text to image recall@10"][2].startswith("−0.0")


def test_metrics_without_a_baseline_figure_have_no_gain(report):
    assert table(report())["teacher agreement"][1:3] == ["", ""]


def test_without_a_baseline_the_page_says_so_and_has_no_column_for_it(report, contents):
    summary = contents.summary() | {"baseline": None}
    results = report(summary=summary).one(id="results")
    assert "No baseline was measured" in results.text
    assert "gain" not in results.one("thead").text


def test_every_metric_of_the_run_is_in_the_table_and_counts_come_last(report, contents):
    rows = table(report())
    assert len(rows) == len(contents.split_metrics("seen"))
    names = list(rows)
    assert names.index("chance recall@10") == names.index("text to image recall@10") + 1
    assert [name for name in names if name.startswith("number")] == names[-4:]
    assert rows["number of images"][0] == "3 422"


def test_splits_come_in_the_order_of_the_recipe(report, contents, tmp_path):
    val = dict.fromkeys(reversed(contents.splits), "nowhere/*.tar")
    page = report(recipe=contents.recipe(val))
    assert [th.text for th in page.one(id="results").all("th", "split")] == list(reversed(contents.splits))


@pytest.mark.parametrize("nested", [True, False])
def test_figures_fall_back_to_evaluation_json_then_to_the_last_evaluation(report, contents, nested):
    evaluation = {"seen": {"zero_shot_top1": 0.4321}}
    page = report(summary=None, evaluation={"metrics": evaluation} if nested else evaluation)
    assert table(page) == {"zero shot top1": ["0.432"]}
    page = report(
        summary=None, evaluation=None, metrics=[{"step": 3, "evaluation": {"seen": {"zero_shot_top1": 0.25}}}]
    )
    assert table(page) == {"zero shot top1": ["0.250"]}
    assert "last evaluation during training" in page.one(id="results").text


def test_a_run_that_was_not_evaluated_says_so(report):
    page = report(summary=None, evaluation=None, metrics=[{"step": 3, "loss": 1.0}], gallery=None)
    assert "Nothing was evaluated" in page.one(id="results").text


def test_figures_that_are_not_finite_are_left_out_of_the_table(report, contents):
    summary = contents.summary()
    summary["metrics"] = {"seen": {"a": float("nan"), "b": None, "c": 0.5}}
    assert list(table(report(summary=summary))) == ["c"]


def test_comparison_puts_student_baseline_and_chance_on_one_scale(report, contents):
    figure = report().one(id="results").one("figure", "comparison")
    drawn = [svg for svg in figure.all("svg") if "aria-label" in svg.attributes]
    assert len(drawn) == 3
    for split, svg in zip(contents.splits, drawn, strict=True):
        value = contents.split_metrics(split)["text_to_image_recall@10"]
        student, baseline = svg.one("circle", "student"), svg.one("circle", "baseline")
        assert float(student.attributes["cx"].rstrip("%")) == pytest.approx(100 * value, abs=0.01)
        assert float(baseline.attributes["cx"].rstrip("%")) == pytest.approx(60 * value, abs=0.01)
        assert svg.attributes["aria-label"].startswith(f"{split}: student {value:.3f}, baseline {0.6 * value:.3f}")


def test_several_teachers_are_all_listed_and_none_is_said_to_be_the_one(report, contents):
    summary = contents.summary()
    summary["teachers"]["second"] = {"name": "timm (resnet18)", "modalities": ["image"], "parameters": 11_700_000}
    models = report(summary=summary).one(id="models")
    assert [th.text for th in models.one("thead").all("th")] == ["", "teacher", "second", "student"]
    assert (
        "all-MiniLM-L6-v2 (text, 22.7 M parameters) and resnet18 (image, 11.7 M parameters) taught"
        in models.text.replace("\u202f", " ")
    )
    assert "The student has" not in models.text


def test_a_run_without_a_teacher_says_so(report, contents):
    summary = contents.summary() | {"teachers": {}}
    recipe = contents.recipe(None)
    del recipe["teacher"]
    models = report(summary=summary, recipe=recipe).one(id="models")
    assert "was trained without a teacher" in models.text
    assert models.one("h2").text == "What was trained"
