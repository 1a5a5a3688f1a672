"""The way of a newcomer, on eight pictures: distill, evaluate, search, report, publish, download, load."""

from __future__ import annotations

import json
from pathlib import Path

TINY = [
    "student={name: image, model: test_resnet, weights: random}",
    "train.max_steps=2",
    "train.batch_size=4",
    "train.device=cpu",
    "data.num_workers=0",
    "data.image_size=32",
    "data.augment.crop_scale=null",
]


def test_every_command_works_on_what_the_one_before_it_left(xmodal, shards, tmp_path):
    run, zoo = tmp_path / "run", tmp_path / "zoo"
    settings = [*TINY, f"data.train={shards}", f"data.val={shards}"]
    assert xmodal("distill", "emoji-text-to-image", *settings, "--dry-run").code == 0
    assert not run.exists()
    outcome = xmodal("distill", "emoji-text-to-image", *settings, "--out", run)
    assert outcome.code == 0, outcome.err
    assert str(run / "student") in outcome.out.replace("\n", "")

    again = xmodal("distill", "emoji-text-to-image", *settings, "--out", run)
    assert again.code == 2
    assert "--resume" in again.err
    assert "finished" in xmodal("distill", "emoji-text-to-image", *settings, "--out", run, "--resume").out
    assert xmodal("recipes", "check", run / "recipe.resolved.yaml").code == 0

    metrics = json.loads(xmodal("evaluate", run, "--data", shards, "--task", "retrieval", "--format", "json").out)
    assert metrics["num_texts"] == 8
    assert metrics["text_to_image_recall@10"] == 1.0
    assert (
        metrics["text_to_image_recall@1"]
        == json.loads((run / "evaluation.json").read_text())["val"]["text_to_image_recall@1"]
    )

    picture = tmp_path / "found.png"
    hits = xmodal("search", "a red square", "--student", run, "--count", "3", "--save", picture).out.splitlines()
    assert len(hits) == 4
    assert picture.is_file()

    page = run / "report.html"
    page.unlink()
    assert xmodal("report", run).out == f"{page}\n"
    assert page.is_file()

    assert xmodal("zoo", "publish", run, "--to", zoo, "--name", "tiny").code == 0
    assert [entry["name"] for entry in json.loads(xmodal("zoo", "list", "--from", zoo, "--format", "json").out)] == [
        "tiny"
    ]
    assert "tiny" in xmodal("zoo", "show", "tiny", "--from", zoo).out
    folder = Path(xmodal("zoo", "download", "tiny", "--from", zoo, "--to", tmp_path / "got").out.strip())
    assert (folder / "model.safetensors").is_file()
    found = xmodal("search", "a red square", "--student", folder, "--data", shards, "--count", "3").out
    assert [line.split()[1] for line in found.splitlines()] == [line.split()[1] for line in hits[:3]]
