from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

import xmodal
from xmodal.adapters import create_teacher
from xmodal.data import SampleError, open_shards
from xmodal.data.decode import decode_image
from xmodal.data.formats import read_reinforced, reinforced_sample
from xmodal.data.formats.replay import OPERATIONS
from xmodal.data.reader import RawSample
from xmodal.data.stream import TrainStream
from xmodal.errors import AdapterError, DataError
from xmodal.recipes import check, load_recipe

WIDTH, VIEWS = 16, 5


class Shown:
    """A student's view: the pixels and the text that it is shown."""

    fields = ("image", "text")

    def __call__(self, sample):
        return {"image": torch.from_numpy(np.array(sample["image"])), "text": sample["text"]}

    def collate(self, items):
        return {"image": torch.stack([item["image"] for item in items]), "text": [item["text"] for item in items]}


def teacher(**options):
    return create_teacher("reinforced", **{"width": WIDTH, "teachers": 2, **options})


def stored_arrays(raw):
    """The arrays as the original loader reads them."""
    import gzip
    import io

    if "npz" in raw.members:
        return dict(np.load(io.BytesIO(raw.members["npz"])))
    found = torch.load(io.BytesIO(gzip.decompress(raw.members["pth.gz"])), weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def as_the_teacher_saw_it(raw, view, size=224):
    """The steps of the original loader, by torchvision's own functions."""
    box, operations = json.loads(json.loads(raw.members["paug.json"])["param_aug"])[view]
    image = F.resized_crop(decode_image(raw.members["jpg"]), *box, [size, size], InterpolationMode.BICUBIC)
    for number, magnitude in operations:
        image = _apply_op(image, OPERATIONS[number], magnitude, InterpolationMode.NEAREST, None)
    return np.asarray(image)


@pytest.mark.parametrize("row", [0, 3, 7])
def test_view_caption_and_embeddings_belong_together(row, reinforced_shards):
    raw = open_shards(reinforced_shards).read(row)
    arrays = stored_arrays(raw)
    captions = [raw.members["txt"].decode(), *json.loads(raw.members["syn.json"])["syn_text"]]
    seen = Counter()
    for view in range(40):
        sample = read_reinforced(raw, fields=("image", "text", "reinforced"), view=view, seed=1)
        stored = sample["reinforced"]
        assert np.array_equal(np.asarray(sample["image"]), as_the_teacher_saw_it(raw, view % VIEWS))
        assert np.array_equal(stored.image_embedding, arrays["image_emb"][view % VIEWS].astype(np.float32))
        assert np.array_equal(stored.text_embedding, arrays["text_emb"][captions.index(sample["text"])])
        assert (sample["key"], sample["shard"], sample["view"]) == (raw.key, raw.shard, view)
        seen[sample["text"]] += 1
    assert set(seen) == set(captions)
    assert 10 <= seen[captions[0]] <= 30  # half of them


def test_a_share_of_synthetic_captions_is_kept(reinforced_shards):
    raw = open_shards(reinforced_shards).read(0)
    texts = {share: [reinforced_sample(raw, v, synthetic=share).caption for v in range(30)] for share in (0.0, 1.0)}
    assert set(texts[0.0]) == {0}
    assert set(texts[1.0]) == {1, 2, 3}


def test_true_captions_may_be_several(members, pictures, tar, tmp_path):
    made = members(0, *pictures[0])
    made["json"] = json.dumps({"captions": ["one", "two"]})
    made["npz"]["text_emb"] = np.random.default_rng(0).normal(size=(5, WIDTH))
    raw = open_shards(tar(tmp_path / "a.tar", [("a", made)])).read(0)
    for view in range(10):
        stored = reinforced_sample(raw, view, text="json.captions")
        assert stored.text == ["one", "two", *json.loads(made["syn.json"])["syn_text"]][stored.caption]
        assert np.array_equal(stored.text_embedding, made["npz"]["text_emb"][stored.caption].astype(np.float32))
    with pytest.raises(SampleError, match="text_emb holds 5 captions, but there are 1 in 'txt' and 3"):
        reinforced_sample(raw)
    raw.members["json"] = json.dumps({"captions": ["one", "two \ud800"]}).encode()
    with pytest.raises(SampleError, match=r"text 'json\.captions' has half a surrogate pair"):
        reinforced_sample(raw, text="json.captions")


def test_a_stream_shows_what_the_teachers_saw(reinforced_shards):
    encoder = teacher(normalize=False)
    preprocess = {"student": Shown(), "teacher": encoder.preprocess}
    shards = open_shards(reinforced_shards)
    rows = {shards.key(number): shards.read(number) for number in range(12)}

    def batches(**options):
        stream = TrainStream(reinforced_shards, preprocess=preprocess, batch_size=6, image_size=224, seed=4, **options)
        with closing(iter(stream)) as found:
            return [*islice(found, 6)]

    made = batches(slots=1)
    for number, batch in enumerate(made):
        epoch = number // 2
        features = encoder(batch["views"]["teacher"], ["image.embedding", "text.embedding"])
        for place, key in enumerate(batch["key"]):
            raw, arrays = rows[key], stored_arrays(rows[key])
            text = batch["views"]["student"]["text"][place]
            captions = [raw.members["txt"].decode(), *json.loads(raw.members["syn.json"])["syn_text"]]
            assert batch["text"][place] == text
            pixels = batch["views"]["student"]["image"][place].numpy()
            assert np.array_equal(pixels, as_the_teacher_saw_it(raw, epoch % VIEWS))
            assert np.array_equal(features["image.embedding"][place], arrays["image_emb"][epoch % VIEWS])
            assert np.array_equal(features["text.embedding"][place], arrays["text_emb"][captions.index(text)])
    again = batches(slots=1, num_workers=2)
    for one, two in zip(made, again, strict=True):
        assert one["key"] == two["key"]
        assert all(
            torch.equal(one["views"]["teacher"][name], two["views"]["teacher"][name])
            for name in two["views"]["teacher"]
        )


def test_parts_are_the_teachers_own_and_of_length_one(reinforced_shards):
    raw = open_shards(reinforced_shards).read(8)
    encoder = teacher()
    sample = read_reinforced(raw, fields=("reinforced",))
    inputs = encoder.preprocess.collate([encoder.preprocess(sample)])
    features = encoder(inputs, encoder.taps())
    stored = torch.from_numpy(sample["reinforced"].image_embedding)
    for number in range(2):
        part = features[f"image.part.{number}"][0]
        assert torch.allclose(part, torch.nn.functional.normalize(stored[8 * number : 8 * number + 8], dim=0))
    assert torch.equal(features["image.embedding"], torch.cat([features[f"image.part.{n}"] for n in range(2)], 1))
    assert features["text.embedding"].norm() == pytest.approx(2**0.5, abs=1e-6)
    assert encoder.identity() == teacher().identity() != teacher(teachers=4).identity()


def damaged(members, **changes):
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def broken(kind, members, pictures):
    made = members(0, *pictures[0])
    arrays = made["npz"]
    nan = arrays["image_emb"].copy()
    nan[2, 3] = np.nan
    changed = {
        "no embeddings": damaged(made, npz=None),
        "no parameters": damaged(made, **{"paug.json": None}),
        "no text": damaged(made, txt=None),
        "no picture": damaged(made, jpg=None),
        "objects": damaged(made, npz={**arrays, "image_emb": np.array([[object()]], dtype=object)}),
        "one view too few": damaged(made, npz={**arrays, "image_emb": arrays["image_emb"][:-1]}),
        "one caption too many": damaged(made, **{"syn.json": json.dumps({"syn_text": ["a"] * 4})}),
        "no captions": damaged(made, **{"syn.json": json.dumps({"syn_text": [1, 2, 3]})}),
        "half a pair": damaged(made, **{"syn.json": json.dumps({"syn_text": ["a", "b", "c \ud800"]})}),
        "another width": damaged(made, npz={**arrays, "text_emb": arrays["text_emb"][:, :8]}),
        "three axes": damaged(made, npz={**arrays, "image_emb": arrays["image_emb"][:, None]}),
        "NaN": damaged(made, npz={**arrays, "image_emb": nan}),
        "another picture": damaged(made, jpg=members(9, *pictures[9])["jpg"]),
        "no crop": damaged(made, **{"paug.json": json.dumps({"param_aug": [[[0, 0, 0, 9], None]] * VIEWS})}),
    }
    return changed[kind]


MESSAGES = {
    "no embeddings": "has no embeddings .member npz or pth.gz.",
    "no parameters": "has no .paug.json",
    "no text": "has no text 'txt'",
    "no picture": "has no picture",
    "objects": "never unpickled",
    "one view too few": "image_emb holds 4 views, .paug.json the parameters of 5",
    "one caption too many": "text_emb holds 4 captions, but there are 1 in 'txt' and 4",
    "no captions": "something else than texts",
    "half a pair": "syn_text has half a surrogate pair",
    "another width": "image_emb is 16 wide and text_emb 8",
    "three axes": "not .number, width.",
    "NaN": "NaN or infinity in row 2",
    "another picture": "does not hold the stored crop",
    "no crop": "no picture holds the crop",
}


@pytest.mark.parametrize("kind", list(MESSAGES))
def test_a_broken_sample_is_replaced_and_named(kind, members, pictures, tar, tmp_path):
    samples = [("bad", broken(kind, members, pictures)), *((f"k{n}", members(n, *pictures[n])) for n in range(1, 4))]
    shard = tar(tmp_path / "a.tar", samples)
    raw = open_shards(shard).read(0)
    with pytest.raises(SampleError, match=MESSAGES[kind]):
        read_reinforced(raw, fields=("image", "text", "reinforced"))
    preprocess = {"student": Shown(), "teacher": teacher().preprocess}
    named = tmp_path / "bad_samples.jsonl"
    stream = TrainStream(
        shard, preprocess=preprocess, batch_size=4, slots=1, image_size=32, max_bad_fraction=0.5, bad_samples=named
    )
    with closing(iter(stream)) as found:
        batch = next(found)
    assert len(batch["key"]) == 4
    assert "bad" not in batch["key"]
    assert json.loads(named.read_text().splitlines()[0])["key"] == "bad"


def test_a_true_caption_need_not_be_there_for_a_student_of_pictures(members, pictures, tar, tmp_path):
    made = {name: value for name, value in members(0, *pictures[0]).items() if name != "txt"}
    raw = open_shards(tar(tmp_path / "a.tar", [("a", made)])).read(0)
    shown = [read_reinforced(raw, fields=("image", "reinforced"), view=view) for view in range(20)]
    assert {sample["reinforced"].caption for sample in shown} == {0, 1, 2, 3}
    assert all(("text" in sample) == (sample["reinforced"].caption > 0) for sample in shown)


def test_a_width_that_the_recipe_does_not_say_stops_the_run(reinforced_shards):
    preprocess = {"teacher": teacher(width=1536).preprocess}
    stream = TrainStream(reinforced_shards, preprocess=preprocess, batch_size=4, image_size=32)
    with pytest.raises(DataError, match=r"width 16, and the teacher is said to be 1536 wide.*teacher.width=16"):
        next(iter(stream))


def test_nothing_else_has_an_embedding():
    with pytest.raises(AdapterError, match="embeds no other picture"):
        teacher().encode(text=["a cat"])
    with pytest.raises(AdapterError, match="cannot make up a width of 15"):
        teacher(width=15)


def test_a_sample_without_reinforcements_says_what_it_lacks():
    with pytest.raises(SampleError, match=r"Sample 'k' of s: has no .paug.json, only png"):
        reinforced_sample(RawSample("k", "s", {"png": b""}))


def test_a_student_is_trained_without_a_teacher(reinforced_shards, tmp_path):
    run = xmodal.distill(
        teacher={"name": "reinforced", "width": WIDTH, "teachers": 2},
        student={
            "name": "clip",
            "image": {"model": "test_efficientnet", "weights": "random"},
            "text": {"num_layers": 1, "width": 32, "num_heads": 2},
            "embed_dim": 8,
        },
        data={"train": str(reinforced_shards), "image_size": 32, "num_workers": 0},
        objective=[
            {
                "loss": "soft_contrastive",
                "student": ["image.embedding", "text.embedding"],
                "teacher": [f"image.part.{number}", f"text.part.{number}"],
                "student_scale": 20,
                "teacher_scale": 20,
                "weight": 0.5,
            }
            for number in range(2)
        ],
        train={"max_steps": 3, "batch_size": 6, "device": "cpu"},
        out=tmp_path / "run",
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert run.student.modalities == ("image", "text")


def test_a_recipe_that_augments_stored_views_is_refused(reinforced_shards):
    recipe = {
        "teacher": {"name": "reinforced", "width": WIDTH, "teachers": 2},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": str(reinforced_shards), "augment": {"flip": 0.5}},
        "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.part.3"}],
        "train": {"max_steps": 1},
    }
    mistakes = {mistake.path: mistake.message for mistake in check(load_recipe(recipe))}
    assert set(mistakes) == {"data.augment", "objective.0.teacher"}
    assert "stored with its embedding" in mistakes["data.augment"]
    assert "image.part.1" in mistakes["objective.0.teacher"]
