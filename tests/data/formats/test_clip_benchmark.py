from __future__ import annotations

import random

import pytest
import torch

from xmodal.adapters import create_student
from xmodal.data import open_shards
from xmodal.data.formats import read_layout
from xmodal.errors import DataError, EvaluationError
from xmodal.evaluate import evaluate
from xmodal.recipes import check, load_recipe

NAMES = ["astronaut", "cat", "cup of coffee"]


def layout(folder, tar, pictures, as_png, *, split="test", kind=None, captions=None, sizes=(2, 4, 3)):
    """As clip_benchmark's webdataset_builder writes it; eleven shards would sort 10.tar before 2.tar."""
    number = 0
    for shard, size in enumerate(sizes):
        samples = []
        for _ in range(size):
            label = {"cls": number % 3} if captions is None else {"txt": "\n".join(captions[number])}
            samples.append((f"s{number:07d}", {"png": as_png(pictures[number % len(pictures)][1]), **label}))
            number += 1
        tar(folder / split / f"{shard}.tar", samples)
    (folder / split / "nshards.txt").write_text(f"{len(sizes)}\n")
    if captions is None:
        (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na drawing of the {c}\n")
    if kind:
        (folder / "dataset_type.txt").write_text(f"{kind}\n")
    return folder


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    image = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    text = {"num_layers": 1, "width": 32, "num_heads": 2}
    return create_student("clip", image=image, text=text, embed_dim=16).eval()


def test_shards_come_by_number_with_what_the_folder_says(tar, pictures, as_png, tmp_path):
    folder = layout(tmp_path / "data", tar, pictures, as_png, sizes=(1,) * 11)
    found = read_layout(folder)
    assert [path.rpartition("/")[2] for path in found.shards] == [f"{number}.tar" for number in range(11)]
    assert found.class_names == tuple(NAMES)
    assert found.templates == ("a photo of a {}.", "a drawing of the {}")
    assert found.task == "zero-shot"
    assert read_layout(folder / "test") == found
    shards = open_shards(folder)
    assert [shards.key(number) for number in range(11)] == [f"s{number:07d}" for number in range(11)]
    assert open_shards(f"{folder}/test").fingerprint == shards.fingerprint


def test_other_folders_are_not_in_this_layout(tar, pictures, as_png, tmp_path):
    assert read_layout(tmp_path) is None
    assert read_layout(tmp_path / "absent") is None
    train = layout(tmp_path / "one", tar, pictures, as_png, split="train")
    assert len(read_layout(train).shards) == 3  # the only split
    layout(train, tar, pictures, as_png, split="valid")
    with pytest.raises(DataError, match=r"no split 'test', but train, valid"):
        read_layout(train)


def test_what_is_missing_or_broken_is_named(tar, pictures, as_png, tmp_path):
    folder = layout(tmp_path / "data", tar, pictures, as_png)
    (folder / "test" / "nshards.txt").write_text("5")
    with pytest.raises(DataError, match=r"lacks 2 of the 5 shards .*3.tar, 4.tar"):
        open_shards(folder)
    (folder / "test" / "nshards.txt").write_text("three")
    with pytest.raises(DataError, match="no number of shards"):
        open_shards(folder)
    (folder / "test" / "nshards.txt").write_text("3")
    (folder / "classnames.txt").write_text("a\n\nb\n")
    with pytest.raises(DataError, match="line 2 is empty"):
        read_layout(folder)
    (folder / "classnames.txt").unlink()
    (folder / "dataset_type.txt").write_text("audio")
    with pytest.raises(DataError, match="says 'audio'"):
        read_layout(folder)


def test_zero_shot_takes_names_and_templates_from_the_folder(tar, pictures, as_png, tmp_path, clip, monkeypatch):
    folder = layout(tmp_path / "data", tar, pictures, as_png)
    asked = []
    encode = type(clip).encode

    def listen(self, **given):
        asked.extend(given.get("text") or [])
        return encode(self, **given)

    monkeypatch.setattr(type(clip), "encode", listen)
    own = evaluate(clip, str(folder), tasks=["zero-shot"]).metrics["data"]
    assert set(asked) == {f"a photo of a {name}." for name in NAMES} | {f"a drawing of the {name}" for name in NAMES}
    assert (own["num_labelled"], own["num_classes"]) == (9, 3)
    said = evaluate(
        clip,
        [str(folder / "test" / f"{number}.tar") for number in range(3)],
        tasks=["zero-shot"],
        class_names=NAMES,
        templates=["a photo of a {}.", "a drawing of the {}"],
    ).metrics["data"]
    assert own == said
    asked.clear()
    evaluate(clip, folder, tasks=["zero-shot"], class_names=["x", "y", "z"], templates=["{}"])
    assert set(asked) == {"x", "y", "z"}


def test_several_labels_a_picture_are_refused(tar, pictures, as_png, tmp_path, clip):
    folder = layout(tmp_path / "data", tar, pictures, as_png, kind="multilabel")
    with pytest.raises(EvaluationError, match="several labels a picture"):
        evaluate(clip, folder, tasks=["zero-shot"])


def test_retrieval_counts_every_caption_as_clip_benchmark_does(tar, pictures, as_png, tmp_path, clip):
    chooser = random.Random(0)
    words = ["cat", "dog", "cup", "man", "sky", "red", "blue", "old", "new", "big", "sad", "hat"]
    captions = [[" ".join(chooser.sample(words, 4)) for _ in range(chooser.randint(1, 5))] for _ in range(12)]
    folder = layout(tmp_path / "data", tar, pictures, as_png, kind="retrieval", captions=captions, sizes=(5, 7))
    found = evaluate(clip, folder, gallery=3)
    metrics = found.metrics["data"]
    flat = [(text, number) for number, own in enumerate(captions) for text in own]
    images = [pictures[number % len(pictures)][1].convert("RGB") for number in range(12)]
    with torch.no_grad():
        image = torch.nn.functional.normalize(clip.encode(image=images)["image.embedding"].double())
        text = torch.nn.functional.normalize(clip.encode(text=[t for t, _ in flat])["text.embedding"].double())
    scores = text @ image.T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(flat)), [number for _, number in flat]] = True
    for k in (1, 5, 10):  # what CLIP_benchmark's recall_at_k > 0 comes to
        by_text = positive.gather(1, scores.topk(k, 1).indices).any(1).double().mean()
        by_image = positive.T.gather(1, scores.T.topk(k, 1).indices).any(1).double().mean()
        assert metrics[f"text_to_image_recall@{k}"] == pytest.approx(float(by_text), abs=1e-6)
        assert metrics[f"image_to_text_recall@{k}"] == pytest.approx(float(by_image), abs=1e-6)
    assert (metrics["num_texts"], metrics["num_images"]) == (len(flat), 12)
    assert metrics["chance_recall@10"] == pytest.approx(10 / 12)
    for row in found.gallery:
        owners = {number for text, number in flat if text == row["query"]}
        assert all(hit["correct"] == (int(hit["key"][1:]) in owners) for hit in row["hits"])
    one = evaluate(clip, folder, captions="one").metrics["data"]
    assert one["num_texts"] == 12


def test_all_entries_of_a_list_can_be_asked_for(tar, pictures, as_png, tmp_path, clip):
    rows = [(f"k{n}", {"png": as_png(pictures[n][1]), "json": {"captions": [f"a {n}", f"b {n}"]}}) for n in range(4)]
    rows.append(("k4", {"png": as_png(pictures[4][1]), "json": {"captions": []}}))
    shard = tar(tmp_path / "mine.tar", rows)
    found = evaluate(clip, str(shard), text="json.captions", captions="all").metrics["data"]
    assert (found["num_texts"], found["num_images"]) == (8, 4)


def test_a_recipe_may_name_such_a_folder(tar, pictures, as_png, tmp_path):
    folder = layout(tmp_path / "data", tar, pictures, as_png)
    recipe = {
        "teacher": {"name": "timm", "model": "test_efficientnet", "pretrained": False},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": "package://emoji/names-*.tar", "val": str(folder)},
        "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"}],
        "train": {"max_steps": 1},
    }
    assert check(load_recipe(recipe)) == []
