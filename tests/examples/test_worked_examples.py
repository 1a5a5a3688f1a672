"""The worked examples of examples/*.yaml, each with few steps and few samples; what they teach loads without xmodal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from sentence_transformers import SentenceTransformer

import xmodal
from xmodal.data import ShardWriter, open_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
EMOJI = "package://emoji/names-*.tar"
SMALL = ["train.epochs=null", "train.max_steps=3", "train.batch_size=16", "data.num_workers=0", "data.slots=4"]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """Names of emoji, twice over, in the form that both kinds of text shards have."""
    folder, opened = tmp_path_factory.mktemp("words"), open_shards(EMOJI)
    with ShardWriter(folder) as writer:
        for number in range(48):
            name = json.loads(opened.read(number).members["json"])["name"]
            about = {"name": name, "english": name, "texts": [name, f"a picture of {name}"], "language": "en"}
            about["codepoint"] = json.loads(opened.read(number).members["json"])["codepoint"]
            writer.add(f"w{number}", {"txt": f"das ist {name}".encode(), "json": json.dumps(about).encode()})
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    folder, opened = tmp_path_factory.mktemp("pictures"), open_shards(EMOJI)
    with ShardWriter(folder) as writer:
        for number in range(96):
            raw = opened.read(number)
            writer.add(raw.key, raw.members)
    return str(folder)


def run(name: str, out: Path, *changes: str) -> xmodal.Run:
    return xmodal.distill(EXAMPLES / f"{name}.yaml", out=out, overrides=[*SMALL, *changes])


@pytest.mark.parametrize("name", ["text-to-text", "text-across-languages"])
def test_texts_to_texts(name, words, tmp_path):
    changes = [f"data.train={words}", f"data.val={words}", f"student.texts={words}", "student.vocab_size=300"]
    taught = run(name, tmp_path / "taught", *changes, "teacher.cached=false")
    alone = run(f"{name}-without-teacher", tmp_path / "alone", *changes)
    assert 0 <= taught.metrics["val"]["query_to_text_recall@10"] <= 1
    assert set(alone.metrics["val"]) <= set(taught.metrics["val"])
    for one in (taught, alone):
        theirs = SentenceTransformer(str(one.folder / "student")).encode(["a sad cat"])
        assert abs(theirs - one.student.encode(text=["a sad cat"])["text.embedding"].numpy()).max() < 1e-5
    assert alone.student.num_parameters() == taught.student.num_parameters()


def test_pictures_to_pictures(pictures, tmp_path):
    changes = [f"data.train={pictures}", f"data.val={pictures}", "evaluate.label=json.group"]
    taught = run("image-to-image", tmp_path / "taught", *changes, "teacher.cached=false", "teacher.image_size=64")
    alone = run("image-to-image-without-teacher", tmp_path / "alone", *changes)
    assert {"knn_top1", "probe_top1"} <= set(taught.metrics["val"]) & set(alone.metrics["val"])
    assert taught.student.num_parameters() < 3e6
    model = timm.create_model(f"local-dir:{taught.folder / 'student'}", pretrained=True).eval()
    pixels = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(pixels), taught.student.eval().model(pixels))


def test_a_locked_tower_teaches_two_towers(pictures, tmp_path):
    val = [f"data.val={pictures}", f"data.train={pictures}"]
    teacher = run("locked-tower", tmp_path / "locked", *val)
    taught = run("two-towers", tmp_path / "taught", *val, f"teacher.folder={teacher.folder}", "teacher.cached=false")
    alone = run("two-towers-without-teacher", tmp_path / "alone", *val)
    assert taught.student.num_parameters() == alone.student.num_parameters() < 6e6
    assert {"text_to_image_recall@10", "zero_shot_top1"} <= set(taught.metrics["val"])
    timm.create_model(f"local-dir:{taught.folder / 'student' / 'image'}", pretrained=True)
    SentenceTransformer(str(taught.folder / "student" / "text"))


def test_every_worked_example_is_run_here():
    told = Path(__file__).read_text()
    assert all(path.stem.removesuffix("-without-teacher") in told for path in EXAMPLES.glob("*.yaml"))


def test_a_word_of_one_student_finds_the_pictures_of_another(words, pictures, tmp_path):
    changes = [f"data.train={words}", f"data.val={words}", f"student.texts={words}", "student.vocab_size=300"]
    changes += ["teacher.cached=false"]
    english, languages = (run(name, tmp_path / name, *changes) for name in ("text-to-text", "text-across-languages"))
    out = tmp_path / "page.html"
    command = [sys.executable, EXAMPLES / "one_space.py", "--english", english.folder, "--languages", languages.folder]
    command += ["--data", pictures, "--names", f"{words}/*.tar", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout.splitlines()[-1])["en"] <= 1
    assert out.read_text().count("<img") == 10 * 8
    assert "πιγκουίνος" in out.read_text()

    stranger = xmodal.create_student("static", width=16)
    folder = xmodal.save_student(stranger, tmp_path / "stranger")
    wrong = subprocess.run([*command[:3], folder, *command[4:]], env=environment, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "do not lie in one teacher's space" in wrong.stderr
