"""The page as a whole: what it holds, that it stands alone, and that nothing a run wrote can break it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest

from xmodal.errors import RunError
from xmodal.report import write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;{{ 7*7 }}"


def test_page_says_what_was_distilled_into_what(report):
    models = report().one(id="models")
    assert "all-MiniLM-L6-v2 (text, 22.7 M parameters) taught tf_efficientnet_lite0" in models.text
    rows = {row.children[0].text: [cell.text for cell in row.children[1:]] for row in models.all("tr")}
    assert rows["parameters"] == ["22.7 M", "3.86 M"]
    assert rows["weights"] == ["90.9 MB", "15.6 MB"]
    assert rows["latency"] == ["9.31 ms", "11.9 ms"]
    assert "has 17 % of the teacher’s parameters and takes 1.3 times as long" in models.text


def test_squares_have_the_areas_of_the_parameters(report):
    teacher, student = (float(rect.attributes["width"]) for rect in report().one(id="models").all("rect"))
    assert student**2 / teacher**2 == pytest.approx(3_862_788 / 22_713_216, rel=0.01)


def test_page_holds_recipe_environment_and_how_to_load(report, run_folder):
    page = report()
    written = (run_folder() / "recipe.resolved.yaml").read_text()
    assert "".join(page.one(id="recipe").one("code").strings) == written.strip("\n")
    environment = {row.children[0].text: row.children[1].text for row in page.one(id="environment").all("tr")}
    assert environment["versions.torch"] == "2.14.1"
    assert environment["command"] == "xmodal distill emoji-text-to-image --out runs/quickstart"
    native = "".join(page.one(id="load").all("code")[0].strings)
    compile(native, "native", "exec")
    assert 'timm.create_model("local-dir:runs/quickstart/student", pretrained=True)' in native


def test_commands_of_the_page_survive_a_shell_and_name_the_run_as_typed_here(run_folder, parse, monkeypatch):
    folder = run_folder()
    monkeypatch.chdir(folder.parent.parent)
    page = parse(write_report(folder))
    python, shell = ("".join(code.strings) for code in page.one(id="load").all("code")[1:])
    compile(python, "python", "exec")
    assert "xmodal.load_student('runs/quick start')" in python
    search, evaluate, again = (shlex.split(line) for line in shell.splitlines())
    assert search[:4] == ["xmodal", "search", "a sad cat", "--student"]
    assert search[4] == evaluate[2] == "runs/quick start"
    assert again[2:] == ["runs/quick start/recipe.resolved.yaml", "--out", "runs/quick start-again"]


def test_a_student_without_a_library_of_its_own_is_loaded_with_xmodal_only(report, contents):
    summary = contents.summary()
    summary["student"]["load"] = "xmodal.load_student('runs/quickstart/student')"
    load = report(summary=summary).one(id="load")
    assert "without xmodal" not in load.text
    assert len(load.all("code")) == 2


def test_page_asks_the_network_for_nothing(report):
    for element in report().all():
        for name, value in element.attributes.items():
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background"):
                assert value.startswith(("data:", "#")), f"<{element.tag} {name}={value[:60]}>"
        assert element.tag not in ("iframe", "object", "embed", "base", "form", "use")
        if element.tag in ("style", "script"):
            assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org/2000/svg)|fetch\(|import\(", element.text)


def test_links_of_the_page_lead_somewhere(report):
    page = report()
    ids = {element.attributes["id"] for element in page.all() if "id" in element.attributes}
    assert {link.attributes["href"].removeprefix("#") for link in page.all("a")} <= ids


def test_policy_allows_this_style_and_this_script_and_no_others(report):
    page = report()
    (policy,) = (m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name in ("style", "script"):
        content = "".join(page.one(name).strings).encode()
        assert rules[f"{name}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
    # what the policy would refuse anyway
    for element in page.all():
        assert "style" not in element.attributes
        assert not [name for name in element.attributes if name.startswith("on")]


def test_all_content_is_in_the_page_without_its_script(report):
    page = report()
    assert len(page.one(id="gallery").all("img")) == 3 * 4 * 6
    assert len(page.one(id="training").all("figure", "panel")) == 3 + 3 + 4
    assert not page.all("noscript")


def test_markup_in_names_stays_text_wherever_it_comes_from(report, contents, tmp_path):
    h = HOSTILE
    summary, recipe = contents.summary(), contents.recipe({h: str(tmp_path / "shards" / "style0.tar")})
    summary.update(recipe=h, description=h)
    summary["student"] |= {"name": h, "modalities": [h], "load": h}
    summary["teachers"] = {h: {"name": h, "modalities": [h]}}
    summary["metrics"] = {h: {h: 0.5, "text_to_image_recall@10": 0.5}}
    summary["baseline"] = {"recipe": h, "metrics": {h: {h: {"mean": 0.1, "std": 0.1, "runs": 3}}}}
    recipe["objective"][0] |= {"label": h, "student": h, "teacher": [h]}
    lines = [
        {"step": s, h: 1.0, "terms": {h: 1.0 / s}, "evaluation": {h: {h: 0.1, "teacher_agreement": 0.2}}}
        for s in (1, 2, 3)
    ]
    page = report(
        summary=summary,
        recipe=recipe,
        metrics=lines,
        env={h: {h: [h]}},
        bad_samples=[{"key": h, "shard": h, "reason": h}],
        gallery=[{"split": h, "query": h, "hits": [{"key": "style0-000", "text": h, "score": 1, "correct": True}]}],
    )
    assert len(page.all("script")) == 1
    assert [image.attributes["alt"] for image in page.all("img")] == [h]
    assert not [e for e in page.all() if "onerror" in e.attributes]
    for part in ("models", "results", "gallery", "training", "load", "recipe", "environment"):
        assert h in page.one(id=part).text, part
    assert page.one("h1").text == h


FILES = ("recipe", "env", "summary", "evaluation", "gallery", "metrics", "bad_samples")


@pytest.mark.parametrize("missing", FILES)
def test_page_is_whole_without_any_one_file(report, missing):
    page = report(**{missing: None})
    assert [section.attributes["id"] for section in page.all("section") if section.attributes["id"] != "gallery"] == [
        "models", "results", "training", "load", "recipe", "environment",
    ]  # fmt: skip


@pytest.mark.parametrize("only", ["recipe", "summary", "metrics"])
def test_page_is_whole_with_a_single_file(report, only):
    page = report(**{name: None for name in FILES if name != only})
    assert page.one("aside", "notes").text


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", "[1, 2]", "3", '"x"', "{}", '{"metrics": 3}', "\x00\ufffd", "[" * 20_000]
)
def test_a_damaged_file_never_stops_the_report(report, content):
    page = report(**dict.fromkeys(FILES, content))
    assert page.one("h1").text == "quick start"


@pytest.mark.parametrize(
    "wrong",
    [None, 3, "x", [], [None], {"x": None}, True, float("nan"), float("inf"), -1, 10**400],
    ids=lambda wrong: repr(wrong)[:9],
)
def test_fields_of_the_wrong_kind_never_stop_the_report(report, contents, wrong):
    few = {"gallery": [], "metrics": contents.metrics(4, 2, 4)}
    summary, recipe = contents.summary(), contents.recipe("nowhere/*.tar")
    for part in summary:
        assert report(summary={**summary, part: wrong}, **few).one(id="models")
    for part in ("student", "training"):
        assert report(summary={**summary, part: dict.fromkeys(summary[part], wrong)}, **few).one(id="models")
    for part in recipe:
        assert report(recipe={**recipe, part: wrong}, **few).one(id="recipe")
    gallery = [{"split": wrong, "query": wrong, "hits": wrong}, {"hits": [wrong, {"key": wrong, "score": wrong}]}]
    assert report(gallery=gallery, recipe=recipe).one(id="gallery")
    metrics = [{"step": wrong, "loss": wrong}, {"step": 1, "loss": wrong, "terms": wrong, "evaluation": {"a": wrong}}]
    assert report(metrics=metrics, gallery=[]).one(id="training")


def test_notes_name_the_half_written_line_and_the_missing_summary(report, contents):
    lines = "".join(json.dumps(line) + "\n" for line in contents.metrics(20, 2, 10))
    page = report(metrics=lines + '{"step": 22, "lo', summary=None)
    notes = page.one("aside", "notes").text
    assert f"line {lines.count(chr(10)) + 1} is not whole" in notes
    assert "The run has not finished" in notes


def test_a_whole_run_leaves_no_note(report):
    assert not report().all("aside")


def test_report_replaces_an_older_one_and_leaves_nothing_else(run_folder):
    folder = run_folder()
    before = {path.name for path in folder.iterdir()}
    (folder / "report.html").write_text("old")
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {p.name for p in folder.iterdir()} == before | {"report.html"}


def test_the_same_run_gives_the_same_page(run_folder):
    folder = run_folder()
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_folder_that_is_no_run_is_refused_with_the_mend(tmp_path):
    with pytest.raises(RunError, match="is not a folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(RunError, match="xmodal distill RECIPE --out DIR"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_page_stays_under_two_megabytes_with_a_long_run_and_a_full_gallery(report, contents, run_folder, tmp_path):
    lines = contents.metrics(100_000, 20, 5_000)
    for line in lines:
        if "terms" in line:
            line["terms"] = {f"term {number}": line["loss"] * (1 + number) for number in range(8)}
    rows = json.loads((run_folder() / "gallery.json").read_text())
    page = write_report(run_folder(metrics=lines, gallery=rows * 40))
    assert page.stat().st_size < 2_000_000


def test_writing_a_report_does_not_import_torch(run_folder):
    import subprocess
    import sys

    folder = run_folder()
    code = f"from xmodal.report import write_report; write_report({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "False", done.stderr
