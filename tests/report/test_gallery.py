"""The gallery shows the very pictures that were found, and which of them are right, without leaning on colour."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmodal.report.pictures import MAX_SIDE, data_uri, find_pictures


def opened(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


def test_every_hit_shows_the_picture_of_its_own_key(report, run_folder, contents):
    import json

    folder = run_folder()
    rows = json.loads((folder / "gallery.json").read_text())
    shards = {split: folder.parents[1] / "shards" / f"style{n}.tar" for n, split in enumerate(contents.splits)}
    images = report().one(id="gallery").all("img")
    hits = [(row["split"], hit) for row in rows for hit in row["hits"]]
    assert len(images) == len(hits)
    for image, (split, hit) in zip(images, hits, strict=True):
        with tarfile.open(shards[split]) as tar:
            packed = Image.open(tar.extractfile(f"{hit['key']}.webp")).convert("RGB")
        shown = opened(image.attributes["src"]).convert("RGB")
        difference = np.abs(np.asarray(packed, dtype=float) - np.asarray(shown, dtype=float)).mean()
        assert difference < 6, hit["key"]
        assert image.attributes["alt"] == hit["text"]


def test_right_and_wrong_are_words_not_only_colours(report, run_folder):
    import json

    rows = json.loads((run_folder() / "gallery.json").read_text())
    items = report().one(id="gallery").all("li")
    correct = [hit["correct"] for row in rows for hit in row["hits"]]
    assert {True, False} == set(correct)
    for item, right in zip(items, correct, strict=True):
        assert item.one("span", "verdict").text == ("✓ right" if right else "✕ wrong")
        assert item.classes == (["right"] if right else ["wrong"])


def test_gallery_counts_the_queries_that_found_a_right_picture(report):
    def hits(*correct):
        return [{"key": f"style0-00{n}", "text": "t", "score": 0.5, "correct": c} for n, c in enumerate(correct)]

    rows = [
        {"split": "seen", "query": "a", "hits": hits(True, False)},
        {"split": "seen", "query": "b", "hits": hits(False, True)},
        {"split": "seen", "query": "c", "hits": hits(False, False)},
        {"split": "seen", "query": "d", "hits": []},
    ]
    text = report(gallery=rows).one(id="gallery").text
    assert "1 of 4 queries have a right picture first, 2 have one among the 2 shown." in text
    assert "found nothing" in text


def test_splits_with_spaces_keep_their_names(report, contents):
    assert [h.text for h in report().one(id="gallery").all("h3")] == list(contents.splits)


def test_without_its_shards_the_gallery_keeps_its_words_and_says_why(report, contents):
    page = report(recipe=contents.recipe(dict.fromkeys(contents.splits, "nowhere/x-*.tar")))
    gallery = page.one(id="gallery")
    assert not gallery.all("img")
    assert gallery.all("li")[0].text.startswith("no picture ")
    assert page.one("aside", "notes").text.count("its pictures are not shown") == 3


def test_one_set_of_shards_serves_every_split(report, contents, tmp_path):
    page = report(
        recipe=contents.recipe(str(tmp_path / "shards" / "style0.tar")),
        gallery=[
            {"split": "val", "query": "q", "hits": [{"key": "style0-001", "text": "t", "score": 1, "correct": True}]}
        ],
    )
    assert len(page.one(id="gallery").all("img")) == 1


def test_pictures_gone_or_broken_are_counted(report, contents, run_folder, tmp_path):
    run_folder()
    path = tmp_path / "shards" / "broken.tar"
    with tarfile.open(path, "w") as tar:
        for extension, content in (("png", b"not a picture"), ("txt", b"x")):
            member = tarfile.TarInfo(f"bad.{extension}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    notes: list[str] = []
    assert find_pictures({"a": str(path)}, {"a": {"bad", "gone"}}, notes) == {}
    assert notes == [
        "Gallery of 'a': 1 of its pictures are no longer in the shards.",
        "Gallery of 'a': 1 of its pictures do not decode.",
    ]


@pytest.mark.parametrize("size", [(64, 64), (4000, 100), (100, 4000), (1, 1), (128, 128)])
def test_pictures_are_made_small_and_never_large(size):
    shown = opened(data_uri(Image.new("RGB", size, "red")))
    assert max(shown.size) == min(MAX_SIDE, max(size))
    assert min(shown.size) >= 1


def test_large_pictures_of_many_queries_stay_within_the_budget(report, contents, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    noise = np.random.default_rng(0)
    with tarfile.open(folder / "noise.tar", "w") as tar:
        for number in range(30):
            buffer = io.BytesIO()
            Image.fromarray(noise.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(buffer, "PNG")
            for extension, content in (("png", buffer.getvalue()), ("txt", b"x")):
                member = tarfile.TarInfo(f"n{number:03d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    splits = [f"split {number}" for number in range(6)]
    hits = [{"key": f"n{n:03d}", "text": "x", "score": 0.5, "correct": True} for n in range(6)]
    rows = [{"split": split, "query": f"q{n}", "hits": hits} for split in splits for n in range(12)]
    page = report(recipe=contents.recipe(str(folder / "noise.tar")), gallery=rows)
    gallery = page.one(id="gallery")
    assert sum(len(image.attributes["src"]) for image in gallery.all("img")) < 1_400_000
    assert [h.text for h in gallery.all("h3")] == splits  # each split has its share
    assert "more in gallery.json" in gallery.text


def test_gallery_is_read_from_evaluation_json_where_it_has_no_file_of_its_own(report, contents):
    row = {"split": "seen", "query": "q", "hits": [{"key": "style0-001", "text": "t", "score": 1, "correct": True}]}
    page = report(gallery=None, evaluation={"metrics": {"seen": {"m": 0.5}}, "gallery": [row]})
    assert len(page.one(id="gallery").all("img")) == 1


def test_real_emoji_are_found_by_key(report, contents):
    from xmodal.data import open_shards

    shards = "package://emoji/names-*.tar"
    key = open_shards(shards).key(3)
    row = {"split": "unseen names", "query": "q", "hits": [{"key": key, "text": "t", "score": 0.5, "correct": True}]}
    image = report(recipe=contents.recipe({"unseen names": shards}), gallery=[row]).one(id="gallery").one("img")
    assert opened(image.attributes["src"]).size == (64, 64)
    assert not Path(image.attributes["src"]).is_absolute()
