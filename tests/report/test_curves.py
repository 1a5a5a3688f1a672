"""What the curves show is what was logged: no value moved, no spike lost, no gap bridged."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.report import scale
from xmodal.report.curves import curve, term_subtitles
from xmodal.report.history import Series, last_evaluation, read_history
from xmodal.report.panels import evaluation_panels

finite = st.floats(-1e300, 1e300, allow_subnormal=False)


def drawn(path: str) -> list[list[tuple[float, float]]]:
    lines = [part for part in path.split("M") if part]
    return [[tuple(map(float, point.split())) for point in line.split("L")] for line in lines]


def test_every_logged_value_is_drawn_where_the_axes_say():
    steps, values = list(range(10, 510, 10)), [3 + math.sin(n) for n in range(50)]
    made = curve(Series("loss", steps, values), title="loss")
    (line,) = drawn(made.raw)

    # read the axes as a person would: two ticks of each give the rule
    def along(ticks, place):
        (p0, t0), (p1, t1) = [(p, float(t.replace("\u202f", ""))) for p, t in ticks][:2]
        return t0 + (place - p0) / (p1 - p0) * (t1 - t0)

    assert [along(made.frame.x_ticks, x) for x, _ in line] == pytest.approx(steps, abs=1)
    assert [along(made.frame.y_ticks, y) for _, y in line] == pytest.approx(values, abs=0.01)


@given(st.lists(finite, min_size=1, max_size=60), st.booleans())
def test_no_value_falls_outside_the_frame(values, from_zero):
    made = curve(Series("x", list(range(1, len(values) + 1)), list(values)), title="x", from_zero=from_zero)
    points = [point for line in drawn(made.raw) + drawn(made.smooth) for point in line] + made.dots
    assert points
    for x, y in points:
        assert made.frame.left - 0.1 <= x <= made.frame.right + 0.1
        assert made.frame.top - 0.1 <= y <= made.frame.bottom + 0.1
    for place, label in made.frame.y_ticks:
        assert made.frame.top - 0.1 <= place <= made.frame.bottom + 0.1
        assert label != "—"
    assert len(made.frame.y_ticks) <= 7


def test_ticks_of_an_axis_are_told_apart():
    for low, high in [(0, 1), (0.95, 0.951), (1e-12, 3e-12), (-5, 1e6), (2e9, 2.1e9)]:
        made = curve(Series("x", [1, 2], [low, high]), title="x")
        labels = [label for _, label in made.frame.y_ticks]
        assert len(labels) >= 2
        assert len(set(labels)) == len(labels), labels


def test_values_that_are_not_finite_break_the_line_and_are_marked():
    values = [1.0, 2.0, None, 3.0, None, None, 4.0, 5.0]
    made = curve(Series("loss", list(range(1, 9)), values), title="loss")
    assert [len(line) for line in drawn(made.raw)] == [2, 2]
    assert len(made.dots) == 1  # the 3 between two gaps
    assert made.broken == [pytest.approx(made.frame.x(step)) for step in (3, 5, 6)]
    assert "Not finite 3 of 8 times" in made.summary


def test_a_series_that_was_never_finite_is_said_to_be_so():
    made = curve(Series("loss", [1, 2], [None, None]), title="loss")
    assert made.summary == "Logged 2 times and never finite."
    assert not made.raw


def test_a_few_values_are_drawn_as_they_are():
    made = curve(Series("loss", list(range(19)), [float(n) for n in range(19)]), title="loss")
    assert made.window == 1
    assert not made.smooth
    assert "Mean" not in made.summary


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=80), st.integers(0, 8))
def test_smoothed_line_is_the_mean_over_the_window_said(values, half):
    window = 2 * half + 1
    for index, mean in enumerate(scale.moving_mean(values, window)):
        near = [v for v in values[max(0, index - half) : index + half + 1] if v is not None]
        if values[index] is None:
            assert mean is None
        else:
            assert mean == pytest.approx(np.mean(near), abs=1e-6)


@given(st.integers(0, 2**32), st.integers(2, 2000), st.integers(5, 50))
def test_thinning_keeps_every_extreme_and_both_ends(seed, count, columns):
    values = np.random.default_rng(seed).normal(size=count).tolist()
    points = list(enumerate(values))
    kept = scale.thin(points, columns)
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(v for _, v in kept), max(v for _, v in kept)} == {min(values), max(values)}
    assert len(kept) <= 4 * (columns + 1)


@pytest.mark.parametrize("odd", [9.0, -9.0])
def test_one_odd_value_among_many_thousands_is_still_seen(odd):
    values = [1.0] * 50_000
    values[31_337] = odd
    made = curve(Series("loss", list(range(50_000)), values), title="loss")
    heights = [y for line in drawn(made.raw) for _, y in line]
    assert (min if odd > 1 else max)(heights) == pytest.approx(made.frame.y(odd), abs=0.1)


def test_wide_ranges_are_logarithmic_and_say_so(report, contents):
    lines = [{"step": n, "loss": 10.0 ** (-n / 10)} for n in range(1, 60)]
    panel = report(metrics=lines, gallery=[]).one(id="training").all("figure", "panel")[0]
    assert "logarithmic scale" in panel.text
    made = curve(Series("loss", list(range(1, 60)), [10.0 ** (-n / 10) for n in range(1, 60)]), title="loss")
    (line,) = drawn(made.raw)
    slopes = {round((b[1] - a[1]) / (b[0] - a[0]), 1) for a, b in itertools.pairwise(line)}
    assert max(slopes) - min(slopes) <= 0.2  # an exponential is a straight line


def test_evaluations_and_stages_are_marked_at_their_steps():
    made = curve(Series("x", list(range(101)), [0.0] * 101), title="x", evaluations=[50, 100, 900], stages=[40])
    assert made.evaluations == [made.frame.x(50), made.frame.x(100)]
    assert made.stages == [made.frame.x(40)]


def test_neither_line_nor_mean_runs_from_one_stage_into_the_next():
    values = [0.0] * 100 + [10.0] * 100
    made = curve(Series("x", list(range(1, 201)), values), title="x", stages=[100])
    assert len(drawn(made.raw)) == len(drawn(made.smooth)) == 2
    heights = {y for line in drawn(made.smooth) for _, y in line}
    assert heights == {round(made.frame.y(0), 1), round(made.frame.y(10), 1)}


def test_the_pointer_reads_what_was_logged():
    made = curve(Series("x", [1, 2, 3], [0.5, None, 0.25]), title="x")
    assert [text for _, text in json.loads(made.hover)] == ["step 1: 0.5", "step 2: not finite", "step 3: 0.25"]
    assert len(json.loads(curve(Series("x", list(range(9999)), [1.0] * 9999), title="x").hover)) <= 150


def test_a_step_logged_again_after_a_resume_counts_as_logged_last():
    history = read_history([{"step": s, "loss": v} for s, v in [(1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, 30.0)]])
    assert history.others["loss"].points == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_steps_of_stages_are_counted_on():
    lines = [{"stage": stage, "step": step, "loss": 1.0} for stage in (0, 1, 2) for step in (5, 10)]
    history = read_history([*lines, {"stage": 2, "step": 10, "evaluation": {"val": {"m": 0.5}}}])
    assert history.others["loss"].steps == [5, 10, 15, 20, 25, 30]
    assert history.stage_starts == [10, 20]
    assert history.evaluation_steps == [30]
    assert history.last_step == 30


def test_nan_and_infinity_in_the_file_are_gaps():
    lines = [
        json.loads(t)
        for t in ('{"step": 1, "loss": NaN}', '{"step": 2, "loss": -Infinity}', '{"step": 3, "loss": null}')
    ]
    assert read_history(lines).others["loss"].values == [None, None, None]


def test_last_evaluation_takes_the_newest_finite_figure():
    lines = [{"step": s, "evaluation": {"a b": {"m": v}}} for s, v in [(10, 0.1), (20, 0.2), (30, float("nan"))]]
    assert last_evaluation(read_history(lines)) == {"a b": {"m": 0.2}}


def test_taps_of_several_tensors_and_a_changing_weight_are_said_too():
    term = {
        "loss": "a",
        "student": {"image": "b", "text": "c"},
        "teacher": [["d", "e"], "f"],
        "weight": {"from": 0.0, "to": 2.0, "until": 0.5},
    }
    (said,) = term_subtitles({"objective": [term]}).values()
    assert said.replace("\u00a0", " ") == "b, c ← d, e, f · weight 0 → 2"


def test_terms_are_captioned_under_the_label_they_are_logged_by():
    recipe = {
        "objective": [
            {"loss": "kl", "student": "logits", "teacher": "logits"},
            {"loss": "kl", "student": "a", "teacher": "b", "weight": 0.5},
            {"loss": "kl", "label": "mine", "student": ["a", "teacher:b"]},
        ],
        "stages": [{"objective": [{"loss": "mse", "student": "c", "teacher": "d"}]}, {"train": {}}],
    }
    said = {label: text.replace("\u00a0", " ") for label, text in term_subtitles(recipe).items()}
    assert said == {
        "kl": "logits ← logits · weight 1",
        "kl#2": "a ← b · weight 0.5",
        "mine": "a, teacher:b · weight 1",
        "mse": "c ← d · weight 1",
    }


def test_every_term_has_a_panel_and_the_loss_comes_first(report):
    panels = report().one(id="training").all("figure", "panel")
    titles = [panel.one("figcaption").text for panel in panels]
    assert titles[:3] == ["loss", "feature_cosine", "soft_contrastive"]
    assert "learning rate" in titles
    assert "image.embedding ← text.embedding · weight 1" in panels[1].text.replace("\u00a0", " ")
    for panel in panels:
        assert panel.one("svg").attributes["role"] == "img"
        assert panel.one("svg").attributes["aria-label"]
    assert [len(panel.all("path", "evaluated")) for panel in panels[:3]] == [4, 4, 4]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_of_an_evaluation_panel_never_overlap(last):
    rows = [
        {"step": step, "evaluation": {f"split {n}": {"m": value * step / 2} for n, value in enumerate(last)}}
        for step in (1, 2)
    ]
    splits = [f"split {n}" for n in range(len(last))]
    (panel,) = evaluation_panels(read_history(rows), ["m"], splits)
    heights = sorted(line.label_y for line in panel.lines)
    assert all(b - a >= 13.9 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= panel.frame.bottom
    marks = [line.mark for line in panel.lines[:4]]
    assert len(set(marks)) == len(marks)  # shape tells them apart, not colour alone


def test_svg_numbers_are_numbers(report):
    for svg in report().all("svg"):
        for element in svg.all():
            for name in ("d", "x", "y", "cx", "cy", "r", "width", "height", "x1", "x2", "y1", "y2"):
                value = element.attributes.get(name)
                assert value is None or not re.search(r"nan|inf|None|e-?\d", value), (element.tag, name, value)
