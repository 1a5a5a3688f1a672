from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import nn

from xmodal.adapters.encoder import Encoder
from xmodal.data.shards import open_shards
from xmodal.errors import DataError, EvaluationError
from xmodal.evaluate.contact_sheet import contact_sheet, fit, wrap
from xmodal.search import search

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorPreprocess:
    fields = ("image", "text")

    def __call__(self, sample):
        made = {}
        if "image" in sample:
            made["image"] = torch.from_numpy(np.asarray(sample["image"], dtype=np.float32)).mean((0, 1))
        if "text" in sample:
            made["text"] = torch.tensor([float(name in sample["text"]) for name in COLORS])
        return made

    def collate(self, items):
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class ColorEncoder(Encoder):
    """Sees the mean colour of a picture and the colours that a text names."""

    def __init__(self, modalities=("image", "text"), width=3):
        super().__init__()
        self.name, self.modalities, self.preprocess = f"colour {'/'.join(modalities)}", modalities, ColorPreprocess()
        self.preprocess.fields, self.embed_dim = modalities, width
        self.scale = nn.Parameter(torch.ones(()))

    def taps(self):
        return tuple(f"{modality}.embedding" for modality in self.modalities)

    def compute(self, inputs, taps):
        return {tap: nn.functional.pad(inputs[tap.split(".")[0]], (0, self.embed_dim - 3)) * self.scale for tap in taps}

    def identity(self):
        return self.name


@pytest.fixture
def shards(tmp_path):
    """Two shards, the same keys in both; a broken picture in the first."""
    for number, shade in enumerate((255, 128)):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as tar:
            for index, (name, color) in enumerate(COLORS.items()):
                buffer = io.BytesIO()
                Image.new("RGB", (40, 24), tuple(min(value, shade) + 9 * number for value in color)).save(buffer, "PNG")
                members = {"png": buffer.getvalue()}
                if number == 0:
                    members["txt"] = f"a {name} thing".encode()
                    if index == 1:
                        add(tar, "broken.png", b"no picture")
                for extension, data in members.items():
                    add(tar, f"{name}.{extension}", data)
    return str(tmp_path / "shard-{0..1}.tar")


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_the_nearest_pictures_come_first_and_point_to_their_samples(shards):
    hits = search("something green", student=ColorEncoder(), data=shards, count=3, batch_size=2)
    assert [(hit.key, hit.text, hit.sample) for hit in hits[:2]] == [("green", "a green thing", 2), ("green", None, 5)]
    assert hits[0].score == pytest.approx(1)
    assert hits[0].score >= hits[1].score >= hits[2].score
    opened = open_shards(shards)
    for hit in hits:
        assert opened.read(hit.sample).key == hit.key
        assert opened.read(hit.sample).shard == hit.shard


def test_there_are_no_more_hits_than_pictures(shards):
    assert len(search("red", student=ColorEncoder(), data=shards, count=100)) == 6


def test_the_teacher_reads_the_sentence_for_a_student_that_cannot(shards):
    teachers = {"t": ColorEncoder(("text",))}
    hits = search("blue", student=ColorEncoder(("image",)), data=shards, teachers=teachers, count=1)
    assert hits == search("blue", student=ColorEncoder(), data=shards, count=1)


def test_workers_change_nothing(shards):
    assert search("blue", student=ColorEncoder(), data=shards, num_workers=2) == search(
        "blue", student=ColorEncoder(), data=shards
    )


def test_the_contact_sheet_shows_the_pictures_in_their_order(shards, tmp_path):
    file = tmp_path / "new folder" / "sheet.png"
    hits = search("something blue", student=ColorEncoder(), data=shards, count=3, save=file)
    sheet = np.asarray(Image.open(file).convert("RGB")).astype(int)
    # The columns of saturated pixels, from left to right, are the three pictures.
    saturated = (sheet.max(2) - sheet.min(2)) > 60
    columns = np.flatnonzero(saturated.any(0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    assert len(groups) == len(hits) == 3
    for group, hit in zip(groups, hits, strict=True):
        shown = sheet[:, group][saturated[:, group]].mean(0)
        assert list(COLORS)[int(shown.argmax())] == hit.key


@pytest.mark.parametrize("name", ["sheet", "sheet.txt", "sheet.pngg"])
def test_a_file_that_is_no_picture_is_refused_before_anything_is_read(name, tmp_path):
    with pytest.raises(EvaluationError, match="does not end as a picture file does"):
        search("x", student=ColorEncoder(), data=str(tmp_path / "nothing*.tar"), save=tmp_path / name)


def test_a_search_that_cannot_work_says_why(shards, tmp_path):
    with pytest.raises(EvaluationError, match="Search needs a sentence"):
        search("  ", student=ColorEncoder(), data=shards)
    with pytest.raises(EvaluationError, match="count of 1 or more"):
        search("red", student=ColorEncoder(), data=shards, count=0)
    with pytest.raises(EvaluationError, match="nothing embeds text"):
        search("red", student=ColorEncoder(("image",)), data=shards)
    wide = {"t": ColorEncoder(("text",), width=5)}
    with pytest.raises(EvaluationError, match="they share no space"):
        search("red", student=ColorEncoder(("image",)), data=shards, teachers=wide)
    with pytest.raises(DataError):
        search("red", student=ColorEncoder(), data=str(tmp_path / "nothing*.tar"))


def test_a_long_query_and_long_names_stay_inside_the_sheet():
    font = ImageFont.load_default(20)
    words = "a very long sentence about many cats " * 10
    for text in (words, "unbroken" * 40, "short", ""):
        lines = wrap(text, font, 192, max_lines=2)
        assert len(lines) <= 2
        assert all(font.getlength(line) <= 192 for line in lines)
    assert wrap("short words here", font, 1000, max_lines=2) == ["short words here"]
    assert wrap(words, font, 192, max_lines=2)[-1].endswith("…")
    assert contact_sheet(words, [(Image.new("RGB", (9, 9)), words, "0.1")] * 7).width < 1400


@pytest.mark.parametrize("size", [(64, 64), (1000, 10), (10, 1000), (1, 1), (500, 2000)])
def test_pictures_are_fitted_whole(size):
    fitted = fit(Image.new("RGB", size), 100)
    assert max(fitted.size) == 100
    assert min(fitted.size) == max(1, round(100 * min(size) / max(size)))
