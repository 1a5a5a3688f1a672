"""Neighbours, probe and intervals as a recipe and as the command line ask for them."""

from __future__ import annotations

import json

import pytest
import torch

from xmodal.adapters import create_student
from xmodal.cli import main
from xmodal.distillation import distill
from xmodal.evaluate import evaluate
from xmodal.export.native import save_student
from xmodal.recipes import check, load_recipe

VAL, TRAIN = "package://emoji/style-*.tar", "package://emoji/train-000000.tar"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    torch.manual_seed(0)
    made = create_student("image", model="mobilenetv3_small_050", weights="random", embed_dim=24, image_size=32)
    return save_student(made, tmp_path_factory.mktemp("run") / "student", {})


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_prints_what_the_function_measures(capsys, student):
    asked = ["--data", VAL, "--train", TRAIN, "--label", "json.group", "--task", "knn", "--task", "probe"]
    numbers = ["--knn-k", 5, "--knn-temperature", 0.2, "--bootstrap", 50, "--seed", 4]
    code, out, _ = run(capsys, student, *asked, *numbers, "--format", "json")
    options = {"knn_k": 5, "knn_temperature": 0.2, "bootstrap": 50, "seed": 4}
    expected = evaluate(student, VAL, tasks=["knn", "probe"], train=TRAIN, label="json.group", **options)
    assert code == 0
    assert json.loads(out) == pytest.approx(expected.metrics["data"], abs=1e-9)
    assert {"knn_top1_low", "probe_mean_per_class_recall_high"} < set(json.loads(out))


def test_what_the_command_lacks_is_said(capsys, student, tmp_path):
    code, _, error = run(capsys, student, "--data", VAL, "--task", "probe", "--label", "json.group")
    assert code == 2
    assert "--train SHARDS" in error
    templates = tmp_path / "templates.txt"
    templates.write_text("a {c}\n")
    code, _, error = run(capsys, student, "--data", VAL, "--template", "a {}", "--templates", templates)
    assert code == 2
    assert "not both" in error


def test_templates_come_from_a_file_in_either_form(monkeypatch, student, tmp_path, capsys):
    seen = {}
    monkeypatch.setattr("xmodal.evaluate.evaluate", lambda *_, **options: seen.update(options) or 1 / 0)
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo of a {c}.\n\na drawing of {}\n")
    with pytest.raises(ZeroDivisionError):
        run(capsys, student, "--data", VAL, "--templates", templates)
    assert seen["templates"] == ["a photo of a {}.", "a drawing of {}"]


def test_a_recipe_names_its_training_shards_or_means_its_own():
    plain = load_recipe("emoji-text-to-image", ["evaluate.tasks=[knn, probe]"])
    assert plain.probe_shards() == plain.data.train
    given = load_recipe("emoji-text-to-image", [f"evaluate.train=[{TRAIN}]", "evaluate.knn_k=3"])
    assert given.probe_shards() == [TRAIN]
    sources = load_recipe(
        "emoji-text-to-image", [f"data.train={{a: {TRAIN}, b: {{shards: ['{VAL}'], weight: 1}}}}", "data.mix=samples"]
    )
    assert sources.probe_shards() == [TRAIN, VAL]
    (mistake,) = check(load_recipe("emoji-text-to-image", ["evaluate.train=/nowhere/*.tar"]))
    assert mistake.path == "evaluate.train"


def test_a_run_measures_neighbours_and_probe_and_the_command_repeats_it(capsys, tmp_path):
    overrides = [
        "student={name: image, model: mobilenetv3_small_050, weights: random}",
        *("data.image_size=32", f"data.train={TRAIN}", f"data.val={VAL}", "data.num_workers=0"),
        *("train.epochs=null", "train.max_steps=2", "train.batch_size=16"),
        *("evaluate.tasks=[knn, probe]", "evaluate.label=json.group", "evaluate.bootstrap=20", "baseline=null"),
    ]
    metrics = distill("emoji-text-to-image", out=tmp_path / "run", overrides=overrides).metrics["val"]
    assert metrics["knn_top1_low"] <= metrics["knn_top1"] <= metrics["knn_top1_high"]
    code, out, _ = run(
        capsys, tmp_path / "run", "--task", "knn", "--task", "probe", "--bootstrap", "20", "--format", "json"
    )
    assert code == 0
    # memory of another alignment sums in another order: of these 1594 pictures one or two lie on a border
    assert json.loads(out) == pytest.approx(metrics, abs=2e-3)
